//! mio, after its server example: a poll per thread, edge-triggered, each with its own listener.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::thread;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use netpoll_peers::{Arguments, SHARED_BUFFER};

const LISTENER: Token = Token(0);
/// Events that one wait may bring.
const EVENTS: usize = 1024;

struct Connection {
    stream: TcpStream,
    /// What the socket did not take; nothing more is read until it has.
    unsent: Vec<u8>,
}

fn main() {
    let listeners = Arguments::read(&[]).listen_on_each().into_iter();
    let threads = listeners.map(|listener| thread::spawn(move || serve(listener)));
    for thread in threads.collect::<Vec<_>>() {
        thread.join().expect("a loop does not panic").expect("it waits for ever");
    }
}

fn serve(listener: std::net::TcpListener) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let mut listener = TcpListener::from_std(listener);
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut connections = HashMap::new();
    let mut events = Events::with_capacity(EVENTS);
    let mut buffer = vec![0; SHARED_BUFFER];
    let mut last = LISTENER;
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((mut stream, _)) = listener.accept() {
                    stream.set_nodelay(true)?;
                    last = Token(last.0 + 1);
                    let interest = Interest::READABLE | Interest::WRITABLE;
                    poll.registry().register(&mut stream, last, interest)?;
                    connections.insert(last, Connection { stream, unsent: Vec::new() });
                }
            } else if let Some(connection) = connections.get_mut(&event.token())
                && connection.echo(&mut buffer).is_err()
            {
                connections.remove(&event.token());
            }
        }
    }
}

impl Connection {
    /// Goes on until the socket has nothing more, or takes nothing more. An error ends the
    /// connection, as its end does.
    fn echo(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        loop {
            if !self.unsent.is_empty() {
                let sent = unless_it_blocks(self.stream.write(&self.unsent))?.unwrap_or(0);
                self.unsent.drain(..sent);
                if !self.unsent.is_empty() {
                    return Ok(());
                }
            }
            let length = match unless_it_blocks(self.stream.read(buffer))? {
                None => return Ok(()),
                Some(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Some(length) => length,
            };
            let sent = unless_it_blocks(self.stream.write(&buffer[..length]))?.unwrap_or(0);
            self.unsent.extend_from_slice(&buffer[sent..length]);
            if length < buffer.len() && self.unsent.is_empty() {
                return Ok(()); // the socket was empty: the next edge says when it is not
            }
        }
    }
}

/// What a call that does not wait has done, if anything.
fn unless_it_blocks(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        result => result.map(Some),
    }
}
