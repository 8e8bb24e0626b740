//! A flooded datagram socket gets one turn before the others of its loop get theirs.

use std::io::Write;
use std::sync::mpsc;

use netpoll::{
    Connection, DatagramBatch, DatagramLimits, Dispatch, EventLoop, Listener, Listeners, TurnLimits,
};

use super::{any_port, client_of};
use crate::util::{Client, Count, Gate, PATIENCE, connect, echo_once, is_filtered};

/// The flood stands in its socket when the connection's bytes arrive, and is more than one turn
/// takes. Counted is how many callbacks it gets before the connection's.
#[test]
fn a_flooded_socket_gets_one_turn_before_a_connection_gets_its_own() {
    const ROUNDS: usize = 4;
    const FLOOD: usize = 150;
    if is_filtered() {
        return; // the bytes may be in the tunnel still
    }
    let turns = [(ROUNDS, usize::MAX), (usize::MAX, ROUNDS * 100)];
    for (rounds, bytes) in turns {
        let (gate, callbacks) = (Gate::default(), Count::default());
        let (closed, count) = (gate.clone(), callbacks.clone());
        let (tell, told) = mpsc::channel();
        let limits = DatagramLimits {
            places: 1,
            turn: TurnLimits { rounds, bytes },
            ..DatagramLimits::default()
        };
        let flooded = any_port()
            .on_datagrams(move |(): &mut (), _: &DatagramBatch<'_>| {
                if count.add() == 0 {
                    let _ = tell.send(());
                    closed.pass();
                }
                Ok(())
            })
            .limits(limits);
        let address = flooded.local_addr().inet().expect("of UDP");
        let before = callbacks.clone();
        let (report, reported) = mpsc::channel();
        let event_loop = EventLoop::builder()
            .on_request(move |(): &mut (), conn: &mut Connection| {
                let _ = report.send(before.get());
                echo_once(conn)
            })
            .dispatch(Dispatch::Inline)
            .loops(1)
            .build()
            .expect("options");
        let listener = Listener::bind("tcp", "127.0.0.1:0").expect("a port");
        let stream = listener.local_addr().expect("an address").inet().expect("of TCP");
        let running = event_loop.spawn(Listeners::from(listener).and(flooded)).expect("it serves");
        let mut client = connect(stream);
        client.echo(b"the connection stands");
        assert_eq!(reported.recv_timeout(PATIENCE).expect("a callback"), 0);
        let flood = client_of(address);
        flood.send(&[0; 100]).expect("room");
        told.recv_timeout(PATIENCE).expect("the loop is in the callback");
        for _ in 0..FLOOD {
            flood.send(&[0; 100]).expect("room");
        }
        client.write_all(b"between").expect("room");
        gate.open();
        let callbacks = reported.recv_timeout(PATIENCE).expect("a callback");
        assert!(callbacks <= ROUNDS + 1, "{callbacks} callbacks before that of the connection");
        running.shutdown(PATIENCE);
        running.wait().expect("in order");
    }
}
