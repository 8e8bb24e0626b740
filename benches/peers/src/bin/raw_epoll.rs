//! The limit: system calls and nothing else. A level-triggered epoll loop per thread, each with its
//! own listener and one buffer for all its connections. What the others are compared with.

use std::collections::HashMap;
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::thread;

use netpoll_peers::{Arguments, Blocking, SHARED_BUFFER};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::{self, Errno};
use rustix::net::{SocketFlags, accept_with, sockopt};

/// Events that one wait may bring.
const EVENTS: usize = 1024;

struct Loop {
    epoll: OwnedFd,
    listener: TcpListener,
    /// By descriptor, which is also the name that epoll gives them.
    connections: Vec<Option<(OwnedFd, Blocking)>>,
    /// What the sockets did not take. Their connections are written to, and not read from.
    unsent: HashMap<RawFd, Vec<u8>>,
    buffer: Vec<u8>,
    blocking: Blocking,
}

fn main() {
    let [block_us, block_pct] = Blocking::OPTIONS;
    let arguments = Arguments::read(&[block_us, block_pct, Blocking::WAY]);
    let blocking = Blocking::of(&arguments);
    let listeners = arguments.listen_on_each().into_iter();
    let threads =
        listeners.map(|listener| thread::spawn(move || Loop::new(listener, blocking).run()));
    for thread in threads.collect::<Vec<_>>() {
        thread.join().expect("a loop does not panic").expect("it waits for ever");
    }
}

impl Loop {
    fn new(listener: TcpListener, blocking: Blocking) -> Self {
        let epoll = epoll::create(CreateFlags::CLOEXEC).expect("a descriptor");
        listener.set_nonblocking(true).expect("a socket has this option");
        // What is accepted inherits it.
        sockopt::set_tcp_nodelay(&listener, true).expect("a socket has this option");
        let watched = epoll::add(&epoll, &listener, name(&listener), EventFlags::IN);
        watched.expect("epoll takes a socket");
        let (connections, unsent) = (Vec::new(), HashMap::new());
        Self { epoll, listener, connections, unsent, buffer: vec![0; SHARED_BUFFER], blocking }
    }

    fn run(mut self) -> io::Result<()> {
        let mut events: Vec<Event> = Vec::with_capacity(EVENTS);
        loop {
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
            for event in &events {
                let fd = event.data.u64() as RawFd;
                if fd == self.listener.as_raw_fd() {
                    self.accept();
                } else if self.serve(fd).is_err() {
                    self.unsent.remove(&fd);
                    self.connections[fd as usize] = None;
                }
            }
        }
    }

    fn accept(&mut self) {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        while let Ok(socket) = accept_with(&self.listener, flags) {
            let index = socket.as_raw_fd() as usize;
            epoll::add(&self.epoll, &socket, name(&socket), EventFlags::IN).expect("a socket");
            if self.connections.len() <= index {
                self.connections.resize_with(index + 1, || None);
            }
            self.connections[index] = Some((socket, self.blocking.for_connection()));
        }
    }

    /// One turn of a connection; an error ends it, as its end does.
    fn serve(&mut self, fd: RawFd) -> io::Result<()> {
        let (socket, blocking) = self.connections[fd as usize].as_ref().expect("it is watched");
        if let Some(unsent) = self.unsent.get_mut(&fd) {
            let sent = write(socket, unsent)?;
            unsent.drain(..sent);
            if unsent.is_empty() {
                self.unsent.remove(&fd);
                epoll::modify(&self.epoll, socket, name(socket), EventFlags::IN)?;
            }
            return Ok(());
        }
        let length = match io::read(socket, &mut self.buffer) {
            Ok(0) => return Err(Errno::PIPE),
            Ok(length) => length,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
            Err(error) => return Err(error),
        };
        blocking.block_if_due();
        let sent = write(socket, &self.buffer[..length])?;
        if sent < length {
            self.unsent.insert(fd, self.buffer[sent..length].to_vec());
            epoll::modify(&self.epoll, socket, name(socket), EventFlags::OUT)?;
        }
        Ok(())
    }
}

/// Bytes that the socket took.
fn write(socket: &OwnedFd, bytes: &[u8]) -> io::Result<usize> {
    match io::write(socket, bytes) {
        Err(Errno::AGAIN | Errno::INTR) => Ok(0),
        result => result,
    }
}

fn name(socket: &impl AsFd) -> EventData {
    EventData::new_u64(socket.as_fd().as_raw_fd() as u64)
}
