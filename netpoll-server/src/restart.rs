//! Hot restart as users call it: [`EventLoop::hand_over`] in the old process,
//! [`Listener::take_over`] in the new one.

use std::os::unix::net::UnixStream;

use netpoll_core::{Error, Result};

use crate::event_loop::EventLoop;
use crate::handover::succession::Succession;
use crate::handover::{HandOverOptions, give};
use crate::listener::Listener;

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
    /// paths of Unix sockets, to the other process. This event loop serves until it is shut down.
    ///
    /// It blocks the calling thread, and costs nothing else.
    ///
    /// # Errors
    /// After each of them nothing has changed, this event loop goes on serving, and `to` is of no
    /// further use. [`Error::Config`] when the event loop does not serve, or gives its sockets to
    /// another process at this moment; `PermissionDenied` if that process runs as a user that may
    /// not have them; `InvalidData` if it does not speak this protocol; `TimedOut` if it does not
    /// serve by the deadline; `UnexpectedEof` if it ends before; the system's.
    pub fn hand_over_with(&self, to: &UnixStream, options: HandOverOptions) -> Result<()> {
        let Some(listeners) = self.open_listeners() else {
            return Err(Error::config("hand_over was called while the event loop does not serve"));
        };
        let offer = listeners.offer()?;
        let deadline = options.begin(to)?;
        match give::give(to, &offer.entries, &offer.sockets, deadline) {
            Ok(()) => {
                log::info!("{} listening sockets were handed over", offer.sockets.len());
                offer.commit();
                Ok(())
            }
            Err(error) => {
                give::revoke(to);
                log::warn!("a hand-over failed, and this process goes on: {error}");
                Err(Error::Io(error))
            }
        }
    }
}

impl Listener {
    /// [`take_over_with`](Self::take_over_with) default options.
    ///
    /// # Errors
    /// As `take_over_with`.
    pub fn take_over(from: UnixStream) -> Result<Vec<Self>> {
        Self::take_over_with(from, HandOverOptions::default())
    }

    /// Takes over the listening sockets that the server at the other end of `from` gives away with
    /// [`EventLoop::hand_over`](crate::EventLoop::hand_over), with their names, limits and options,
    /// except for what a closure does (`before_bind`).
    ///
    /// The other process serves until all of these listeners are served here, by one event loop or
    /// several, which then tell it. If one of them is dropped before, the hand-over has failed, and
    /// the other process goes on; [`decline`](Self::decline) is for listeners that are not wanted.
    ///
    /// # Errors
    /// [`Error::Config`] for options that can't be used; `PermissionDenied` if the other process
    /// runs as a user that is not trusted; `InvalidData` if it does not speak this protocol;
    /// `TimedOut`; `UnexpectedEof` if it gives nothing; the system's, for example when this process
    /// may not open so many descriptors.
    pub fn take_over_with(from: UnixStream, options: HandOverOptions) -> Result<Vec<Self>> {
        let handed = Succession::begin(from, options)?.into_iter();
        // Listeners that could not be made are dropped with the others.
        handed.map(|it| Self::handed(it.entry, it.sockets, it.share)).collect()
    }

    /// Closes a listener that was taken over and is not wanted, without a failure of the hand-over:
    /// the old process waits for the others only. Another listener is just closed.
    pub fn decline(mut self) {
        let file = self.take_file();
        if let Some(share) = self.take_share() {
            share.decline(file);
        }
    }
}
