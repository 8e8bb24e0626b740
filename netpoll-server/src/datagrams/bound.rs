//! A bound socket of datagrams, before it is served: opened here, adopted, or inherited.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;

use netpoll_core::socket::{self, DatagramFeatures, DatagramSocketOptions, Membership};
use netpoll_core::{Address, DatagramClient, DatagramSocket, Error, Result, guard};

use crate::handover::manifest;
use crate::handover::succession::Share;
use crate::socket_file::SocketFile;

/// A bound socket of datagrams, ready to be served, of UDP or a Unix socket.
///
/// One that was opened at a path removes the path when it is closed, unless another socket has
/// taken its place there.
///
/// ```
/// use netpoll_server::Datagrams;
///
/// let socket = Datagrams::bind("udp", "127.0.0.1:0")?;
/// assert_ne!(socket.local_addr().port(), 0);
/// let adopted = Datagrams::try_from(std::net::UdpSocket::bind("127.0.0.1:0")?)?.named("metrics");
/// assert_eq!(adopted.name(), Some("metrics"));
/// # Ok::<(), netpoll_core::Error>(())
/// ```
#[derive(Debug)]
pub struct Datagrams {
    socket: DatagramSocket,
    address: Address,
    name: Option<String>,
    features: DatagramFeatures,
    file: Option<SocketFile>,
    /// How further sockets are opened, if each loop may have one.
    further: Option<Further>,
    /// Further sockets on its address, of the other process's loops, if it was taken over.
    others: Vec<DatagramSocket>,
    /// Its share of a hand-over, if it was taken over.
    share: Option<Share>,
}

/// What a `serve` goes on with.
pub(super) struct Parts {
    /// At least one. What is sent to a group reaches the first.
    pub(super) sockets: Vec<DatagramSocket>,
    pub(super) name: Option<String>,
    pub(super) features: DatagramFeatures,
    pub(super) file: Option<SocketFile>,
    pub(super) further: Option<Further>,
    pub(super) share: Option<Share>,
}

/// How further sockets on an address are opened.
#[derive(Debug)]
pub(crate) struct Further {
    address: Address,
    options: DatagramSocketOptions,
}

impl Datagrams {
    /// The sockets of datagrams that the parent process opened for this one, as systemd does for a
    /// service that has a `.socket` unit with `ListenDatagram=`: from the variables that
    /// [`Listener::inherited`](crate::Listener::inherited) names. Each has its name from there.
    /// None if the variables are not set or not meant for this process, and from the second call
    /// on.
    ///
    /// # Errors
    /// The system's.
    pub fn inherited() -> Result<Vec<Self>> {
        let named = |(name, fd): (String, OwnedFd)| {
            let socket = Self::try_from(fd)?;
            Ok(if name.is_empty() { socket } else { socket.named(name) })
        };
        socket::inherited_datagrams()?.into_iter().map(named).collect()
    }

    pub(super) fn opened(
        address: &Address,
        options: DatagramSocketOptions,
        may_spread: bool,
    ) -> io::Result<Self> {
        let socket = DatagramSocket::bind(address, &options)?;
        let file = address.path().map(SocketFile::new).transpose()?;
        // Port 0 let the system choose; further sockets must have the port that it chose.
        let address = socket.local_address()?;
        let is_of_a_group = address.ip().is_some_and(|it| it.is_multicast());
        let features = options.features;
        let further = (may_spread && !address.is_unix() && !is_of_a_group)
            .then(|| Further { address: address.clone(), options });
        Ok(Self { file, further, ..Self::of(socket, features)? })
    }

    fn of(socket: DatagramSocket, features: DatagramFeatures) -> io::Result<Self> {
        let (address, others) = (socket.local_address()?, Vec::new());
        let (name, file, further, share) = (None, None, None, None);
        Ok(Self { socket, address, name, features, file, further, others, share })
    }

    fn adopted(socket: DatagramSocket) -> io::Result<Self> {
        Self::of(socket, DatagramFeatures::default())
    }

