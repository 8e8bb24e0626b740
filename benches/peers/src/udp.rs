//! What servers of datagrams share: their sockets, and what they count.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Arguments, datagram_socket};

/// What asks a server for its count.
const QUESTION: &[u8] = b"count?";

/// Whether datagrams are sent back, or counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serve {
    Echo,
    Sink,
}

impl Serve {
    pub const OPTION: &str = "--serve";

    /// What the command line says.
    pub fn of(arguments: &Arguments) -> Self {
        arguments.choice(Self::OPTION, &[("echo", Self::Echo), ("sink", Self::Sink)])
    }
}

/// Counts of all threads: a question may reach another socket than what it asks about.
#[derive(Debug, Default)]
pub struct Sink {
    datagrams: AtomicU64,
    bytes: AtomicU64,
}

impl Sink {
    pub const fn new() -> Self {
        Self { datagrams: AtomicU64::new(0), bytes: AtomicU64::new(0) }
    }

    /// Adds what came together, so that a batch costs two additions.
    pub fn add(&self, datagrams: u64, bytes: u64) {
        self.datagrams.fetch_add(datagrams, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Whether a datagram asks for the count.
    pub fn is_asked(&self, datagram: &[u8]) -> bool {
        datagram == QUESTION
    }

    /// Datagrams and bytes, as they are told.
    pub fn count(&self) -> [u8; 16] {
        let mut count = [0; 16];
        count[..8].copy_from_slice(&self.datagrams.load(Ordering::Relaxed).to_be_bytes());
        count[8..].copy_from_slice(&self.bytes.load(Ordering::Relaxed).to_be_bytes());
        count
    }
}

impl Arguments {
    /// A socket for each thread, all on one port, over which the kernel spreads the flows; says
    /// where they are.
    pub fn bind_on_each(&self) -> Vec<UdpSocket> {
        let first = datagram_socket(self.port);
        let address = first.local_addr().expect("it is bound");
        let others = (1..self.threads).map(|_| datagram_socket(address.port()));
        let all = std::iter::once(first).chain(others).collect();
        println!("listening on {address}");
        all
    }
}
