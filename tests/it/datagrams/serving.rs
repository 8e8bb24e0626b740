//! Datagrams on loops: which of them serves a peer, together with streams, up to the shutdown.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use netpoll::{
    DatagramBatch, DatagramHandle, DatagramLimits, Datagrams, Dispatch, Error, EventLoop, Listener,
    Listeners, Running, TurnLimits,
};

use super::{
    answer_all, any_port, client_of, echo, echoing, heard, inet, serve, serve_with_handle,
};
use crate::util::{Client, Count, Gate, PATIENCE, connect, eventually, modes};

/// A server that answers with the number of the socket that got the datagram.
fn numbered(socket: Datagrams, dispatch: Dispatch, loops: usize) -> Running {
    let sockets = Count::default();
    let server = socket.on_open(move |_: &DatagramHandle| Ok(sockets.add())).on_datagrams(
        |number: &mut usize, batch: &DatagramBatch<'_>| {
            batch.iter().try_for_each(|it| it.reply(number.to_string().as_bytes()))
        },
    );
    serve(dispatch, loops, server)
}

/// The sockets that serve so many peers; each peer stays with one.
fn sockets_of(running: &Running, peers: usize) -> BTreeSet<Vec<u8>> {
    let mut all = BTreeSet::new();
    for _ in 0..peers {
        let client = client_of(inet(running));
        let answers = [(); 3].map(|()| {
            client.send(b"which?").expect("room");
            heard(&client)
        });
        assert!(answers.iter().all(|it| *it == answers[0]), "it moved: {answers:?}");
        all.insert(answers[0].clone());
    }
    all
}

#[test]
fn peers_are_spread_over_the_loops_and_stay() {
    for dispatch in modes() {
        let running = numbered(any_port(), dispatch, 3);
        assert_eq!(sockets_of(&running, 100).len(), 3);
    }
}

#[test]
fn one_socket_serves_all_where_the_port_is_not_reused() {
    for dispatch in modes() {
        let socket = Datagrams::options().reuse_port(false).bind("udp", "127.0.0.1:0");
        let running = numbered(socket.expect("a port"), dispatch, 3);
        assert_eq!(sockets_of(&running, 20).len(), 1);
    }
}

#[test]
fn streams_and_datagrams_are_served_on_one_port_and_end_together() {
    for dispatch in modes() {
        let listener = Listener::bind("tcp", "127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let datagrams = Datagrams::bind("udp", &address).expect("the same of UDP");
        let unix = Datagrams::bind("unixgram", "@").expect_err("a name is missing");
        assert_eq!(unix.kind(), ErrorKind::InvalidInput);
        let second = echoing(any_port());
        let builder = crate::util::echo().dispatch(dispatch).loops(2);
        let served = Listeners::from(listener).and(echoing(datagrams)).and(second);
        let running = builder.build().expect("options").spawn(served).expect("it serves");
        let [stream, same, other] = [0, 1, 2].map(|it| running.addresses()[it].clone());
        assert_eq!(stream, same);
        let mut client = connect(stream.inet().expect("of TCP"));
        client.echo(b"over a stream");
        echo(&client_of(same.inet().expect("of UDP")), b"in a datagram");
        echo(&client_of(other.inet().expect("of UDP")), b"in another");
        let stats = running.stats();
        assert_eq!((stats.datagrams.received, stats.datagrams.sent), (2, 2));
        assert_eq!((stats.datagrams.received_bytes, stats.connections), (23, 1));
        running.shutdown(PATIENCE);
        assert_eq!(client.rest(), b"");
        let report = running.wait().expect("in order");
        assert_eq!((report.closed_in_order, report.aborted), (1, 0));
        assert!(Datagrams::bind("udp", &address).is_ok(), "the port is free again");
    }
}

#[test]
fn what_has_been_received_is_answered_before_the_end() {
    const DATAGRAMS: usize = 60;
    for dispatch in modes() {
        let (gate, entered) = (Gate::default(), Count::default());
        let (closed, count) = (gate.clone(), entered.clone());
        let server = any_port().on_datagrams(move |(): &mut (), batch: &DatagramBatch<'_>| {
            if count.add() == 0 {
                closed.pass();
            }
            answer_all(batch)
        });
        let running = serve(dispatch, 1, server);
        let client = client_of(inet(&running));
        client.send(b"first").expect("room");
        eventually("the callback runs", || entered.get() == 1);
        for number in 0..DATAGRAMS {
            client.send(&[number as u8]).expect("room");
        }
        running.shutdown(PATIENCE);
        gate.open();
        assert_eq!(heard(&client), b"first");
        for number in 0..DATAGRAMS {
            assert_eq!(heard(&client), [number as u8]);
        }
        assert_eq!(running.wait().expect("in order").aborted, 0);
    }
}

