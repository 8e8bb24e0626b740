//! Hot restart: a running server gives its listening sockets to the process that replaces it.
//!
//! ```text
//!   old process                       Unix stream                       new process
//!   EventLoop::hand_over   ◄───────────────── greeting ──── Listener::take_over
//!                          ── manifest, descriptors ──────► serve: watches them, accepts
//!                          ◄───────────────── "serving" ──
//!   shutdown: drains,      ── "yours" ────────────────────► removes the paths when it ends
//!   leaves queues and paths alone
//! ```
//! Each looks at the other's user first. Both hold the same sockets for a while, and the kernel's
//! queue is one: no client is refused, and the process that accepts, serves. Until "serving" has
//! come the old process is the server: whatever happens to the new one, the old one goes on.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use netpoll_core::{Error, Result, later, socket};

use crate::event_loop::EventLoop;
use crate::manifest;

/// What a hand-over begins with, from each side.
pub(crate) const GREETING: &[u8; 20] = b"netpoll hand-over 1\n";
/// The new process serves.
pub(crate) const SERVING: u8 = b'!';
/// The old one has heard that, and leaves the rest to it.
pub(crate) const YOURS: u8 = b'+';
/// The old one waits no longer, and goes on.
pub(crate) const REVOKED: u8 = b'-';
/// More than the manifest of 4 096 sockets needs.
pub(crate) const MANIFEST_MAX: usize = 4 << 20;
/// How long a peer may take to say that it is a successor.
const GREETING_AT_MOST: Duration = Duration::from_secs(5);

/// How one process follows another; see [`EventLoop::hand_over_with`] and
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

impl Default for HandOverOptions {
    fn default() -> Self {
        Self { deadline: Duration::from_secs(30), user: None }
    }
}

impl HandOverOptions {
    /// When the other process must have done its part. Checks the options, and the other's user.
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
        Ok(later(Instant::now(), self.deadline))
    }
}

impl EventLoop {
    /// [`hand_over_with`](Self::hand_over_with) default options.
    ///
    /// # Errors
    /// As `hand_over_with`.
    pub fn hand_over(&self, to: &UnixStream) -> Result<()> {
        self.hand_over_with(to, HandOverOptions::default())
    }

    /// Gives the listening sockets that it serves to the process at the other end of `to`, which
    /// takes them with [`Listener::take_over`](crate::Listener::take_over), and waits until that
    /// process serves. From then on a shutdown leaves the clients in the kernel's queues, and the
    /// paths of Unix sockets, to the other process. It goes on serving until it is shut down.
    ///
    /// It blocks the calling thread, and costs nothing else.
    ///
    /// # Errors
    /// After each of them nothing has changed, this event loop goes on serving, and `to` is of no
    /// further use. [`Error::Config`] when the event loop does not serve, or gives its sockets to
    /// another process at this moment; `PermissionDenied` where that process runs as a user who may
    /// not have them; `InvalidData` where it does not speak this protocol; `TimedOut` where it does
    /// not serve by the deadline; `UnexpectedEof` where it ends before; the system's.
    pub fn hand_over_with(&self, to: &UnixStream, options: HandOverOptions) -> Result<()> {
        let Some(doors) = self.doors() else {
            return Err(Error::config("hand_over was called while the event loop does not serve"));
        };
        let offer = doors.offer()?;
        let deadline = options.begin(to)?;
        match give(to, &offer.entries, &offer.sockets, deadline) {
            Ok(()) => {
                log::info!("{} listening sockets were handed over", offer.sockets.len());
                offer.commit();
                Ok(())
            }
            Err(error) => {
                // It must not take itself for the server, though it serve a moment later.
                let _ = socket::send_within(to, &[REVOKED], Instant::now());
                let _ = to.shutdown(std::net::Shutdown::Both);
                log::warn!("a hand-over failed, and this process goes on: {error}");
                Err(Error::Io(error))
            }
        }
    }
}

/// The old process's part, up to its last word.
fn give(
    to: &UnixStream,
    entries: &[manifest::Entry],
    sockets: &[Arc<OwnedFd>],
    deadline: Instant,
) -> io::Result<()> {
    let mut greeting = [0; GREETING.len()];
    // A client that says nothing is given nothing, and does not keep a successor waiting.
    let soon = deadline.min(Instant::now() + GREETING_AT_MOST);
    socket::receive_within(to, &mut greeting, soon).map_err(|it| said(&it, "no greeting came"))?;
    if greeting != *GREETING {
        return Err(io::Error::new(
            ErrorKind::InvalidData,
            "the peer is no successor of netpoll's",
        ));
    }
    let manifest = manifest::encode(entries);
    let length = (manifest.len() as u32).to_le_bytes();
    let descriptors: Vec<_> = sockets.iter().map(|it| it.as_fd()).collect();
    socket::send_within(to, &[&GREETING[..], &length, &manifest].concat(), deadline)?;
    socket::send_descriptors(to, &descriptors, deadline)?;
    let mut answer = [0];
    let serving = socket::receive_within(to, &mut answer, deadline);
    serving.map_err(|it| said(&it, "the successor does not serve"))?;
    if answer != [SERVING] {
        return Err(io::Error::new(ErrorKind::InvalidData, "the successor said something else"));
    }
    // One that is gone by now does not hear it, and the old process goes on.
    socket::send_within(to, &[YOURS], Instant::now() + GREETING_AT_MOST)
}

/// What did not happen, and why.
pub(crate) fn said(error: &io::Error, what: &str) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}
