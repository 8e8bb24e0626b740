//! Writing: what leaves when, and what waits for the peer.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use netpoll::{Bytes, LinkBuffer};
use netpoll_async::{AsyncConnection, AsyncReadHalf, serve_async};

use super::{Event, server};
use crate::util::{Client, Count, Gate, Server, eventually, modes, quiet};

#[test]
fn a_flush_leaves_before_the_thread_of_the_poll_blocks() {
    for dispatch in modes() {
        let gate = Gate::default();
        let closed = gate.clone();
        let (server, _) = server(dispatch, move |mut conn: AsyncConnection| {
            let closed = closed.clone();
            async move {
                conn.write_all(b"flushed").await?;
                conn.flush().await?;
                closed.pass();
                Ok(())
            }
        });
        let mut client = server.connect();
        client.hear(b"flushed");
        gate.open();
        assert_eq!(client.rest(), b"", "{dispatch:?}");
    }
}

#[test]
fn what_is_written_without_a_flush_leaves_at_the_end_of_the_poll() {
    for dispatch in modes() {
        let (server, _) = server(dispatch, |mut conn: AsyncConnection| async move {
            conn.write_all(b"one ").await?;
            conn.write_bytes(Bytes::from_static(b"two ")).await?;
            let mut buffer = LinkBuffer::new();
            buffer.write_string("three");
            conn.write_buffer(buffer).await?;
            conn.write_bytes(Bytes::new()).await?;
            conn.write_buffer(LinkBuffer::new()).await?;
            Event::default().await;
            Ok(())
        });
        server.connect().hear(b"one two three");
    }
}

#[test]
fn a_write_waits_above_the_high_water_mark_and_what_is_queued_is_bounded() {
    for dispatch in modes() {
        let written = Count::default();
        let counted = written.clone();
        let builder = serve_async(move |mut conn: AsyncConnection| {
            let written = counted.clone();
            async move {
                for _ in 0..4096 {
                    conn.write_all(&[b'x'; 16 << 10]).await?;
                    written.add();
                }
                Ok::<_, netpoll::Error>(())
            }
        });
        let (low, high) = (64 << 10, 128 << 10);
        let builder = builder.loops(1).dispatch(dispatch).output_limits(low, high);
        let server = Server::start(builder);
        let mut client = server.connect();
        client.set_read_timeout(None).expect("an option");
        quiet(50);
        let mut before = written.get();
        eventually("nothing more is taken", || {
            quiet(30);
            std::mem::replace(&mut before, written.get()) == before
        });
        assert!(before < 2048, "{before} pieces were taken, and nothing reads them");
        assert_eq!(client.rest().len(), 4096 * (16 << 10), "{dispatch:?}");
    }
}

/// Timers, and reads, of a future go on while its peer takes nothing.
#[test]
fn a_wake_and_a_read_are_served_while_the_output_is_congested() {
    for dispatch in modes() {
        let (event, heard) = (Event::default(), Count::default());
        let (awaited, counted) = (event.clone(), heard.clone());
        let builder = serve_async(move |conn: AsyncConnection| {
            let (event, heard) = (awaited.clone(), counted.clone());
            async move {
                let (mut read, mut write) = conn.split();
                let handle = write.handle();
                // Pending in the end, above the mark.
                poll_fn(|context| {
                    while write.poll_write(context, &[b'x'; 4096]).is_ready() {}
                    assert!(write.poll_flush(context).is_ready(), "a flush does not wait");
                    if handle.is_congested() { Poll::Ready(()) } else { Poll::Pending }
                })
                .await;
                event.await;
                heard.add();
                let question = read.read_bytes().await?.expect("a question");
                heard.add();
                write.write_bytes(question).await?;
                write.shutdown().await?;
                Ok::<_, netpoll::Error>(())
            }
        });
        let builder = builder.loops(1).dispatch(dispatch).output_limits(64 << 10, 256 << 10);
        let server = Server::start(builder);
        let mut client = server.connect();
        eventually("the output is congested", || event.is_awaited());
        event.happen();
        eventually("the wake is served", || heard.get() == 1);
        client.say(b"?");
        eventually("the question is read", || heard.get() == 2);
        let all = client.rest();
        assert_eq!(all.last(), Some(&b'?'), "{dispatch:?}");
    }
}

/// A peer that takes nothing for the write timeout is given up.
#[test]
fn the_write_timeout_ends_a_future_whose_peer_takes_nothing() {
    for dispatch in modes() {
        let ended = Count::default();
        let counted = ended.clone();
        let builder = serve_async(move |mut conn: AsyncConnection| {
            let ended = counted.clone();
            async move {
                let error = loop {
                    if let Err(error) = conn.write_all(&[b'x'; 4096]).await {
                        break error;
                    }
                };
                assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
                ended.add();
                netpoll::Result::Err(error)
            }
        });
        let builder = builder.loops(1).dispatch(dispatch).output_limits(1 << 10, 64 << 10);
        let server = Server::start(builder.write_timeout(Duration::from_millis(100)));
        let _client = server.connect();
        eventually("it is given up", || ended.get() == 1);
    }
}

#[test]
fn the_owner_of_written_bytes_may_use_the_connection_when_it_is_dropped() {
    /// Its drop is that of a half of the connection.
    struct Owner {
        _half: AsyncReadHalf,
        bytes: Vec<u8>,
    }
    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            &self.bytes
        }
    }
    for (dispatch, length) in modes().into_iter().zip([1, 4095, 4096]) {
        let (server, _) = server(dispatch, move |conn: AsyncConnection| async move {
            let (read, mut write) = conn.split();
            let owner = Owner { _half: read, bytes: vec![b'x'; length] };
            write.write_bytes(Bytes::from_owner(owner)).await?;
            write.flush().await
        });
        assert_eq!(server.connect().rest(), vec![b'x'; length], "{dispatch:?}");
    }
}

/// Its socket takes more, and its output is empty: others have their turn all the same.
#[test]
fn one_poll_of_a_future_writes_no_more_than_its_share() {
    const SHARE: usize = 256 << 10;
    for dispatch in modes() {
        let (server, _) = server(dispatch, |mut conn: AsyncConnection| async move {
            let poll_once = poll_fn(|context| {
                let mut written = 0;
                while written <= 2 * SHARE
                    && let Poll::Ready(Ok(n)) = conn.poll_write(context, &[b'x'; 1000])
                {
                    written += n;
                    let _ = conn.poll_flush(context);
                }
                Poll::Ready(written)
            });
            let written = poll_once.await;
            assert!((SHARE..=SHARE + 1000).contains(&written), "{written} bytes in one poll");
            conn.write_all(b"done").await
        });
        let heard = server.connect().rest();
        assert!(heard.ends_with(b"done"), "{dispatch:?}: {} bytes came", heard.len());
    }
}
