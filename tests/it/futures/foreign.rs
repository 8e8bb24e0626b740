//! Stream objects that are used elsewhere than in their connection's own future.

use std::sync::mpsc;
use std::thread;

use netpoll_async::AsyncConnection;

use super::server;
use crate::util::{Client, PATIENCE, modes, quiet};

/// A future on this thread alone, which parks.
fn block_on<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(future)
}

/// As an upgraded connection: the future ends, and another thread goes on with the object.
#[test]
fn a_stream_object_that_is_moved_to_another_thread_keeps_its_connection() {
    for dispatch in modes() {
        let (sender, receiver) = mpsc::channel();
        let (server, ends) = server(dispatch, move |mut conn: AsyncConnection| {
            let sender = sender.clone();
            async move {
                conn.write_all(b"upgraded").await?;
                sender.send(conn).expect("it is received");
                Ok(())
            }
        });
        let elsewhere = thread::spawn(move || {
            let conn = receiver.recv().expect("it is sent");
            block_on(super::echo(conn)).expect("it echoes");
        });
        let mut client = server.connect();
        client.hear(b"upgraded");
        quiet(5);
        assert_eq!(ends.len(), 0, "{dispatch:?}");
        for size in [1, 1000, 300_000] {
            client.echo(&vec![b'x'; size]);
        }
        client.half_close();
        assert_eq!(client.rest(), b"");
        elsewhere.join().expect("it ends");
        assert_eq!(ends.wait(1), ["Peer"]);
    }
}

#[test]
fn a_stream_object_elsewhere_is_told_of_the_end_of_its_connection() {
    for dispatch in modes() {
        let (sender, receiver) = mpsc::channel();
        let (server, ends) = server(dispatch, move |conn: AsyncConnection| {
            sender.send(conn).expect("it is received");
            async { Ok(()) }
        });
        let mut client = server.connect();
        let mut conn: AsyncConnection = receiver.recv().expect("it is sent");
        client.say(b"last words");
        let (heard_in, heard) = mpsc::channel();
        let reading = thread::spawn(move || {
            block_on(async {
                let words = conn.read_bytes().await.expect("they came").expect("no end");
                assert_eq!(words, "last words");
                heard_in.send(()).expect("the test listens");
                let closed = conn.closed();
                let error = conn.read_bytes().await.expect_err("a reset");
                closed.await;
                conn.write_all(b"x").await.expect_err("the peer is gone");
                conn.shutdown().await.expect_err("the peer is gone");
                error.kind()
            })
        });
        heard.recv_timeout(PATIENCE).expect("a reset would overtake them");
        client.reset();
        let kind = reading.join().expect("it reads");
        assert_eq!(kind, std::io::ErrorKind::ConnectionReset, "{dispatch:?}");
        assert_eq!(ends.wait(1), ["Reset"]);
    }
}

#[test]
fn halves_on_two_threads_carry_many_bytes_each_way() {
    const MANY: usize = 8 << 20;
    for dispatch in modes() {
        let (sender, receiver) = mpsc::channel();
        let (server, ends) = server(dispatch, move |conn: AsyncConnection| {
            sender.send(conn).expect("it is received");
            async { Ok(()) }
        });
        let mut client = server.connect();
        let conn = receiver.recv().expect("it is sent");
        let (mut read, mut write) = conn.split();
        let reads = thread::spawn(move || {
            block_on(async {
                let mut sum = 0;
                while let Some(bytes) = read.read_bytes().await.expect("it comes") {
                    sum += bytes.len();
                }
                sum
            })
        });
        let writes = thread::spawn(move || {
            block_on(async {
                write.write_all(&vec![b'w'; MANY]).await.expect("it is taken");
                write.shutdown().await.expect("a FIN");
            });
        });
        let mut writing = client.try_clone().expect("a descriptor");
        let fills = thread::spawn(move || {
            writing.say(&vec![b'r'; MANY]);
            writing.half_close();
        });
        assert_eq!(client.rest().len(), MANY, "{dispatch:?}");
        assert_eq!(reads.join().expect("it reads"), MANY);
        writes.join().expect("it writes");
        fills.join().expect("it fills");
        assert_eq!(ends.wait(1), ["Peer"]);
    }
}

/// What was written in a poll comes before what another thread writes after it.
#[test]
fn what_was_staged_in_a_poll_comes_first_however_the_half_moves() {
    for dispatch in modes() {
        let (sender, receiver) = mpsc::channel();
        let (server, _) = server(dispatch, move |mut conn: AsyncConnection| {
            let sender = sender.clone();
            async move {
                for n in 0..1000_u32 {
                    conn.write_all(&n.to_be_bytes()).await?;
                }
                sender.send(conn).expect("it is received");
                // The other thread writes while this poll goes on.
                thread::yield_now();
                Ok(())
            }
        });
        let elsewhere = thread::spawn(move || {
            while let Ok(mut conn) = receiver.recv() {
                block_on(async {
                    for n in 1000..2000_u32 {
                        conn.write_all(&n.to_be_bytes()).await.expect("it is taken");
                    }
                });
            }
        });
        let expected: Vec<u8> = (0..2000_u32).flat_map(u32::to_be_bytes).collect();
        for _ in 0..20 {
            assert!(server.connect().rest() == expected, "{dispatch:?}");
        }
        drop(server);
        elsewhere.join().expect("it ends");
    }
}
