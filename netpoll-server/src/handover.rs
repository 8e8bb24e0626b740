//! Hot restart: a running server gives its sockets to the process that replaces it.
//!
//! ```text
//!   old process                       Unix stream                       new process
//!   EventLoop::hand_over   ◄──────────────────── magic ──── Listener::take_over
//!                          ── manifest, descriptors ──────► serve: watches them, accepts
//!                          ◄───────────────── "serving" ──
//!   receives no datagrams
//!   any more               ── "yours" ────────────────────► receives datagrams from here on;
//!   shutdown: ends its                                      removes the paths when it ends
//!   connections, leaves
//!   queues and paths alone
//! ```
//! Each process first checks the other's user. Both hold the same sockets for a while, and the
//! kernel's queue is one: no client is refused, and the process that accepts, serves. Datagrams
//! have no connection that would say which process has them, so one process at a time receives.
//! Until "serving" has come the old process is the server: if the new one fails, it goes on.
//!
//! `give` is the old process's part, `succession` the new one's, `manifest` the text between them.

pub(crate) mod give;
pub(crate) mod manifest;
pub(crate) mod succession;

use std::io::{self, ErrorKind};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use netpoll_core::{Error, Result, clock, later, socket};

/// How one process follows another; see
/// [`EventLoop::hand_over_with`](crate::EventLoop::hand_over_with) and
/// [`Listener::take_over_with`](crate::Listener::take_over_with).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HandOverOptions {
    /// How long the other process may take: the new one to serve, the old one to give. Default
    /// 30 s.
    pub deadline: Duration,
    /// Another user that the other process may run as. Default `None`: it must run as the effective
    /// user of this process, or as root.
    pub user: Option<u32>,
}

/// The first bytes of a hand-over, from each side.
const MAGIC: &[u8; 20] = b"netpoll hand-over 1\n";
/// The new process serves.
const SERVING: u8 = b'!';
/// The old process has heard that, and leaves the rest to the new one.
const YOURS: u8 = b'+';
/// The old process waits no longer, and goes on.
const REVOKED: u8 = b'-';
/// More than the manifest of 4 096 sockets needs.
const MANIFEST_MAX: usize = 4 << 20;

impl Default for HandOverOptions {
    fn default() -> Self {
        Self { deadline: Duration::from_secs(30), user: None }
    }
}

impl HandOverOptions {
    /// Checks the options and the other process's user; returns when that process must have done
    /// its part.
    pub(crate) fn begin(self, with: &UnixStream) -> Result<Instant> {
        if self.deadline.is_zero() {
            return Err(Error::config("the deadline of a hand-over is 0, so none could succeed"));
        }
        let (other, ours) = (socket::peer_credentials(with)?, socket::own_user());
        if other.user != ours && other.user != 0 && self.user != Some(other.user) {
            return Err(Error::Io(io::Error::new(
                ErrorKind::PermissionDenied,
                format!(
                    "process {} at the other end of the hand-over runs as user {}, and this one as \
                     {ours}; HandOverOptions::user allows another",
                    other.process, other.user
                ),
            )));
        }
        Ok(later(clock::now(), self.deadline))
    }
}

/// An error of the same kind, which also says what did not happen.
fn describe(error: &io::Error, what: &str) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}
