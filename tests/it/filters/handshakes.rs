//! Handshakes: between `on_prepare` and `on_connect`, in time, and not too many at once.

use std::io::{Read, Write};
use std::time::Duration;

use netpoll::{
    CloseReason, Connection, Dispatch, EventLoop, EventLoopBuilder, Listener, ProxyProtocol,
};

use super::serve;
use crate::toy::{DATA, DONE, HELLO, Toy, ToyClient, Toys};
use crate::util::{
    Client, Journal, Serving, connect, echo_once, eventually, inet, modes, noise, quiet,
};

/// An echo that enters each callback.
fn journalling(journal: &Journal) -> EventLoopBuilder {
    let [prepared, connected, requested, ended] = [(); 4].map(|()| journal.clone());
    EventLoop::builder()
        .on_prepare(move |conn: &Connection| {
            prepared.add("prepare");
            // Sent before there is anything to seal it with: it waits.
            conn.handle().send(b"early".as_slice())
        })
        .on_connect(move |(): &mut (), _: &mut Connection| {
            connected.add("connect");
            Ok(())
        })
        .on_request(move |(): &mut (), conn: &mut Connection| {
            requested.add(format!("request of {}", conn.reader().len()));
            echo_once(conn)
        })
        .on_disconnect(move |(): (), reason: &CloseReason| ended.add(reason.to_string()))
}

#[test]
fn nothing_is_sent_before_the_handshake_and_no_callback_runs_in_it() {
    for dispatch in modes() {
        let journal = Journal::default();
        let (_serving, address) = serve(journalling(&journal).dispatch(dispatch), Toys::default());
        let mut client = ToyClient::over(connect(address), Toy::new(true));
        assert_eq!(journal.wait(1), ["prepare"]);
        quiet(20);
        client.socket.set_nonblocking(true).expect("an option");
        assert!(client.socket.read(&mut [0]).is_err(), "{dispatch:?}: sent in plain");
        client.socket.set_nonblocking(false).expect("an option");
        assert_eq!(journal.len(), 1, "{dispatch:?}");
        client.shake_hands().expect("a handshake");
        assert_eq!(client.hear(5).expect("it has waited"), b"early");
        client.echo(b"hello");
        client.finish().expect("an end");
        let told = ["prepare", "connect", "request of 5", "closed by the peer"];
        assert_eq!(journal.wait(4), told, "{dispatch:?}");
    }
}

/// The last flight of the handshake, requests, and the end, in one segment.
#[test]
fn what_comes_together_with_the_handshake_is_served_after_on_connect() {
    for dispatch in modes() {
        let journal = Journal::default();
        let (_serving, address) = serve(journalling(&journal).dispatch(dispatch), Toys::default());
        let mut socket = connect(address);
        let toy = Toy::new(true);
        let mut all = toy.record(HELLO, b"");
        all.extend(toy.record(DONE, b""));
        all.extend(toy.record(DATA, b"at once"));
        socket.write_all(&all).expect("sent");
        // Nothing follows: no event tells of what came with the handshake.
        assert_eq!(journal.wait(3), ["prepare", "connect", "request of 7"], "{dispatch:?}");
        socket.write_all(&toy.record(crate::toy::END, b"")).expect("sent");
        assert_eq!(journal.wait(4)[3], "closed by the peer", "{dispatch:?}");
        assert_eq!(socket.rest()[0], HELLO);
    }
}

#[test]
fn a_handshake_that_takes_too_long_is_refused() {
    for dispatch in modes() {
        // One says nothing, one a part, one all but the end; one has no first byte to tell.
        for (said, or_plain) in [(0, false), (3, false), (7, false), (0, true)] {
            let journal = Journal::default();
            let toys =
                Toys { timeout: Some(Duration::from_millis(60)), or_plain, ..Toys::default() };
            let (serving, address) = serve(journalling(&journal).dispatch(dispatch), toys);
            let mut socket = connect(address);
            let hello = Toy::new(true).record(HELLO, b"");
            socket.write_all(&hello[..said]).expect("sent");
            let told = ["prepare", "timed out waiting for the end of the handshake"];
            assert_eq!(journal.wait(2), told, "{dispatch:?}");
            let _ = socket.read_to_end(&mut Vec::new());
            eventually("it is counted", || serving.event_loop.stats().refused == 1);
        }
    }
}

/// The time of the handshake does not go on after it.
#[test]
fn a_connection_outlives_the_time_of_its_handshake() {
    let toys = Toys { timeout: Some(Duration::from_millis(100)), ..Toys::default() };
    let (_serving, address) = serve(crate::util::echo(), toys);
    let mut client = ToyClient::connect(address);
    quiet(250);
    client.echo(b"still here");
}

