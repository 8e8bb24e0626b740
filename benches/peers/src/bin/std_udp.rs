//! The standard library: a thread per socket, which waits in `recv_from`.

use std::net::UdpSocket;
use std::thread;

use netpoll_peers::{Arguments, DATAGRAM_MAX, Serve, Sink};

static SINK: Sink = Sink::new();

fn main() {
    let arguments = Arguments::read(&[Serve::OPTION]);
    let serve = Serve::of(&arguments);
    let sockets = arguments.bind_on_each().into_iter();
    let threads = sockets.map(|socket| thread::spawn(move || run(&socket, serve)));
    for thread in threads.collect::<Vec<_>>() {
        thread.join().expect("it waits for ever");
    }
}

fn run(socket: &UdpSocket, serve: Serve) {
    let mut buffer = vec![0; DATAGRAM_MAX];
    loop {
        // What was sent to a peer that has gone is refused.
        let Ok((length, peer)) = socket.recv_from(&mut buffer) else { continue };
        let datagram = &buffer[..length];
        match serve {
            Serve::Echo => drop(socket.send_to(datagram, peer)),
            Serve::Sink if SINK.is_asked(datagram) => {
                drop(socket.send_to(&SINK.count(), peer));
            }
            Serve::Sink => SINK.add(1, length as u64),
        }
    }
}
