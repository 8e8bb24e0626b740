//! A bound socket together with what serves it, as an event loop takes it.

use std::fmt;
use std::sync::Arc;

use netpoll_core::{
    Address, DatagramCallbacks, DatagramHandle, DatagramLimits, OnDatagrams, OnOpen,
    PrepareDatagrams, Result,
};

use super::bound::Datagrams;
use super::flow_options::FlowOptions;
use super::flow_stats::FlowCounters;
use crate::handover::succession::Share;

/// A bound socket together with the callback that serves it:
/// [`EventLoop::serve`](crate::EventLoop::serve) takes it, by itself or
/// [together with listeners](crate::Listeners::and).
///
/// ```
/// use std::net::UdpSocket;
/// use std::time::Duration;
/// use netpoll_core::DatagramBatch;
/// use netpoll_server::{Datagrams, EventLoop};
///
/// let echo = Datagrams::bind("udp", "127.0.0.1:0")?.on_datagrams(
///     |_: &mut (), batch: &DatagramBatch<'_>| {
///         for datagram in batch {
///             datagram.reply(datagram.payload())?;
///         }
///         Ok(())
///     },
/// );
/// let running = EventLoop::for_datagrams().build()?.spawn(echo)?;
///
/// let client = UdpSocket::bind("127.0.0.1:0")?;
/// client.connect(running.address().inet().unwrap())?;
/// client.send(b"hello")?;
/// let mut heard = [0; 5];
/// client.recv(&mut heard)?;
/// assert_eq!(&heard, b"hello");
/// running.shutdown(Duration::from_secs(1));
/// # Ok::<(), netpoll_core::Error>(())
/// ```
#[must_use = "it serves nothing until an event loop serves it"]
pub struct DatagramServer {
    pub(crate) socket: Datagrams,
    pub(crate) callbacks: Arc<dyn PrepareDatagrams>,
    pub(crate) limits: DatagramLimits,
    /// If it has flows: their bounds, and what they have done.
    pub(crate) flows: Option<(FlowOptions, Arc<FlowCounters>)>,
}

/// A bound socket with a session for each loop, up to the callback that is given it.
#[must_use = "it serves nothing until it has on_datagrams"]
pub struct DatagramSessions<S> {
    socket: Datagrams,
    on_open: Box<dyn OnOpen<S>>,
}

impl Datagrams {
    /// Serves it with this callback, without a session; see [`OnDatagrams`].
    pub fn on_datagrams(self, callback: impl OnDatagrams<()>) -> DatagramServer {
        self.on_open(|_: &DatagramHandle| Ok(())).on_datagrams(callback)
    }

    /// Makes a session for each socket, so for each loop that has one; see [`OnOpen`]. The handle
    /// sends from any thread.
    ///
    /// ```
    /// use netpoll_core::{DatagramBatch, DatagramHandle};
    /// use netpoll_server::Datagrams;
    ///
    /// struct Seen { datagrams: usize }
    ///
    /// let counting = Datagrams::bind("udp", "127.0.0.1:0")?
    ///     .on_open(|_: &DatagramHandle| Ok(Seen { datagrams: 0 }))
    ///     .on_datagrams(|seen: &mut Seen, batch: &DatagramBatch<'_>| {
    ///         seen.datagrams += batch.len();
    ///         Ok(())
    ///     });
    /// # drop(counting);
    /// # Ok::<(), netpoll_core::Error>(())
    /// ```
    pub fn on_open<S>(self, callback: impl OnOpen<S>) -> DatagramSessions<S> {
        DatagramSessions { socket: self, on_open: Box::new(callback) }
    }
}

impl<S: Send + 'static> DatagramSessions<S> {
    /// Serves it with this callback; see [`OnDatagrams`].
    pub fn on_datagrams(self, callback: impl OnDatagrams<S>) -> DatagramServer {
        let on_open = self.on_open;
        let on_open = move |handle: &DatagramHandle| on_open.on_open(handle);
        DatagramServer::new(self.socket, DatagramCallbacks::new(on_open, callback))
    }
}

impl DatagramServer {
    pub(super) fn new(socket: Datagrams, callbacks: Arc<dyn PrepareDatagrams>) -> Self {
        Self { socket, callbacks, limits: DatagramLimits::default(), flows: None }
    }

    /// The limits of each of its sockets. `serve` refuses some that can't be used.
    pub fn limits(mut self, limits: DatagramLimits) -> Self {
        self.limits = limits;
        self
    }

    /// The address that it is bound to.
    pub fn local_addr(&self) -> &Address {
        self.socket.local_addr()
    }

    pub(crate) fn share(&self) -> Option<&Share> {
        self.socket.share_of_succession()
    }

    /// Checks what can be checked before anything is started.
    pub(crate) fn validate(&self) -> Result<()> {
        self.limits.validate()?;
        self.flows.as_ref().map_or(Ok(()), |(options, _)| options.validate())
    }
}

impl fmt::Debug for DatagramServer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("DatagramServer")
            .field("socket", &self.socket)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl<S> fmt::Debug for DatagramSessions<S> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("DatagramSessions").field("socket", &self.socket).finish_non_exhaustive()
    }
}
