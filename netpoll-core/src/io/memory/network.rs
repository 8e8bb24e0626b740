//! The listeners in memory, by address, and the dials that they take.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Weak};

use super::reports::Reports;
use super::wire::{ECONNREFUSED, End};
use crate::base::address::Address;
use crate::base::sync::{AtomicUsize, Condvar, Mutex, Ordering, lock, wait_until};

/// A listener's connections that were not accepted.
#[derive(Debug, Clone)]
pub(crate) struct Queue(Arc<Waiting>);

#[derive(Debug)]
struct Waiting {
    address: SocketAddr,
    /// It answers no dial: dials stay on their way.
    is_silent: bool,
    streams: Mutex<VecDeque<End>>,
    arrived: Condvar,
    /// The other ends of dials that stay on their way.
    unanswered: Mutex<Vec<End>>,
    watcher: Mutex<Option<Arc<Reports>>>,
}

/// The listeners of this process, by address.
static NETWORK: Mutex<Vec<Weak<Waiting>>> = Mutex::new(Vec::new());
static PORTS: AtomicUsize = AtomicUsize::new(1);

/// An address in memory: of a network that no machine has (240.0.0.0/4).
fn fresh_address() -> SocketAddr {
    let port = PORTS.fetch_add(1, Ordering::SeqCst);
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(240, 0, 0, 1)), port as u16)
}

/// Begins to connect, if the address is one in memory. A dial of an address without a listener is
/// refused.
pub(crate) fn connect(to: &Address) -> Option<io::Result<End>> {
    let to = to.inet()?;
    let IpAddr::V4(ip) = to.ip() else { return None };
    if ip.octets()[0] < 240 {
        return None;
    }
    let found = lock(&NETWORK).iter().filter_map(Weak::upgrade).find(|it| it.address == to);
    Some(Ok(match found {
        Some(listener) => Queue(listener).dial(),
        None => End::connecting(Some(ECONNREFUSED)).0,
    }))
}

impl Queue {
    /// A listener at an address of its own. A `silent` one answers no dial.
    pub(crate) fn open(is_silent: bool) -> Self {
        let queue = Arc::new(Waiting {
            address: fresh_address(),
            is_silent,
            streams: Mutex::default(),
            arrived: Condvar::new(),
            unanswered: Mutex::default(),
            watcher: Mutex::default(),
        });
        lock(&NETWORK).push(Arc::downgrade(&queue));
        Self(queue)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// The end of a peer that connects.
    pub(crate) fn dial(&self) -> End {
        if self.0.is_silent {
            let (end, other) = End::connecting(None);
            lock(&self.0.unanswered).push(other);
            return end;
        }
        let (end, other) = End::pair();
        lock(&self.0.streams).push_back(other);
        self.0.arrived.notify_all();
        if let Some(reports) = &*lock(&self.0.watcher) {
            reports.accepting();
        }
        end
    }

    pub(crate) fn accept(&self) -> io::Result<(End, Address)> {
        let end = lock(&self.0.streams).pop_front();
        let end = end.ok_or(io::ErrorKind::WouldBlock)?;
        Ok((end, Address::Inet(fresh_address())))
    }

    /// Tells these reports of each connection that comes.
    pub(super) fn watch(&self, reports: Option<Arc<Reports>>) {
        *lock(&self.0.watcher) = reports;
    }

    /// Whether a connection waits.
    pub(super) fn has_any(&self) -> bool {
        !lock(&self.0.streams).is_empty()
    }

    /// Waits for the next connection, for the servers of tests.
    pub(crate) fn next(&self) -> End {
        let mut streams = lock(&self.0.streams);
        loop {
            if let Some(end) = streams.pop_front() {
                return end;
            }
            (streams, _) = wait_until(&self.0.arrived, streams, None);
        }
    }
}
