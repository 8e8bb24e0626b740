//! How a future and its connection end each other.

use std::io;
use std::time::Duration;

use netpoll::{Connection, Error, Result};
use netpoll_async::AsyncConnection;

use super::{Event, OnDrop, echo, server};
use crate::util::{Client, Count, Gate, Journal, eventually, modes, quiet};

#[test]
fn a_future_that_returns_closes_in_order_and_what_it_wrote_is_sent() {
    for dispatch in modes() {
        let (server, ends) = server(dispatch, |mut conn: AsyncConnection| async move {
            conn.read_exact(&mut [0]).await?;
            conn.write_all(&vec![b'x'; 3 << 20]).await
        });
        let mut client = server.connect();
        client.say(b"?");
        assert_eq!(client.rest().len(), 3 << 20);
        assert_eq!(ends.wait(1), ["Local"], "{dispatch:?}");
    }
}

#[test]
fn an_error_is_the_reason_and_drops_what_was_not_flushed() {
    for dispatch in modes() {
        let (server, ends) = server(dispatch, |mut conn: AsyncConnection| async move {
            conn.read_exact(&mut [0]).await?;
            conn.write_all(b"flushed").await?;
            conn.flush().await?;
            conn.write_all(b"not flushed").await?;
            Err(Error::from(io::Error::other("on purpose")))
        });
        let mut client = server.connect();
        client.say(b"?");
        assert_eq!(client.rest(), b"flushed");
        assert_eq!(ends.wait(1), ["Callback"], "{dispatch:?}");
    }
}

#[test]
fn a_panic_ends_its_connection_and_nothing_else() {
    for dispatch in modes() {
        let journal = Journal::default();
        let dropped = journal.clone();
        let (server, ends) = server(dispatch, move |mut conn: AsyncConnection| {
            let on_drop = OnDrop(dropped.clone(), "dropped");
            async move {
                let _on_drop = on_drop;
                while let Some(bytes) = conn.read_bytes().await? {
                    assert!(bytes != "!", "on purpose");
                    conn.write_bytes(bytes).await?;
                }
                Ok(())
            }
        });
        let (mut other, mut panics) = (server.connect(), server.connect());
        other.echo(b"before");
        panics.say(b"!");
        let _ = io::Read::read_to_end(&mut panics, &mut Vec::new());
        assert_eq!(ends.wait(1), ["Panic"], "{dispatch:?}");
        assert_eq!(journal.wait(1), ["dropped"]);
        other.echo(b"after");
    }
}

#[test]
fn a_destructor_that_panics_when_a_future_is_dropped_ends_nothing_else() {
    struct Fails;

    impl Drop for Fails {
        fn drop(&mut self) {
            panic!("on purpose, in a destructor");
        }
    }

    for dispatch in modes() {
        let event = Event::default();
        let awaited = event.clone();
        let (server, ends) = server(dispatch, move |mut conn: AsyncConnection| {
            let event = awaited.clone();
            async move {
                let mut first = [0];
                conn.read_exact(&mut first).await?;
                if first == *b"!" {
                    let _fails = Fails;
                    event.await;
                }
                echo(conn).await
            }
        });
        let (mut client, mut other) = (server.connect(), server.connect());
        client.say(b"!");
        eventually("the future waits", || event.is_awaited());
        client.reset();
        assert_eq!(ends.wait(1), ["Reset"], "{dispatch:?}");
        other.say(b"?");
        other.echo(b"hello");
    }
}

#[test]
fn a_reset_fails_the_read_that_waits_and_the_future_runs_to_its_end() {
    for dispatch in modes() {
        let journal = Journal::default();
        let told_by = journal.clone();
        let (server, ends) = server(dispatch, move |mut conn: AsyncConnection| {
            let told = told_by.clone();
            async move {
                conn.write_all(b"hello").await?;
                let outcome = loop {
                    match conn.read_bytes().await {
                        Ok(Some(_)) => {}
                        Ok(None) => break "the end".to_owned(),
                        Err(error) => break format!("{:?}", error.kind()),
                    }
                };
                told.add(outcome);
                told.add("cleaned up");
                Ok(())
            }
        });
        let mut client = server.connect();
        client.hear(b"hello");
        client.reset();
        let outcome = journal.wait(2);
        assert_eq!(outcome, ["ConnectionReset", "cleaned up"], "{dispatch:?}");
        assert_eq!(ends.wait(1).len(), 1);
    }
}

