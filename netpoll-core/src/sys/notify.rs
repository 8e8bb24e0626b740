//! The system calls that tell a service manager what has become of this process.

use std::io::{self, ErrorKind};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use super::repeat;
use crate::base::address::Address;

/// How long a message may wait for room in the manager's queue.
const SEND_AT_MOST: Duration = Duration::from_secs(1);

/// A socket for messages to a service manager. It is opened once: a message that says that the
/// process lives must leave also when descriptors have run out.
#[derive(Debug)]
pub struct ManagerSocket {
    socket: UnixDatagram,
    to: SocketAddr,
}

impl ManagerSocket {
    /// Opens one for the manager at `to`, which need not exist yet.
    ///
    /// # Errors
    /// `InvalidInput` for an address that is no Unix socket's, or too long; the system's.
    pub fn open(to: &Address) -> io::Result<Self> {
        let to = match to {
            Address::Path(path) => SocketAddr::from_pathname(path)?,
            Address::Abstract(name) => SocketAddr::from_abstract_name(name)?,
            Address::Inet(_) | Address::Unnamed => return Err(ErrorKind::InvalidInput.into()),
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(SEND_AT_MOST))?;
        Ok(Self { socket, to })
    }

    /// Sends one message, whole. It waits a second at the most.
    ///
    /// # Errors
    /// The system's: no process listens there, or it takes nothing.
    pub fn send(&self, message: &str) -> io::Result<()> {
        repeat(|| self.socket.send_to_addr(message.as_bytes(), &self.to)).map(drop)
    }
}

/// The time that the system has run, in microseconds: systemd compares it with its own.
///
/// # Errors
/// The system's.
pub fn monotonic_micros() -> io::Result<u64> {
    let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?);
    Ok(u64::try_from(now.as_micros()).unwrap_or(u64::MAX))
}
