//! The other end of a stream, in the hands of a test: its calls wait.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use netpoll_buffer::LinkBuffer;

use crate::base::address::Address;
use crate::base::clock;
use crate::io::memory::network::Queue;
use crate::io::memory::wire::End;
use crate::io::stream::Stream;

/// How long a test waits for what must come. Nothing waits for so long where all is well.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

fn late() -> Instant {
    clock::now() + PATIENCE
}

/// See the module.
#[derive(Debug)]
pub(super) enum Peer {
    Tcp(TcpStream),
    Unix(UnixStream),
    Memory(End),
}

/// A listener that a test accepts on.
#[derive(Debug)]
pub(super) enum Host {
    Tcp(TcpListener),
    Unix(UnixListener),
    Memory(Queue),
}

impl Peer {
    pub(super) fn of_tcp(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).expect("an option");
        stream.set_nodelay(true).expect("an option");
        Self::Tcp(stream)
    }

    pub(super) fn of_unix(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).expect("an option");
        Self::Unix(stream)
    }

    pub(super) fn send(&mut self, bytes: &[u8]) {
        match self {
            Self::Tcp(stream) => stream.write_all(bytes).expect("an open stream"),
            Self::Unix(stream) => stream.write_all(bytes).expect("an open stream"),
            Self::Memory(end) => {
                let mut rest = LinkBuffer::new();
                rest.write_bytes(bytes);
                rest.flush();
                while !rest.is_empty() {
                    let pushed = end.until(late(), |end| end.push(&rest)).expect("an open stream");
                    rest.skip(pushed.taken).expect("that much was pushed");
                    rest.release();
                }
            }
        }
    }

    /// The next `count` bytes.
    pub(super) fn receive(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.read_exact(&mut bytes).expect("an open stream");
        bytes
    }

    /// All up to the end of the stream.
    pub(super) fn receive_all(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Ends its half of the stream.
    pub(super) fn end(&self) {
        match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write).expect("an open stream"),
            Self::Unix(stream) => stream.shutdown(Shutdown::Write).expect("an open stream"),
            Self::Memory(end) => end.end_write(),
        }
    }

    /// Closes by a reset. A Unix stream can do so only while bytes are unread.
    pub(super) fn reset(self) {
        let stream = match self {
            Self::Tcp(stream) => Stream::from(OwnedFd::from(stream)),
            Self::Unix(stream) => Stream::from(OwnedFd::from(stream)),
            Self::Memory(end) => Stream::in_memory(end),
        };
        stream.reset_on_close().expect("an open stream");
    }
}

impl Read for Peer {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(into),
            Self::Unix(stream) => stream.read(into),
            Self::Memory(end) => end.until(late(), |end| end.take(into)),
        }
    }
}

impl Host {
    pub(super) fn address(&self) -> Address {
        match self {
            Self::Tcp(listener) => listener.local_addr().expect("an address").into(),
            Self::Unix(listener) => {
                let address = listener.local_addr().expect("an address");
                Address::Path(address.as_pathname().expect("a path").into())
            }
            Self::Memory(queue) => queue.address().into(),
        }
    }

    /// Removes the file of a Unix socket, which stays behind it.
    pub(super) fn remove(self) {
        if let Address::Path(path) = self.address() {
            let _ = std::fs::remove_file(path);
        }
    }

    pub(super) fn accept(&self) -> Peer {
        match self {
            Self::Tcp(listener) => Peer::of_tcp(listener.accept().expect("a connection").0),
            Self::Unix(listener) => Peer::of_unix(listener.accept().expect("a connection").0),
            Self::Memory(queue) => Peer::Memory(queue.next()),
        }
    }
}