    /// What another process has handed over. Its path stays the other process's.
    pub(crate) fn handed(
        entry: manifest::Entry,
        sockets: Vec<OwnedFd>,
        share: Share,
    ) -> Result<Self> {
        let features = entry.datagrams.unwrap_or_default();
        let adopt = |fd| Self::adopt_with(fd, features);
        let mut sockets = sockets.into_iter().map(adopt).collect::<Result<Vec<_>>>()?.into_iter();
        let first = sockets.next().ok_or_else(|| io::Error::from(ErrorKind::InvalidData))?;
        Ok(Self {
            name: entry.service.name,
            file: entry.file.map(|(path, identity)| SocketFile::of_another(path, identity)),
            others: sockets.collect(),
            share: Some(share),
            ..Self::of(first, features)?
        })
    }

    fn adopt_with(fd: OwnedFd, features: DatagramFeatures) -> Result<DatagramSocket> {
        DatagramSocket::adopt(fd, features).map_err(|error| match error.kind() {
            ErrorKind::InvalidInput => Error::config("the descriptor is no socket of datagrams"),
            _ => error.into(),
        })
    }

    /// What a `serve` goes on with.
    pub(super) fn take(self) -> Parts {
        let Self { socket, name, features, file, further, mut others, share, .. } = self;
        others.insert(0, socket);
        Parts { sockets: others, name, features, file, further, share }
    }

    pub(crate) fn share_of_succession(&self) -> Option<&Share> {
        self.share.as_ref()
    }

    pub(crate) fn take_share(&mut self) -> Option<Share> {
        self.share.take()
    }

    pub(crate) fn take_file(&mut self) -> Option<SocketFile> {
        self.file.take()
    }

    pub(super) fn name_or_address(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.address.to_string())
    }

    /// Gives the socket a name, which logs show. Default: its address.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// The name that it was given.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The address it is bound to, with the port that the system chose where 0 was asked for.
    pub fn local_addr(&self) -> &Address {
        &self.address
    }

    /// Joins a multicast group; see [`DatagramOptions::join`](crate::DatagramOptions::join).
    ///
    /// # Errors
    /// [`Error::Config`](netpoll_core::Error::Config) for what is no group; of kind `NotFound` for
    /// an interface that is not there; the system's.
    pub fn join<'a>(&self, group: IpAddr, interface: impl Into<Option<&'a str>>) -> Result<()> {
        Ok(self.socket.join(&Membership::new(group, interface.into())?)?)
    }

    /// Ends a membership.
    ///
    /// # Errors
    /// As [`join`](Self::join).
    pub fn leave<'a>(&self, group: IpAddr, interface: impl Into<Option<&'a str>>) -> Result<()> {
        Ok(self.socket.leave(&Membership::new(group, interface.into())?)?)
    }
}

/// The socket itself, for options that this crate does not offer.
impl AsFd for Datagrams {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// For callbacks instead of waits: an event loop serves the connected socket, and callbacks send to
/// the peer by [`DatagramBatch::send`](netpoll_core::DatagramBatch::send). What the client has
/// received and not returned is lost.
impl TryFrom<DatagramClient> for Datagrams {
    type Error = Error;

    /// # Errors
    /// The system's.
    fn try_from(client: DatagramClient) -> Result<Self> {
        Ok(Self::adopted(client.into())?)
    }
}

/// Adopts a bound socket of datagrams. One loop serves it.
impl TryFrom<OwnedFd> for Datagrams {
    type Error = Error;

    /// # Errors
    /// [`Error::Config`] for what is no socket of datagrams; the system's.
    fn try_from(socket: OwnedFd) -> Result<Self> {
        Ok(Self::adopted(Self::adopt_with(socket, DatagramFeatures::default())?)?)
    }
}

impl TryFrom<UdpSocket> for Datagrams {
    type Error = Error;

    fn try_from(socket: UdpSocket) -> Result<Self> {
        OwnedFd::from(socket).try_into()
    }
}

impl TryFrom<UnixDatagram> for Datagrams {
    type Error = Error;

    fn try_from(socket: UnixDatagram) -> Result<Self> {
        OwnedFd::from(socket).try_into()
    }
}

impl Further {
    /// One more socket on the address. It runs the user's `before_bind`.
    pub(crate) fn open(&self) -> io::Result<DatagramSocket> {
        let open = || DatagramSocket::bind_further(&self.address, &self.options);
        let opened = guard("before_bind", open);
        let socket = opened.unwrap_or_else(|_| Err(io::Error::other("before_bind panicked")));
        let text = |error: io::Error| format!("cannot bind {} once more: {error}", self.address);
        socket.map_err(|error| io::Error::new(error.kind(), text(error)))
    }
}
