//! Connections that reach their age say goodbye, finish what is under way, and end.

use std::io::Read;
use std::time::{Duration, Instant};

use netpoll::{Connection, DialConnection, Limits, MaxAge, Pool};

use crate::util::{Client, Gate, Journal, PATIENCE, Server, echo, eventually, modes};

/// Short, and without jitter.
const AGE: MaxAge = MaxAge { age: Duration::from_millis(50), jitter: Duration::ZERO, grace: None };

#[test]
fn an_old_connection_says_goodbye_and_closes_when_nothing_is_left() {
    for dispatch in modes() {
        let journal = Journal::default();
        let server = Server::start(
            echo()
                .on_shutdown(|(): &mut (), conn: &mut Connection| {
                    assert!(conn.is_shutting_down() && conn.handle().is_shutting_down());
                    conn.writer().write_bytes(b"goodbye");
                    Ok(())
                })
                .on_disconnect(journal.on_disconnect())
                .max_age(AGE)
                .dispatch(dispatch),
        );
        let begun = Instant::now();
        let mut client = server.connect();
        assert_eq!(client.rest(), b"goodbye");
        assert!(begun.elapsed() >= AGE.age, "it was younger");
        assert_eq!(journal.wait(1), ["Timeout"]);
        eventually("it is gone", || server.event_loop.stats().connections == 0);
    }
}

/// The callback is at work for longer than the age: its answer arrives, and so does the goodbye.
#[test]
fn what_is_under_way_at_the_age_is_finished() {
    // Long enough for the request to be read before that on a loaded machine.
    const LATER: MaxAge = MaxAge { age: Duration::from_secs(1), ..AGE };
    let (gate, told) = (Gate::default(), Journal::default());
    let (closed, entered, goodbye) = (gate.clone(), told.clone(), told.clone());
    let server = Server::start(
        netpoll::EventLoop::builder()
            .on_request(move |(): &mut (), conn: &mut Connection| {
                conn.reader().skip(5)?;
                entered.add("request");
                closed.pass();
                conn.writer().write_bytes(b"answer");
                Ok(())
            })
            .on_shutdown(move |(): &mut (), _: &mut Connection| {
                goodbye.add("goodbye");
                Ok(())
            })
            .max_age(LATER),
    );
    let mut client = server.connect();
    client.say(b"hello");
    told.wait(1);
    crate::util::quiet(1500); // more than its age
    assert_eq!(told.len(), 1);
    gate.open();
    assert_eq!(client.rest(), b"answer");
    assert_eq!(told.wait(2), ["request", "goodbye"]);
}

/// The input never becomes empty, so only the grace ends it.
#[test]
fn a_connection_that_does_not_end_in_its_grace_is_ended() {
    for dispatch in modes() {
        let journal = Journal::default();
        let server = Server::start(
            netpoll::EventLoop::builder()
                .on_request(|(): &mut (), _: &mut Connection| Ok(())) // leaves it unread
                .on_disconnect(journal.on_disconnect())
                .max_age(MaxAge { grace: Some(Duration::from_millis(50)), ..AGE })
                .dispatch(dispatch),
        );
        let mut client = server.connect();
        client.say(b"half a request");
        let _ = client.read(&mut [0]);
        assert_eq!(journal.wait(1), ["Timeout"]);
    }
}

#[test]
fn an_age_of_any_size_is_accepted_and_does_nothing_before_its_time() {
    let most = MaxAge { grace: Some(Duration::MAX), ..MaxAge::new(Duration::MAX) };
    let server = Server::start(echo().max_age(most));
    server.connect().echo(b"hello");
    let refused = echo().max_age(MaxAge::new(Duration::ZERO)).build().expect_err("0 is refused");
    assert!(refused.to_string().starts_with("max_age is 0"), "{refused}");
    assert!(echo().max_age(None).build().is_ok());
}

/// A pool lets connections go that are older than its limits say.
#[test]
fn a_pool_hands_out_no_connection_that_is_too_old() {
    let server = Server::start(echo());
    let limits = Limits { max_age: Some(AGE), ..Limits::default() };
    let dialer = netpoll::Dialer::builder().limits(limits).build().expect("good options");
    let address = server.address.to_string();
    let pool = Pool::builder().build(dialer.clone()).expect("good options");
    let first = pool.checkout("tcp", &address, PATIENCE).expect("a connection");
    let id = first.id();
    first.keep();
    let conn = dialer.dial_connection("tcp", &address, PATIENCE).expect("a connection");
    let handle = conn.handle();
    eventually("it is old", || !handle.is_active());
    assert!(handle.is_shutting_down());
    crate::util::quiet(10); // the first is older still
    let second = pool.checkout("tcp", &address, PATIENCE).expect("a connection");
    assert_ne!(second.id(), id);
}
