//! What careless futures and hostile peers do to connections.

use std::future::{pending, poll_fn};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Poll, Waker};
use std::thread;
use std::time::Duration;

use netpoll::Dispatch;
use netpoll_async::{AsyncConnection, sleep, try_block_on};

use super::{OnDrop, echo, server};
use crate::util::{Client, Journal, PATIENCE, eventually, lock, modes};

/// Pending for ever, and woken at once by each poll.
async fn wakes_itself() {
    poll_fn(|context| {
        context.waker().wake_by_ref();
        Poll::<()>::Pending
    })
    .await;
}

#[test]
fn a_future_that_wakes_itself_for_ever_ends_with_its_connection() {
    for dispatch in modes() {
        let dropped = Journal::default();
        let drops = dropped.clone();
        let (server, ends) = server(dispatch, move |mut conn: AsyncConnection| {
            let on_drop = OnDrop(drops.clone(), "dropped");
            async move {
                let mut first = [0];
                conn.read_exact(&mut first).await?;
                if first == *b"!" {
                    let _on_drop = on_drop;
                    wakes_itself().await;
                }
                echo(conn).await
            }
        });
        let (mut resets, mut stays, mut other) =
            (server.connect(), server.connect(), server.connect());
        resets.say(b"!");
        stays.say(b"!");
        other.say(b"?");
        other.echo(b"it is served beside them");
        resets.reset();
        assert_eq!(dropped.wait(1), ["dropped"], "{dispatch:?}");
        assert_eq!(ends.wait(1), ["Reset"]);
        other.echo(b"still");
        other.half_close();
        assert_eq!(other.rest(), b"");
        assert_eq!(ends.wait(2), ["Reset", "Peer"]);
        // The deadline of the shutdown ends the other one.
        server.event_loop.shutdown(Duration::from_millis(50));
        assert_eq!(server.join().aborted, 1);
        assert_eq!(dropped.wait(3).len(), 3);
    }
}

/// The wakes of four threads meet the end of the connection, by a reset and in order.
#[test]
fn wakes_of_four_threads_race_with_the_end() {
    const ROUNDS: usize = 30;
    for dispatch in modes() {
        let (dropped, wakers) = (Journal::default(), Arc::new(Mutex::new(Vec::<Waker>::new())));
        let (drops, gives) = (dropped.clone(), wakers.clone());
        let (server, ends) = server(dispatch, move |mut conn: AsyncConnection| {
            let (on_drop, gives) = (OnDrop(drops.clone(), "dropped"), gives.clone());
            async move {
                let _on_drop = on_drop;
                poll_fn(|context| {
                    lock(&gives).push(context.waker().clone());
                    Poll::Ready(())
                })
                .await;
                conn.write_all(b"!").await?;
                conn.flush().await?;
                conn.read_bytes().await.map(drop)
            }
        });
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        let waker = lock(&wakers).last().cloned();
                        waker.iter().for_each(Waker::wake_by_ref);
                        thread::yield_now();
                    }
                });
            }
            for round in 0..ROUNDS {
                let mut client = server.connect();
                client.hear(b"!");
                if round % 2 == 0 {
                    client.reset();
                } else {
                    client.half_close();
                    assert_eq!(client.rest(), b"");
                }
            }
            dropped.wait(ROUNDS);
            stop.store(true, Ordering::Relaxed);
        });
        ends.wait(ROUNDS);
        assert_eq!((dropped.len(), ends.len()), (ROUNDS, ROUNDS), "{dispatch:?}: once each");
    }
}

/// Both halves at once, each on a thread of its own, while the future ends.
#[test]
fn halves_that_are_dropped_on_other_threads_close_their_connection() {
    for dispatch in modes() {
        let (server, ends) = server(dispatch, |mut conn: AsyncConnection| async move {
            conn.write_all(b"bye").await?;
            let (read, write) = conn.split();
            thread::spawn(move || drop(read));
            thread::spawn(move || drop(write));
            Ok(())
        });
        for _ in 0..30 {
            assert_eq!(server.connect().rest(), b"bye", "{dispatch:?}");
        }
        assert_eq!(ends.wait(30), ["Local"; 30]);
    }
}

#[test]
fn a_future_of_a_connection_may_block_on_what_its_own_loop_wakes() {
    for dispatch in modes() {
        let may_wait = !matches!(dispatch, Dispatch::Inline);
        let (server, _) = server(dispatch, move |mut conn: AsyncConnection| async move {
            let outcome = try_block_on(async {
                // In itself, too.
                try_block_on(sleep(Duration::from_millis(1)))
            });
            match outcome.and_then(|inner| inner) {
                Ok(()) if may_wait => {}
                Err(error) if !may_wait => assert!(error.to_string().contains("wait"), "{error}"),
                other => panic!("{other:?}"),
            }
            conn.write_all(b"done").await
        });
        assert_eq!(server.connect().rest(), b"done", "{dispatch:?}");
    }
}

/// It neither ends nor asks, and a poll of it blocks when the deadline comes.
#[test]
fn a_poll_that_blocks_over_the_deadline_is_waited_for_and_its_future_dropped() {
    let (go_on, may_go_on) = mpsc::channel::<()>();
    let (may_go_on, dropped) = (Arc::new(Mutex::new(may_go_on)), Journal::default());
    let (begun, drops) = (Arc::new(AtomicBool::new(false)), dropped.clone());
    let begins = begun.clone();
    let (server, ends) = server(crate::util::hand_off(), move |conn: AsyncConnection| {
        let (may_go_on, begins) = (may_go_on.clone(), begins.clone());
        let on_drop = OnDrop(drops.clone(), "dropped");
        async move {
            let _held = (conn, on_drop);
            begins.store(true, Ordering::SeqCst);
            let _ = lock(&may_go_on).recv_timeout(PATIENCE);
            pending::<()>().await;
            Ok(())
        }
    });
    let _client = server.connect();
    eventually("the poll blocks", || begun.load(Ordering::SeqCst));
    server.event_loop.shutdown(Duration::from_millis(10));
    assert_eq!(dropped.len(), 0, "a poll is never cut off");
    go_on.send(()).expect("it waits");
    assert_eq!(dropped.wait(1), ["dropped"]);
    ends.wait(1);
}
