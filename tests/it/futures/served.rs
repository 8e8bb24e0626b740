//! Reading and writing by a future.

use std::io::{Read, Write};
use std::sync::{Arc, Mutex};
use std::thread;

use netpoll::{Dispatch, Error, Result};
use netpoll_async::AsyncConnection;

use super::{echo, server};
use crate::util::{Client, Count, Random, eventually, lock, modes, quiet};

#[test]
fn a_future_echoes_in_each_mode_and_ends_with_the_peers_stream() {
    for dispatch in modes() {
        let (server, ends) = server(dispatch, echo);
        let mut client = server.connect();
        for round in 0..50_usize {
            client.echo(format!("round {round}").as_bytes());
        }
        client.half_close();
        assert_eq!(client.rest(), b"");
        assert_eq!(ends.wait(1), ["Peer"], "{dispatch:?}");
    }
}

#[test]
fn many_bytes_pass_both_ways_whole_and_in_order() {
    for dispatch in modes() {
        let (server, _) = server(dispatch, echo);
        let mut random = Random::new(7);
        let sent: Vec<u8> = (0..8 << 20).map(|_| random.next() as u8).collect();
        let mut client = server.connect();
        let (mut writing, all) = (client.try_clone().expect("a descriptor"), sent.clone());
        let writer = thread::spawn(move || {
            writing.write_all(&all).expect("the server reads");
            writing.half_close();
        });
        assert!(client.rest() == sent, "{dispatch:?}");
        writer.join().expect("it writes");
    }
}

/// Reads `n` bytes by `fill_buf`, `more`, `read` and `read_exact`, one after the other.
async fn read_in_each_way(mut conn: AsyncConnection) -> Result<()> {
    let first = conn.fill_buf().await?[0];
    conn.consume(1);
    while conn.buffer().len() < 4 {
        assert!(conn.more().await?);
    }
    let four = conn.buffer().read_bytes(4)?;
    let mut one = [0];
    assert_eq!(conn.read(&mut one).await?, 1);
    let mut two = [0; 2];
    conn.read_exact(&mut two).await?;
    conn.write_all(&[first]).await?;
    conn.write_bytes(four).await?;
    conn.write_all(&one).await?;
    conn.write_all(&two).await?;
    assert!(matches!(conn.read_exact(&mut two).await, Err(Error::EndOfStream)));
    assert_eq!(conn.read(&mut two).await?, 0);
    assert!(conn.fill_buf().await?.is_empty());
    assert!(!conn.more().await?);
    conn.write_all(b".").await
}

#[test]
fn each_way_to_read_takes_what_has_come_however_it_is_cut() {
    for pieces in [&[&b"abcdefgh"[..]][..], &[b"a", b"b", b"c", b"d", b"e", b"f", b"g", b"h"]] {
        for dispatch in modes() {
            let (server, _) = server(dispatch, read_in_each_way);
            let mut client = server.connect();
            for piece in pieces {
                client.say(piece);
                quiet(1);
            }
            client.half_close();
            assert_eq!(client.rest(), b"abcdefgh.");
        }
    }
}

#[test]
fn what_no_read_waits_for_stays_with_the_peer() {
    for dispatch in modes() {
        let gate = super::Event::default();
        let (opened, taken) = (gate.clone(), Count::default());
        let (counted, handle) = (taken.clone(), Arc::new(Mutex::new(None)));
        let given = handle.clone();
        let (server, _) = server(dispatch, move |mut conn: AsyncConnection| {
            let (gate, counted) = (gate.clone(), counted.clone());
            *lock(&given) = Some(conn.handle());
            async move {
                conn.read_exact(&mut [0]).await?;
                gate.await;
                while conn.read_bytes().await?.is_some() {
                    counted.add();
                }
                conn.write_all(b"all").await
            }
        });
        let mut client = server.connect();
        client.say(b"!");
        eventually("the future waits for the gate", || opened.is_awaited());
        client.set_nonblocking(true).expect("an option");
        let mut sent = 0;
        let chunk = vec![b'x'; 64 << 10];
        eventually("the kernel is full", || {
            while let Ok(n) = client.write(&chunk) {
                sent += n;
            }
            sent > 0 && {
                quiet(20);
                client.write(&chunk).map(|n| sent += n).is_err()
            }
        });
        assert!(sent < 64 << 20, "{sent} bytes were taken, and nothing reads them");
        // One receive, and not as much as may be buffered, which is 1 MiB.
        let received = lock(&handle).take().expect("it is served").bytes_received();
        assert!(received < 512 << 10, "{dispatch:?}: {received} bytes were received");
        opened.happen();
        client.set_nonblocking(false).expect("an option");
        client.half_close();
        let mut answer = String::new();
        client.read_to_string(&mut answer).expect("it comes");
        assert_eq!(answer, "all", "{dispatch:?}");
        assert!(taken.get() > 0);
    }
}

#[test]
fn a_split_connection_is_read_and_written_by_two_parts_of_one_future() {
    for dispatch in modes() {
        let (server, ends) = server(dispatch, |conn| async move {
            let (mut read, mut write) = conn.split();
            while let Some(bytes) = read.read_bytes().await? {
                write.write_bytes(bytes).await?;
            }
            drop(read);
            write.write_all(b" and the end").await?;
            write.flush().await
        });
        let mut client = server.connect();
        client.echo(b"hello");
        client.half_close();
        assert_eq!(client.rest(), b" and the end");
        assert_eq!(ends.wait(1), ["Peer"]);
    }
}

/// Under `Dispatch::Pool` and `HandOff` the thread of a poll may block; others go on.
#[test]
fn a_poll_that_blocks_holds_up_no_other_connection() {
    for dispatch in [crate::util::pool(), crate::util::hand_off()] {
        let gate = crate::util::Gate::default();
        let closed = gate.clone();
        let (server, _) = server(dispatch, move |mut conn: AsyncConnection| {
            let closed = closed.clone();
            async move {
                while let Some(bytes) = conn.read_bytes().await? {
                    if bytes[0] == b'!' {
                        closed.pass();
                    }
                    conn.write_bytes(bytes).await?;
                }
                Ok(())
            }
        });
        let (mut blocked, mut other) = (server.connect(), server.connect());
        other.echo(b"before");
        blocked.say(b"!");
        for _ in 0..20 {
            other.echo(b"meanwhile");
        }
        gate.open();
        blocked.hear(b"!");
    }
}

#[test]
fn a_panic_where_the_future_is_made_ends_its_connection_alone() {
    let made = Count::default();
    let (server, ends) = server(Dispatch::Inline, move |conn: AsyncConnection| {
        assert!(made.add() > 0, "on purpose");
        echo(conn)
    });
    let _ = server.connect().read_to_end(&mut Vec::new());
    assert_eq!(ends.wait(1), ["Panic"]);
    server.connect().echo(b"hello");
}
