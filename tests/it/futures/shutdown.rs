//! What a shutdown, and the age of a connection, do to futures.

use std::time::Duration;

use netpoll::MaxAge;
use netpoll_async::{AsyncConnection, serve_async};

use super::{Event, OnDrop, echo, server};
use crate::util::{Client, Journal, PATIENCE, Server, eventually, modes, quiet};

#[test]
fn an_idle_future_ends_with_the_shutdown_as_at_the_end_of_the_stream() {
    for dispatch in modes() {
        let (server, ends) = server(dispatch, echo);
        let (mut client, _silent) = (server.connect(), server.connect());
        client.echo(b"hello");
        let report = server.stop();
        assert_eq!((report.closed_in_order, report.aborted), (2, 0), "{dispatch:?}");
        assert_eq!(client.rest(), b"");
        assert_eq!(ends.wait(2), ["Shutdown", "Shutdown"]);
    }
}

/// The gap that the prototype had: four of four answers were lost.
#[test]
fn an_answer_that_is_being_made_is_sent_before_a_shutdown_ends_the_connection() {
    for dispatch in modes() {
        let events: [Event; 4] = Default::default();
        let all = events.clone();
        let made = crate::util::Count::default();
        let (server, ends) = server(dispatch, move |mut conn: AsyncConnection| {
            let event = all[made.add()].clone();
            async move {
                while let Some(bytes) = conn.read_bytes().await? {
                    event.clone().await;
                    conn.write_bytes(bytes).await?;
                }
                Ok(())
            }
        });
        let mut clients: Vec<_> = (0..4).map(|_| server.connect()).collect();
        for client in &mut clients {
            client.say(b"question");
        }
        eventually("they wait", || events.iter().all(Event::is_awaited));
        server.event_loop.shutdown(PATIENCE);
        quiet(10);
        events.iter().for_each(Event::happen);
        for client in &mut clients {
            assert_eq!(client.rest(), b"question", "{dispatch:?}");
        }
        assert_eq!(server.join().closed_in_order, 4);
        assert_eq!(ends.wait(4), ["Shutdown"; 4]);
    }
}

/// A question of which a part is here, and the rest comes after the shutdown has begun.
#[test]
fn a_question_that_is_half_here_is_answered_before_a_shutdown_ends_the_connection() {
    for dispatch in modes() {
        let (server, _) = server(dispatch, |mut conn: AsyncConnection| async move {
            let mut question = [0; 8];
            while conn.read_exact(&mut question).await.is_ok() {
                conn.write_all(&question).await?;
            }
            Ok(())
        });
        let mut client = server.connect();
        client.echo(b"question");
        client.say(b"ques");
        quiet(5);
        server.event_loop.shutdown(PATIENCE);
        quiet(5);
        client.say(b"tion");
        assert_eq!(client.rest(), b"question", "{dispatch:?}");
        assert_eq!(server.join().closed_in_order, 1);
    }
}

#[test]
fn a_future_that_asks_is_told_of_the_shutdown_and_decides() {
    for dispatch in modes() {
        let journal = Journal::default();
        let told = journal.clone();
        let (server, _) = server(dispatch, move |mut conn: AsyncConnection| {
            let told = told.clone();
            async move {
                conn.read_exact(&mut [0]).await?;
                let shutting_down = conn.shutting_down();
                told.add("asks");
                shutting_down.await;
                told.add("told");
                conn.write_all(b"goodbye").await?;
                conn.flush().await?;
                // It goes on with its peer.
                let last = conn.read_bytes().await?.expect("the last word");
                conn.write_bytes(last).await
            }
        });
        let mut client = server.connect();
        client.say(b"?");
        journal.wait(1);
        quiet(2);
        assert_eq!(journal.entries(), ["asks"]);
        server.event_loop.shutdown(PATIENCE);
        client.hear(b"goodbye");
        client.echo(b"last");
        assert_eq!(client.rest(), b"", "{dispatch:?}");
        assert_eq!(server.join().closed_in_order, 1);
    }
}

#[test]
fn the_deadline_of_a_shutdown_drops_a_future_that_does_not_end() {
    for dispatch in modes() {
        let (journal, event) = (Journal::default(), Event::default());
        let (dropped, awaited) = (journal.clone(), event.clone());
        let (server, ends) = server(dispatch, move |mut conn: AsyncConnection| {
            let (on_drop, event) = (OnDrop(dropped.clone(), "dropped"), awaited.clone());
            async move {
                let _on_drop = on_drop;
                conn.read_exact(&mut [0]).await?;
                event.await;
                Ok(())
            }
        });
        let mut client = server.connect();
        client.say(b"?");
        eventually("it waits", || event.is_awaited());
        server.event_loop.shutdown(Duration::from_millis(50));
        let report = server.join();
        assert_eq!((report.closed_in_order, report.aborted), (0, 1), "{dispatch:?}");
        assert_eq!(journal.wait(1), ["dropped"]);
        assert_eq!(ends.wait(1), ["Shutdown"]);
    }
}

#[test]
fn a_connection_that_reaches_its_age_ends_as_in_a_shutdown() {
    for dispatch in modes() {
        let ends = Journal::default();
        let told = ends.clone();
        let builder = serve_async(echo).loops(1).dispatch(dispatch);
        let age = MaxAge { jitter: Duration::ZERO, ..MaxAge::new(Duration::from_secs(1)) };
        let builder = builder.max_age(age).on_disconnect(
            move |session: netpoll_async::AsyncSession, reason: &netpoll::CloseReason| {
                session.end(reason);
                told.add(format!("{reason:?}"));
            },
        );
        let server = Server::start(builder);
        let mut client = server.connect();
        client.echo(b"hello");
        assert_eq!(client.rest(), b"");
        assert_eq!(ends.wait(1), ["Timeout(Age)"], "{dispatch:?}");
    }
}

/// The future was not woken since before the shutdown.
#[test]
fn bytes_in_the_socket_are_served_before_a_shutdown_ends_the_connection() {
    for dispatch in modes() {
        let gate = crate::util::Gate::default();
        let closed = gate.clone();
        let (server, _) = server(dispatch, move |mut conn: AsyncConnection| {
            let closed = closed.clone();
            async move {
                let mut is_first = true;
                while let Some(bytes) = conn.read_bytes().await? {
                    conn.write_bytes(bytes).await?;
                    conn.flush().await?;
                    if std::mem::replace(&mut is_first, false) {
                        closed.pass();
                    }
                }
                Ok(())
            }
        });
        let mut client = server.connect();
        client.echo(b"first");
        server.event_loop.shutdown(PATIENCE);
        client.say(b"second");
        quiet(5);
        gate.open();
        assert_eq!(client.rest(), b"second", "{dispatch:?}");
    }
}
