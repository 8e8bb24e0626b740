//! Wakes: from any thread, coalesced, none lost; and that no future keeps its loop.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::thread;

use futures_util::future::{join, select};
use futures_util::stream::{FuturesUnordered, StreamExt};
use netpoll::Result;
use netpoll_async::AsyncConnection;

use super::{Event, echo, server};
use crate::util::{Client, Count, PATIENCE, eventually, lock, modes, quiet};

/// A number that threads raise; each raise wakes the future that waits for it.
#[derive(Default)]
struct Number {
    raised: AtomicU64,
    waker: Mutex<Option<Waker>>,
}

impl Number {
    fn raise(&self) {
        self.raised.fetch_add(1, Ordering::SeqCst);
        let waker = lock(&self.waker).clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Waits until it is more than `seen`.
    fn poll_above(&self, seen: u64, context: &Context<'_>) -> Poll<u64> {
        let mut stored = lock(&self.waker);
        if !stored.as_ref().is_some_and(|it| it.will_wake(context.waker())) {
            *stored = Some(context.waker().clone());
        }
        drop(stored);
        let now = self.raised.load(Ordering::SeqCst);
        if now > seen { Poll::Ready(now) } else { Poll::Pending }
    }
}

/// Four threads raise; the future sees the last raise of each run.
fn raise_from_four_threads(raises: u64) {
    for dispatch in modes() {
        let number = Arc::new(Number::default());
        let (watched, polls) = (number.clone(), Count::default());
        let counted = polls.clone();
        let (server, _) = server(dispatch, move |mut conn: AsyncConnection| {
            let (number, polls) = (watched.clone(), counted.clone());
            async move {
                conn.write_all(b"!").await?;
                conn.flush().await?;
                let mut seen = 0;
                while seen < raises {
                    seen = poll_fn(|context| {
                        polls.add();
                        number.poll_above(seen, context)
                    })
                    .await;
                }
                conn.write_all(&seen.to_be_bytes()).await
            }
        });
        let mut client = server.connect();
        client.hear(b"!");
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let number = number.clone();
                thread::spawn(move || (0..raises / 4).for_each(|_| number.raise()))
            })
            .collect();
        client.hear(&raises.to_be_bytes());
        for thread in threads {
            thread.join().expect("it raises");
        }
        assert!(polls.get() as u64 <= 2 * raises + 2, "{} polls", polls.get());
    }
}

#[test]
fn no_wake_of_four_threads_is_lost() {
    raise_from_four_threads(40_000);
}

#[test]
#[ignore = "10 million wakes in each mode; takes a minute"]
fn none_of_ten_million_wakes_of_four_threads_is_lost() {
    raise_from_four_threads(10_000_000);
}

#[test]
fn a_request_polls_its_future_once() {
    for dispatch in modes() {
        let polls = Count::default();
        let counted = polls.clone();
        let (server, _) = server(dispatch, move |conn: AsyncConnection| {
            let polls = counted.clone();
            async move {
                let mut future = pin!(echo(conn));
                poll_fn(|context| {
                    polls.add();
                    future.as_mut().poll(context)
                })
                .await
            }
        });
        let mut client = server.connect();
        client.echo(b"first");
        let before = polls.get();
        for _ in 0..50 {
            client.echo(b"hello");
        }
        assert_eq!(polls.get() - before, 50, "{dispatch:?}");
    }
}

/// `FuturesUnordered` has a waker of its own for each of its futures.
#[test]
fn wakers_of_an_executor_inside_the_future_are_woken() {
    for dispatch in modes() {
        let (server, _) = server(dispatch, |conn: AsyncConnection| async move {
            let mut all = FuturesUnordered::new();
            let (mut read, mut write) = conn.split();
            let (sender, receiver) = std::sync::mpsc::channel();
            let noted = Event::default();
            let told = noted.clone();
            all.push(Box::pin(async move {
                while let Some(bytes) = read.read_bytes().await? {
                    sender.send(bytes).expect("it is received");
                    told.happen();
                }
                drop(sender);
                told.happen();
                Ok(())
            }) as Pin<Box<dyn Future<Output = Result<()>> + Send>>);
            all.push(Box::pin(async move {
                noted.await;
                loop {
                    match receiver.try_recv() {
                        Ok(bytes) => write.write_bytes(bytes).await?,
                        Err(std::sync::mpsc::TryRecvError::Empty) => {
                            write.flush().await?;
                            next_poll().await;
                        }
                        Err(std::sync::mpsc::TryRecvError::Disconnected) => return Ok(()),
                    }
                }
            }));
            while let Some(outcome) = all.next().await {
                outcome?;
            }
            Ok(())
        });
        let mut client = server.connect();
        client.echo(b"hello");
        client.echo(b"again");
        client.half_close();
        assert_eq!(client.rest(), b"", "{dispatch:?}");
    }
}

