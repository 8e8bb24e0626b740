//! Datagrams on loops that come, go, and change threads: a socket stays with its loop.

use std::net::UdpSocket;
use std::sync::Arc;

use netpoll::{
    DatagramBatch, DatagramHandle, DatagramServer, EventLoop, Gather, LoadBalance, PollManager,
    Running, Spin,
};

use super::{any_port, client_of, heard, inet};
use crate::util::{Count, Gate, PATIENCE, eventually, hand_off, modes};

fn manager(loops: usize) -> Arc<PollManager> {
    let manager = PollManager::with(loops, LoadBalance::RoundRobin, Spin::default(), Gather::Never);
    Arc::new(manager.expect("a manager"))
}

/// A session that is counted while it is there.
struct Session(usize, Count);

impl Drop for Session {
    fn drop(&mut self) {
        self.1.add();
    }
}

/// Answers with the number of the socket's session, and waits at the gate where it is asked to.
fn numbered(opened: &Count, ended: &Count, gate: &Gate) -> DatagramServer {
    let (opened, ended, gate) = (opened.clone(), ended.clone(), gate.clone());
    any_port()
        .on_open(move |_: &DatagramHandle| Ok(Session(opened.add(), ended.clone())))
        .on_datagrams(move |session: &mut Session, batch: &DatagramBatch<'_>| {
            for datagram in batch {
                if datagram.payload() == b"wait" {
                    gate.pass();
                }
                datagram.reply(&[session.0 as u8])?;
            }
            Ok(())
        })
}

/// Which socket serves this client.
fn socket_of(client: &UdpSocket) -> u8 {
    client.send(b"which?").expect("room");
    heard(client)[0]
}

fn crowd(running: &Running) -> Vec<(UdpSocket, u8)> {
    let client = |_| {
        let client = client_of(inet(running));
        let socket = socket_of(&client);
        (client, socket)
    };
    (0..24).map(client).collect()
}

/// To add a socket would move half of the peers of the others, to close one all of its own.
#[test]
fn a_socket_stays_with_its_loop_while_others_come_and_it_retires() {
    for dispatch in modes() {
        let (manager, opened, ended) = (manager(2), Count::default(), Count::default());
        let builder = EventLoop::for_datagrams().dispatch(dispatch).manager(manager.clone());
        let server = numbered(&opened, &ended, &Gate::default());
        let running = builder.build().expect("options").spawn(server).expect("it serves");
        let mut clients = crowd(&running);
        for loops in [4, 1, 3] {
            manager.set_loops(loops).expect("threads");
            clients.extend(crowd(&running));
            for (client, socket) in &clients {
                assert_eq!(socket_of(client), *socket, "with {loops} loops");
            }
            assert_eq!((opened.get(), ended.get()), (2, 0));
        }
        running.shutdown(PATIENCE);
        running.wait().expect("in order");
        assert_eq!((opened.get(), ended.get()), (2, 2), "the retired loop hears of it, too");
        eventually("the retired loop has ended", || manager.stats().len() == 3);
    }
}

#[test]
fn gathered_loops_serve_their_sockets_and_peers_stay() {
    for dispatch in modes() {
        let (manager, opened) = (manager(3), Count::default());
        let builder = EventLoop::for_datagrams().dispatch(dispatch).manager(manager.clone());
        let server = numbered(&opened, &Count::default(), &Gate::default());
        let running = builder.build().expect("options").spawn(server).expect("it serves");
        let clients = crowd(&running);
        for threads in [1, 3, 2, 1, 3] {
            manager.gather_on(threads);
            // While they change threads, and afterwards.
            for _ in 0..3 {
                for (client, socket) in &clients {
                    assert_eq!(socket_of(client), *socket);
                }
            }
            eventually("so many threads turn them", || manager.hand_off_stats().turning == threads);
        }
        assert_eq!(opened.get(), 3);
    }
}

#[test]
fn a_callback_that_blocks_holds_up_no_socket_that_is_gathered_with_its_own() {
    let (manager, gate) = (manager(2), Gate::default());
    let builder = EventLoop::for_datagrams().dispatch(hand_off()).manager(manager.clone());
    let server = numbered(&Count::default(), &Count::default(), &gate);
    let running = builder.build().expect("options").spawn(server).expect("it serves");
    manager.gather_on(1);
    eventually("one thread turns both", || manager.hand_off_stats().turning == 1);
    let clients = crowd(&running);
    let [blocked, other] = [0, 1].map(|it| {
        clients.iter().find(|(_, socket)| *socket == it).expect("peers are spread over both")
    });
    blocked.0.send(b"wait").expect("room");
    for _ in 0..20 {
        assert_eq!(socket_of(&other.0), 1);
    }
    gate.open();
    assert_eq!(heard(&blocked.0), [0]);
}