#[test]
fn a_reset_drops_a_future_that_waits_for_something_else() {
    for dispatch in modes() {
        let (journal, event) = (Journal::default(), Event::default());
        let (dropped, awaited) = (journal.clone(), event.clone());
        let (server, ends) = server(dispatch, move |mut conn: AsyncConnection| {
            let (on_drop, event) = (OnDrop(dropped.clone(), "dropped"), awaited.clone());
            async move {
                let _on_drop = on_drop;
                conn.read_exact(&mut [0]).await?;
                event.await;
                unreachable!("it never happens");
            }
        });
        let mut client = server.connect();
        client.say(b"?");
        eventually("the future waits", || event.is_awaited());
        client.reset();
        assert_eq!(journal.wait(1), ["dropped"], "{dispatch:?}");
        assert_eq!(ends.wait(1), ["Reset"]);
        // A wake that comes late does nothing.
        event.happen();
    }
}

#[test]
fn closed_tells_a_future_of_a_reset() {
    for dispatch in modes() {
        let journal = Journal::default();
        let told = journal.clone();
        let (server, _) = server(dispatch, move |mut conn: AsyncConnection| {
            let told = told.clone();
            async move {
                conn.read_exact(&mut [0]).await?;
                let closed = conn.closed();
                told.add("asks");
                closed.await;
                told.add("told");
                Ok(())
            }
        });
        let mut client = server.connect();
        client.say(b"?");
        assert_eq!(journal.wait(1), ["asks"]);
        client.reset();
        assert_eq!(journal.wait(2), ["asks", "told"], "{dispatch:?}");
    }
}

#[test]
fn a_handle_that_closes_ends_the_future() {
    for dispatch in modes() {
        let (journal, handles) = (Journal::default(), Journal::default());
        let (dropped, known) = (journal.clone(), handles.clone());
        let handle = std::sync::Arc::new(std::sync::Mutex::new(None));
        let given = handle.clone();
        let (server, ends) = server(dispatch, move |conn: AsyncConnection| {
            let on_drop = OnDrop(dropped.clone(), "dropped");
            *crate::util::lock(&given) = Some(conn.handle());
            known.add("known");
            let told = dropped.clone();
            async move {
                let _on_drop = on_drop;
                let outcome = echo(conn).await;
                told.add(if matches!(outcome, Err(Error::Closed)) { "is told" } else { "is not" });
                outcome
            }
        });
        let mut client = server.connect();
        client.echo(b"hello");
        handles.wait(1);
        crate::util::lock(&handle).take().expect("it is known").close();
        assert_eq!(client.rest(), b"");
        assert_eq!(ends.wait(1), ["Local"], "{dispatch:?}");
        // It is polled a last time, and sees why it ends.
        assert_eq!(journal.wait(2), ["is told", "dropped"]);
    }
}

/// A future of a user may not be whole after a panic.
#[test]
fn a_future_that_has_panicked_is_not_polled_again() {
    for dispatch in modes() {
        let polls = Count::default();
        let counted = polls.clone();
        let (server, ends) = server(dispatch, move |conn: AsyncConnection| {
            let polls = counted.clone();
            std::future::poll_fn(move |_| -> std::task::Poll<Result<()>> {
                let _held = &conn;
                polls.add();
                panic!("on purpose");
            })
        });
        let mut client = server.connect();
        let _ = io::Read::read_to_end(&mut client, &mut Vec::new());
        assert_eq!(ends.wait(1), ["Panic"], "{dispatch:?}");
        assert_eq!(polls.get(), 1, "{dispatch:?}");
    }
}

