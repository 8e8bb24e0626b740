//! What an event loop is given to serve: listeners, and sockets of datagrams.

use std::net::TcpListener;
use std::os::unix::net::UnixListener;

use netpoll_core::{Address, Result};

use crate::datagrams::DatagramServer;
use crate::listener::Listener;

/// What [`EventLoop::serve`](crate::EventLoop::serve) takes: listeners and sockets of datagrams,
/// one or several.
///
/// ```
/// use netpoll_core::{Connection, DatagramBatch};
/// use netpoll_server::{Datagrams, EventLoop, Listener, Listeners};
///
/// let stream = Listener::bind("tcp", "127.0.0.1:0")?;
/// let datagrams = Datagrams::bind("udp", &stream.local_addr()?.to_string())?
///     .on_datagrams(|_: &mut (), _: &DatagramBatch<'_>| Ok(()));
/// let event_loop = EventLoop::new(|_: &mut Connection| Ok(()));
/// let running = event_loop.spawn(Listeners::from(stream).and(datagrams))?;
/// assert_eq!(running.addresses()[0], running.addresses()[1]);
/// # Ok::<(), netpoll_core::Error>(())
/// ```
#[derive(Debug)]
pub struct Listeners(pub(crate) Vec<Served>);

/// One of them.
#[derive(Debug)]
pub(crate) enum Served {
    Streams(Box<Listener>),
    Datagrams(Box<DatagramServer>),
}

impl Listeners {
    /// These, and others behind them.
    #[must_use]
    pub fn and(mut self, others: impl Into<Self>) -> Self {
        self.0.append(&mut others.into().0);
        self
    }

    /// The addresses of all, in their order.
    pub(crate) fn addresses(&self) -> Result<Vec<Address>> {
        self.0.iter().map(Served::address).collect()
    }

    /// Whether one of them was taken over.
    pub(crate) fn took_over(&self) -> bool {
        let share = |it: &Served| match it {
            Served::Streams(listener) => listener.share_of_succession().is_some(),
            Served::Datagrams(server) => server.share().is_some(),
        };
        self.0.iter().any(share)
    }

    /// The listeners with their places among all, and the sockets of datagrams.
    pub(crate) fn split(self) -> (Vec<(usize, Listener)>, Vec<DatagramServer>) {
        let (mut streams, mut datagrams) = (Vec::new(), Vec::new());
        for (index, each) in self.0.into_iter().enumerate() {
            match each {
                Served::Streams(listener) => streams.push((index, *listener)),
                Served::Datagrams(server) => datagrams.push(*server),
            }
        }
        (streams, datagrams)
    }
}

impl Served {
    fn address(&self) -> Result<Address> {
        match self {
            Self::Streams(listener) => listener.local_addr(),
            Self::Datagrams(server) => Ok(server.local_addr().clone()),
        }
    }
}

impl From<Listener> for Served {
    fn from(listener: Listener) -> Self {
        Self::Streams(Box::new(listener))
    }
}

impl From<DatagramServer> for Served {
    fn from(server: DatagramServer) -> Self {
        Self::Datagrams(Box::new(server))
    }
}

impl From<Listener> for Listeners {
    fn from(listener: Listener) -> Self {
        Self(vec![listener.into()])
    }
}

impl From<TcpListener> for Listeners {
    fn from(listener: TcpListener) -> Self {
        Listener::from(listener).into()
    }
}

impl From<UnixListener> for Listeners {
    fn from(listener: UnixListener) -> Self {
        Listener::from(listener).into()
    }
}

impl From<Vec<Listener>> for Listeners {
    fn from(listeners: Vec<Listener>) -> Self {
        Self(listeners.into_iter().map(Served::from).collect())
    }
}

impl<const N: usize> From<[Listener; N]> for Listeners {
    fn from(listeners: [Listener; N]) -> Self {
        Vec::from(listeners).into()
    }
}

impl From<DatagramServer> for Listeners {
    fn from(server: DatagramServer) -> Self {
        Self(vec![server.into()])
    }
}
