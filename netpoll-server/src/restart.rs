//! Hot restart as users call it: [`EventLoop::hand_over`] in the old process, [`take_over`] or
//! [`Listener::take_over`] in the new one.

use std::os::unix::net::UnixStream;

use netpoll_core::{Error, Result};

use crate::datagrams::Datagrams;
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

    /// Gives the sockets that it serves to the process at the other end of `to`, which takes them
    /// with [`take_over`], and waits until that process serves. From then on a shutdown leaves the
    /// clients in the kernel's queues, and the paths of Unix sockets, to the other process. This
    /// event loop serves until it is shut down.
    ///
    /// From then on it receives no datagrams, which have no connection that would say which of the
    /// processes they are for: what waits in the kernel, and what comes, the other process gets.
    /// What this one has received it answers, and its handles send, until it is shut down. Sessions
    /// and flows do not travel.
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
        let descriptors = offer.descriptors();
        match give::give(to, &offer.entries, &descriptors, deadline, || offer.stop_receiving()) {
            Ok(()) => {
                log::info!("{} sockets were handed over", descriptors.len());
                drop(descriptors);
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

/// What another process has handed over, to be served by one event loop or several.
///
/// ```no_run
/// use std::os::unix::net::UnixStream;
/// use netpoll_core::DatagramBatch;
/// use netpoll_server::{EventLoop, Listeners, take_over};
///
/// let predecessor = UnixStream::connect("/run/service.control")?;
/// let mut sockets = Vec::new();
/// for datagrams in take_over(predecessor)?.datagrams {
///     sockets.push(datagrams.on_datagrams(|_: &mut (), _: &DatagramBatch<'_>| Ok(())));
/// }
/// let sockets = sockets.into_iter().map(Listeners::from).reduce(Listeners::and);
/// EventLoop::for_datagrams().build()?.serve(sockets.expect("it serves some"))?;
/// # Ok::<(), netpoll_core::Error>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct TakenOver {
    /// The listeners, as of [`Listener::take_over`].
    pub listeners: Vec<Listener>,
    /// The sockets of datagrams, with their names and options; as many sockets each as the other
    /// process has, so that no peer moves to another one.
    pub datagrams: Vec<Datagrams>,
}

/// [`take_over_with`] default options.
///
/// # Errors
/// As `take_over_with`.
pub fn take_over(from: UnixStream) -> Result<TakenOver> {
    take_over_with(from, HandOverOptions::default())
}

/// Takes over all sockets that the server at the other end of `from` gives away with
/// [`EventLoop::hand_over`](crate::EventLoop::hand_over): listeners, and sockets of datagrams. For
/// all of them holds what [`Listener::take_over_with`] says of listeners. Datagrams are received
/// here once the other process has answered that it receives no more.
///
/// # Errors
/// As [`Listener::take_over_with`].
pub fn take_over_with(from: UnixStream, options: HandOverOptions) -> Result<TakenOver> {
    let handed = Succession::begin(from, options)?;
    let mut taken = TakenOver { listeners: Vec::new(), datagrams: Vec::new() };
    for it in handed {
        // What could not be made is dropped with the others.
        if it.entry.datagrams.is_some() {
            taken.datagrams.push(Datagrams::handed(it.entry, it.sockets, it.share)?);
        } else {
            taken.listeners.push(Listener::handed(it.entry, it.sockets, it.share)?);
        }
    }
    Ok(taken)
}

impl Datagrams {
    /// Closes sockets that were taken over and are not wanted, as
    /// [`Listener::decline`](crate::Listener::decline) does. What is sent to them is lost.
    pub fn decline(mut self) {
        let file = self.take_file();
        if let Some(share) = self.take_share() {
            share.decline(file);
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
    /// may not open so many descriptors. [`Error::Config`], too, where the other process serves
    /// datagrams, for which [`take_over`] is there; the hand-over has then failed.
    pub fn take_over_with(from: UnixStream, options: HandOverOptions) -> Result<Vec<Self>> {
        let taken = take_over_with(from, options)?;
        match taken.datagrams.first() {
            None => Ok(taken.listeners),
            Some(datagrams) => Err(Error::config(format!(
                "Listener::take_over was called, but the other process serves datagrams at {}, \
                 too: netpoll::take_over takes both",
                datagrams.local_addr()
            ))),
        }
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
