//! Datagrams one by one: an epoll loop per thread, each with its own socket, `recvfrom` and
//! `sendto`. `--drain all` receives until nothing is left, `--drain one` waits after each datagram,
//! as gnet does.

use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::thread;

use netpoll_peers::{Arguments, DATAGRAM_MAX, Serve, Sink};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::{self, Errno};
use rustix::net::{RecvFlags, SendFlags, recvfrom, sendto};

/// Datagrams that one wait may bring.
const TURN: usize = 256;

static SINK: Sink = Sink::new();

struct Loop {
    epoll: OwnedFd,
    socket: UdpSocket,
    serve: Serve,
    turn: usize,
    buffer: Vec<u8>,
}

fn main() {
    let arguments = Arguments::read(&[Serve::OPTION, "--drain"]);
    let serve = Serve::of(&arguments);
    let turn = arguments.choice("--drain", &[("all", TURN), ("one", 1)]);
    let sockets = arguments.bind_on_each().into_iter();
    let threads = sockets.map(|socket| thread::spawn(move || Loop::new(socket, serve, turn).run()));
    for thread in threads.collect::<Vec<_>>() {
        thread.join().expect("a loop does not panic").expect("it waits for ever");
    }
}

impl Loop {
    fn new(socket: UdpSocket, serve: Serve, turn: usize) -> Self {
        socket.set_nonblocking(true).expect("a socket has this option");
        let epoll = epoll::create(CreateFlags::CLOEXEC).expect("a descriptor");
        let watched = epoll::add(&epoll, &socket, EventData::new_u64(0), EventFlags::IN);
        watched.expect("epoll takes a socket");
        Self { epoll, socket, serve, turn, buffer: vec![0; DATAGRAM_MAX] }
    }

    fn run(mut self) -> io::Result<()> {
        let mut events: Vec<Event> = Vec::with_capacity(1);
        loop {
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
            self.turn();
        }
    }

    fn turn(&mut self) {
        for _ in 0..self.turn {
            let received = recvfrom(&self.socket, &mut self.buffer[..], RecvFlags::empty());
            let (length, peer) = match received {
                Ok((length, _, Some(peer))) => (length, peer),
                Err(Errno::AGAIN) => return,
                // What was sent to a peer that has gone is refused.
                Ok(_) | Err(_) => continue,
            };
            let datagram = &self.buffer[..length];
            // What the socket does not take is dropped, as a network would.
            let flags = SendFlags::empty();
            match self.serve {
                Serve::Echo => {
                    let _ = sendto(&self.socket, datagram, flags, &peer);
                }
                Serve::Sink if SINK.is_asked(datagram) => {
                    let _ = sendto(&self.socket, &SINK.count(), flags, &peer);
                }
                Serve::Sink => SINK.add(1, length as u64),
            }
        }
    }
}