/// Pending once, and woken at once.
async fn next_poll() {
    let mut is_second = false;
    poll_fn(|context| {
        if std::mem::replace(&mut is_second, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[test]
fn a_future_that_is_always_ready_does_not_keep_its_loop() {
    for dispatch in modes() {
        let (server, _) = server(dispatch, |mut conn: AsyncConnection| async move {
            let mut first = [0];
            conn.read_exact(&mut first).await?;
            match first {
                // Polled again for ever.
                [b'y'] => loop {
                    next_poll().await;
                },
                // Writes for ever, to a peer that takes all.
                [b'w'] => loop {
                    conn.write_all(&[b'x'; 1000]).await?;
                    conn.flush().await?;
                },
                _ => echo(conn).await,
            }
        });
        let mut yields = server.connect();
        yields.say(b"y");
        let mut taken = server.connect();
        taken.say(b"w");
        let taking = thread::spawn(move || {
            let mut all = 0;
            let mut some = vec![0; 1 << 16];
            while let Ok(n @ 1..) = std::io::Read::read(&mut taken, &mut some) {
                all += n;
            }
            all
        });
        let mut other = server.connect();
        other.say(b"e");
        for _ in 0..100 {
            other.echo(b"meanwhile");
        }
        server.event_loop.shutdown(std::time::Duration::ZERO);
        drop(server);
        assert!(taking.join().expect("it takes") > 0, "{dispatch:?}");
    }
}

#[test]
fn one_future_waits_for_bytes_and_for_an_event_at_once() {
    for dispatch in modes() {
        let event = Event::default();
        let awaited = event.clone();
        let (server, _) = server(dispatch, move |conn: AsyncConnection| {
            let event = awaited.clone();
            async move {
                let (mut read, mut write) = conn.split();
                let mut event = event;
                loop {
                    let bytes = pin!(read.read_bytes());
                    match select(bytes, &mut event).await {
                        futures_util::future::Either::Left((bytes, _)) => match bytes? {
                            Some(bytes) => write.write_bytes(bytes).await?,
                            None => return Ok(()),
                        },
                        futures_util::future::Either::Right(_) => break,
                    }
                }
                let ((), ()) = join(next_poll(), next_poll()).await;
                write.write_all(b"event").await
            }
        });
        let mut client = server.connect();
        client.echo(b"hello");
        eventually("it waits", || event.is_awaited());
        event.happen();
        assert_eq!(client.rest(), b"event", "{dispatch:?}");
    }
}

/// The waker of a connection that has ended, and whose future was dropped.
#[test]
fn a_waker_that_outlives_its_connection_does_nothing() {
    for dispatch in modes() {
        let kept = Arc::new(Mutex::new(None));
        let keeps = kept.clone();
        let (server, ends) = server(dispatch, move |mut conn: AsyncConnection| {
            let keeps = keeps.clone();
            async move {
                poll_fn(|context| {
                    *lock(&keeps) = Some(context.waker().clone());
                    Poll::Ready(())
                })
                .await;
                conn.read_bytes().await.map(drop)
            }
        });
        let mut client = server.connect();
        client.half_close();
        assert_eq!(client.rest(), b"");
        assert_eq!(ends.wait(1), ["Peer"]);
        let waker = lock(&kept).take().expect("it was polled");
        for _ in 0..100 {
            waker.wake_by_ref();
        }
        server.event_loop.shutdown(PATIENCE);
        drop(server);
        waker.wake();
        quiet(1);
    }
}