/// The object is dropped, and the future goes on: this side's stream ends, the connection does not.
#[test]
fn a_future_outlives_its_stream_object_and_runs_to_its_end() {
    for dispatch in modes() {
        let (event, done) = (Event::default(), Journal::default());
        let (awaited, told) = (event.clone(), done.clone());
        let (server, ends) = server(dispatch, move |mut conn: AsyncConnection| {
            let (event, told) = (awaited.clone(), told.clone());
            async move {
                conn.read_exact(&mut [0]).await?;
                conn.write_all(b"bye").await?;
                drop(conn);
                event.await;
                told.add("done");
                Ok(())
            }
        });
        let mut client = server.connect();
        client.say(b"?");
        assert_eq!(client.rest(), b"bye", "the FIN comes at once");
        drop(client);
        quiet(5);
        assert_eq!((ends.len(), done.len()), (0, 0), "{dispatch:?}");
        event.happen();
        assert_eq!(done.wait(1), ["done"]);
        assert_eq!(ends.wait(1).len(), 1);
    }
}

/// Both streams have ended, and the future computes.
#[test]
fn the_end_of_both_streams_does_not_end_a_future_at_work() {
    for dispatch in modes() {
        let (event, done) = (Event::default(), Journal::default());
        let (awaited, told) = (event.clone(), done.clone());
        let (server, ends) = server(dispatch, move |mut conn: AsyncConnection| {
            let (event, told) = (awaited.clone(), told.clone());
            async move {
                while conn.read_bytes().await?.is_some() {}
                conn.shutdown().await?;
                event.await;
                told.add("done");
                Ok(())
            }
        });
        let mut client = server.connect();
        client.half_close();
        assert_eq!(client.rest(), b"");
        eventually("the future waits", || event.is_awaited());
        quiet(5);
        assert_eq!((ends.len(), done.len()), (0, 0), "{dispatch:?}");
        event.happen();
        assert_eq!(done.wait(1), ["done"]);
        assert_eq!(ends.wait(1), ["Peer"]);
    }
}

#[test]
fn an_idle_future_times_out_as_a_callback_does_and_one_at_work_does_not() {
    for dispatch in modes() {
        let event = Event::default();
        let awaited = event.clone();
        let builder = netpoll_async::serve_async(move |mut conn: AsyncConnection| {
            let event = awaited.clone();
            async move {
                let mut first = [0];
                conn.read_exact(&mut first).await?;
                if first == *b"w" {
                    event.await;
                    conn.write_all(b"worked").await?;
                }
                echo(conn).await
            }
        });
        let builder = builder.loops(1).dispatch(dispatch).idle_timeout(Duration::from_millis(700));
        let server = crate::util::Server::start(builder);
        let (mut idle, mut works) = (server.connect(), server.connect());
        works.say(b"w");
        idle.say(b"i");
        assert_eq!(idle.rest(), b"");
        quiet(100);
        event.happen();
        works.hear(b"worked");
        assert_eq!(works.rest(), b"", "{dispatch:?}: it is idle in the end");
    }
}

/// `Handle::run` and what callbacks have besides go on, beside a future that waits.
#[test]
fn jobs_run_while_the_future_is_pending() {
    for dispatch in modes() {
        let (ran, gate) = (Count::default(), Gate::default());
        let (counted, opened) = (ran.clone(), gate.clone());
        let (server, _) = server(dispatch, move |conn: AsyncConnection| {
            let (counted, opened) = (counted.clone(), opened.clone());
            async move {
                conn.handle().run(move |_: &mut Connection| -> Result<()> {
                    counted.add();
                    opened.open();
                    Ok(())
                })?;
                echo(conn).await
            }
        });
        let mut client = server.connect();
        gate.pass();
        client.echo(b"hello");
        assert_eq!(ran.get(), 1, "{dispatch:?}");
    }
}