#[test]
fn above_max_handshakes_further_ones_are_refused() {
    for dispatch in modes() {
        let journal = Journal::default();
        let toys = Toys { max_handshakes: Some(2), ..Toys::default() };
        let (serving, address) = serve(journalling(&journal).dispatch(dispatch), toys);
        let mut under_way = [connect(address), connect(address)];
        journal.wait(2);
        let mut third = connect(address);
        let _ = third.read_to_end(&mut Vec::new());
        let told = "as many handshakes were under way as max_handshakes allows";
        assert_eq!(journal.wait(4)[3], told, "{dispatch:?}");
        assert_eq!(serving.event_loop.stats().refused, 1);
        // One fails, one succeeds: both make room.
        under_way[0].write_all(&[0; 100]).expect("sent");
        let _ = under_way[0].read_to_end(&mut Vec::new());
        let [_, second] = under_way;
        let mut second = ToyClient::over(second, Toy::new(true));
        second.shake_hands().expect("a handshake");
        journal.wait(6);
        let _others = [connect(address), connect(address)];
        journal.wait(8);
        assert_eq!(serving.event_loop.stats().refused, 2, "{dispatch:?}: the failed one counts");
    }
}

#[test]
fn a_refusal_to_make_a_filter_closes_the_connection() {
    for dispatch in modes() {
        let journal = Journal::default();
        let toys = Toys { refuses: true, ..Toys::default() };
        let (serving, address) = serve(journalling(&journal).dispatch(dispatch), toys);
        let mut client = connect(address);
        assert!(client.rest().is_empty());
        let told = ["prepare", "a callback returned an error: no filter for this one"];
        assert_eq!(journal.wait(2), told, "{dispatch:?}");
        assert_eq!(serving.event_loop.stats().refused, 1);
    }
}

/// A connection in its handshake ends at once at a shutdown, or when a handle closes it.
#[test]
fn a_shutdown_does_not_wait_for_handshakes() {
    for dispatch in modes() {
        let journal = Journal::default();
        let (serving, address) = serve(journalling(&journal).dispatch(dispatch), Toys::default());
        let _silent = connect(address);
        let mut begun = connect(address);
        journal.wait(2);
        begun.write_all(&Toy::new(true).record(HELLO, b"")).expect("sent");
        begun.read_exact(&mut [0; 7]).expect("a hello");
        let report = serving.stop();
        assert_eq!(report.aborted, 0, "{dispatch:?}");
        assert_eq!(journal.wait(4)[2..], ["the event loop shut down"; 2], "{dispatch:?}");
    }
}

#[test]
fn a_close_in_the_handshake_ends_it() {
    for dispatch in modes() {
        let journal = Journal::default();
        let (told, handles) = std::sync::mpsc::channel();
        let builder = EventLoop::builder()
            .on_prepare(move |conn: &Connection| {
                let _ = told.send(conn.handle());
                Ok(())
            })
            .on_request(|(): &mut (), _: &mut Connection| Ok(()))
            .on_disconnect(journal.on_disconnect())
            .dispatch(dispatch);
        let (_serving, address) = serve(builder, Toys::default());
        let mut client = connect(address);
        let handle = super::next(&handles);
        handle.send(b"never sent".as_slice()).expect("it is queued");
        handle.close();
        let _ = client.read_to_end(&mut Vec::new());
        assert_eq!(journal.wait(1), ["Local"], "{dispatch:?}");
    }
}

#[test]
fn a_proxy_header_comes_before_the_handshake() {
    let (told, peers) = std::sync::mpsc::channel();
    let listener = Listener::bind("tcp", "127.0.0.1:0").expect("a port");
    let address = inet(&listener);
    let listener = listener
        .proxy_protocol(ProxyProtocol::default())
        .filter(std::sync::Arc::new(Toys::default()));
    let builder = EventLoop::builder()
        .on_connect(move |(): &mut (), conn: &mut Connection| {
            let _ = told.send((conn.peer_addr().to_string(), conn.local_addr()?.to_string()));
            Ok(())
        })
        .on_request(|(): &mut (), conn: &mut Connection| echo_once(conn));
    let _serving = Serving::start(builder.build().expect("options"), listener);
    let mut socket = connect(address);
    socket.write_all(b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 443\r\n").expect("sent");
    let mut client = ToyClient::over(socket, Toy::new(true));
    client.shake_hands().expect("a handshake");
    client.echo(noise(5, 10_000));
    assert_eq!(super::next(&peers), ("192.0.2.1:1000".into(), "192.0.2.2:443".into()));
}

/// A handshake is computing, which no mode may turn into a stop of its loop for good.
#[test]
fn many_handshakes_at_once_all_succeed() {
    for dispatch in [Dispatch::Inline, crate::util::hand_off()] {
        let (_serving, address) =
            serve(crate::util::echo().dispatch(dispatch).loops(2), Toys::default());
        let clients: Vec<_> = (0..8)
            .map(|number| {
                std::thread::spawn(move || {
                    for round in 0..20 {
                        ToyClient::connect(address).echo(noise(number * 100 + round, 1000));
                    }
                })
            })
            .collect();
        for client in clients {
            client.join().expect("each is served");
        }
    }
}