#[test]
fn a_callback_that_does_not_return_holds_up_a_shutdown_to_its_deadline() {
    let (gate, entered) = (Gate::default(), Count::default());
    let (closed, count) = (gate.clone(), entered.clone());
    let server = any_port().on_datagrams(move |(): &mut (), _: &DatagramBatch<'_>| {
        count.add();
        closed.pass();
        Ok(())
    });
    let running = serve(crate::util::hand_off(), 1, server);
    client_of(inet(&running)).send(b"hold").expect("room");
    eventually("the callback runs", || entered.get() == 1);
    running.shutdown(Duration::from_millis(50));
    let report = running.wait().expect("it ends");
    assert_eq!((report.closed_in_order, report.aborted), (0, 0), "no connection");
    gate.open();
}

#[test]
fn an_event_loop_for_datagrams_refuses_streams_by_name() {
    let listener = Listener::bind("tcp", "127.0.0.1:0").expect("a port");
    let event_loop = EventLoop::for_datagrams().build().expect("options");
    let both = Listeners::from(echoing(any_port())).and(listener);
    let error = event_loop.spawn(both).expect_err("nothing would take what arrives");
    assert!(error.to_string().starts_with("listener 1 accepts connections"), "{error}");

    let running = serve(Dispatch::Inline, 1, echoing(any_port()));
    let (_peer, ours) = UnixStream::pair().expect("two ends");
    let error = running.event_loop().adopt(ours).expect_err("nothing would take what arrives");
    assert!(error.to_string().contains("no on_request"), "{error}");
    let complete = EventLoop::for_datagrams()
        .on_request(|(): &mut (), conn: &mut netpoll::Connection| crate::util::echo_once(conn));
    let listener = Listener::bind("tcp", "127.0.0.1:0").expect("a port");
    let running = complete.build().expect("options").spawn(listener).expect("it has on_request");
    connect(inet(&running)).echo(b"it serves both");
}

#[test]
fn limits_and_bounds_that_cannot_be_used_are_refused_before_anything_is_served() {
    let turn = TurnLimits { rounds: 0, bytes: 1 };
    let limits = DatagramLimits { turn, ..DatagramLimits::default() };
    let event_loop = || EventLoop::for_datagrams().build().expect("options");
    let error = event_loop().spawn(echoing(any_port()).limits(limits)).expect_err("0 rounds");
    assert!(error.to_string().contains("turn"), "{error}");
    let most = DatagramLimits {
        queued_bytes: usize::MAX,
        queued_datagrams: usize::MAX,
        turn: TurnLimits { rounds: usize::MAX, bytes: usize::MAX },
        ..DatagramLimits::default()
    };
    let running = event_loop().spawn(echoing(any_port()).limits(most)).expect("all are fine");
    echo(&client_of(inet(&running)), b"it serves");
    let error = EventLoop::for_datagrams().build().expect("options").spawn(Vec::<Listener>::new());
    assert!(matches!(error, Err(Error::Config(_))), "nothing to serve");
}

#[test]
fn a_handle_sends_from_any_thread_until_the_end() {
    for dispatch in modes() {
        let (running, handle) = serve_with_handle(dispatch);
        let client = client_of(inet(&running));
        let peer = client.local_addr().expect("an address").into();
        handle.send_to(&peer, "news").expect("room");
        assert_eq!(heard(&client), b"news");
        drop(running);
        assert!(matches!(handle.send_to(&peer, "late"), Err(Error::Closed)));
    }
}

#[test]
fn a_session_that_cannot_be_made_closes_its_socket_and_no_other() {
    let bad = any_port().on_open(|_: &DatagramHandle| Err::<(), _>(Error::other("no session")));
    let bad = bad.on_datagrams(|(): &mut (), batch: &DatagramBatch<'_>| answer_all(batch));
    let panics = any_port().on_open(|_: &DatagramHandle| -> netpoll::Result<()> { panic!("no") });
    let panics = panics.on_datagrams(|(): &mut (), batch: &DatagramBatch<'_>| answer_all(batch));
    let address = bad.local_addr().to_string();
    let event_loop = EventLoop::for_datagrams().loops(1).build().expect("options");
    let served = Listeners::from(echoing(any_port())).and(bad).and(panics);
    let running = event_loop.spawn(served).expect("it serves");
    echo(&client_of(inet(&running)), b"as before");
    eventually("the port is free", || Datagrams::bind("udp", &address).is_ok());
}
