//! Listening sockets: opened here, adopted, or taken over from another process.

use std::io::{self, ErrorKind};
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use netpoll_core::socket::{self, SocketOptions};
use netpoll_core::{Address, Error, FilterServer, ListenerInfo, Result, guard};

use crate::handover::manifest;
use crate::handover::succession::Share;
use crate::proxy::ProxyProtocol;
use crate::service::Service;
use crate::socket_file::SocketFile;

/// A listening socket, ready to be served, of TCP or a Unix socket.
///
/// A listener that was opened at a path removes the path when it is closed, unless another socket
/// has taken its place there or [`EventLoop::hand_over`](crate::EventLoop::hand_over) has given it
/// to another process.
///
/// ```
/// use netpoll_server::Listener;
///
/// let listener = Listener::bind("tcp", "127.0.0.1:0")?;
/// assert_ne!(listener.local_addr()?.port(), 0);
/// let adopted = Listener::from(std::net::TcpListener::bind("127.0.0.1:0")?).named("admin");
/// assert_eq!(adopted.name(), Some("admin"));
/// # Ok::<(), netpoll_core::Error>(())
/// ```
#[derive(Debug)]
pub struct Listener {
    socket: Arc<socket::Listener>,
    /// Further sockets on its address, of the other process's loops, if it was taken over.
    further: Vec<Arc<socket::Listener>>,
    pub(crate) service: Service,
    file: Option<SocketFile>,
    /// It was not opened by this crate, so its options are not set yet.
    foreign: bool,
    /// Another process, or the user, may have a descriptor of it.
    shared: AtomicBool,
    /// How it was opened, if each loop opens a further socket to accept for itself.
    again: Option<Arc<Again>>,
    /// Its share of a hand-over, if it was taken over.
    share: Option<Share>,
}

/// How a socket was opened.
#[derive(Debug)]
pub(crate) struct Again {
    address: Address,
    options: SocketOptions,
}

impl Listener {
    /// The listeners that the parent process opened for this one, as systemd does for a service
    /// that has a `.socket` unit: from the variables `LISTEN_PID`, `LISTEN_FDS` and
    /// `LISTEN_FDNAMES`. Each has its name from there. None if the variables are not set or not
    /// meant for this process, and from the second call on. Descriptors that do not listen for
    /// streams are left alone, and so are descriptors that this program itself has opened.
    ///
    /// # Errors
    /// The system's.
    pub fn inherited() -> Result<Vec<Self>> {
        let named = |(name, fd): (String, OwnedFd)| match name.as_str() {
            "" => Self::from(fd),
            _ => Self::from(fd).named(name),
        };
        Ok(socket::inherited()?.into_iter().map(named).collect())
    }

    /// A listener that was opened elsewhere.
    fn of(socket: socket::Listener) -> Self {
        Self {
            socket: Arc::new(socket),
            further: Vec::new(),
            service: Service::default(),
            file: None,
            foreign: true,
            shared: AtomicBool::new(true),
            again: None,
            share: None,
        }
    }

    pub(crate) fn opened(address: &Address, options: SocketOptions) -> io::Result<Self> {
        let mut listener = Self::of(socket::Listener::open(address, &options)?);
        (listener.foreign, listener.shared) = (false, AtomicBool::new(false));
        if let Some(path) = address.path() {
            listener.file = Some(SocketFile::new(path)?);
        }
        if options.bind.reuse_port && !address.is_unix() {
            // Port 0 let the system choose; further sockets must have the port that it chose.
            let address = listener.socket.local_address()?;
            listener.again = Some(Arc::new(Again { address, options }));
        }
        Ok(listener)
    }

    /// Gives the listener a name, which callbacks see and logs show. Default: its address.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.service.name = Some(name.into());
        self
    }

    /// How many connections of this listener may be open at a time. Default `None`: as many as the
    /// event loop allows.
    #[must_use]
    pub fn max_connections(mut self, connections: impl Into<Option<usize>>) -> Self {
        self.service.max_connections = connections.into();
        self
    }

    /// Expects every connection to begin with a header of the PROXY protocol, version 1 or 2, and
    /// takes the client's address from it; callbacks see only what comes behind it, and have the
    /// header as [`Connection::proxy_header`](netpoll_core::Connection::proxy_header). A connection
    /// that begins otherwise, or too late, is closed. Default `None`.
    ///
    /// For listeners that only proxies can reach, or with
    /// [`TrustedProxies`](crate::TrustedProxies): any other peer can claim any address.
    #[must_use]
    pub fn proxy_protocol(mut self, proxy: impl Into<Option<ProxyProtocol>>) -> Self {
        self.service.proxy = proxy.into();
        self
    }

    /// Puts a filter, such as TLS, between the socket of each connection and its buffers. Its
    /// handshake comes after a header of the PROXY protocol and after `on_prepare`, and before
    /// `on_connect`; it runs where callbacks run. Default: none.
    ///
    /// It is not passed on by [`EventLoop::hand_over`](crate::EventLoop::hand_over): the other
    /// process calls this too, and `serve` refuses a listener for which that was forgotten.
    #[must_use]
    pub fn filter(mut self, filter: Arc<dyn FilterServer>) -> Self {
        self.service.filter = Some(filter);
        self
    }

    /// Whether all loops accept on this one socket, each for itself, by `EPOLLEXCLUSIVE`: a new
    /// connection wakes one loop that waits, and stays there. A loop that is busy is passed over,
    /// and no connection is passed between threads. Default `false`: with several loops the main
    /// reactor accepts, and `LoadBalance` chooses the loop.
    ///
    /// For short connections: it is more even in time and less even in number, since the kernel
    /// wakes the loop that it finds first, and `LoadBalance` has no say. It is passed on by
    /// [`EventLoop::hand_over`](crate::EventLoop::hand_over). `serve` refuses it together with
    /// [`reuse_port`](crate::ListenOptions::reuse_port), which gives each loop a socket of its own.
    ///
    /// ```
    /// use netpoll_server::Listener;
    ///
    /// let listener = Listener::bind("tcp", "127.0.0.1:0")?.idle_loop_accepts(true);
    /// # Ok::<(), netpoll_core::Error>(())
    /// ```
    #[must_use]
    pub fn idle_loop_accepts(mut self, yes: bool) -> Self {
        self.service.idle_loop_accepts = yes;
        self
    }

    /// The name that it was given.
    pub fn name(&self) -> Option<&str> {
        self.service.name.as_deref()
    }

    /// The address it listens on, with the port that the system chose where 0 was asked for.
    ///
    /// # Errors
    /// The system's.
    pub fn local_addr(&self) -> Result<Address> {
        Ok(self.socket.local_address()?)
    }

    /// How further sockets on its address are opened.
    pub(crate) fn again(&self) -> Option<&Arc<Again>> {
        self.again.as_ref()
    }

    /// The sockets that it has so far, at least one.
    pub(crate) fn sockets(&self) -> impl Iterator<Item = &Arc<socket::Listener>> {
        std::iter::once(&self.socket).chain(&self.further)
    }

    /// Whether another process, or the user, may have a descriptor of the socket.
    pub(crate) fn is_shared(&self) -> bool {
        self.shared.load(Ordering::Relaxed)
    }

    /// Makes the socket fit for a reactor, and returns what connections know of the listener.
    pub(crate) fn prepare(&self, index: usize) -> Result<Arc<ListenerInfo>> {
        if let Err(error) = self.socket.adopt(self.foreign) {
            return Err(match error.kind() {
                ErrorKind::InvalidInput => Error::config(format!(
                    "listener {index} is no listening stream socket, so it cannot be served"
                )),
                _ => error.into(),
            });
        }
        for further in &self.further {
            further.adopt(self.foreign)?;
        }
        self.service.validate(index)?;
        if self.service.idle_loop_accepts && self.again.is_some() {
            return Err(Error::config(format!(
                "listener {index} has both idle_loop_accepts and reuse_port, but each loop has \
                 either the one socket or one of its own; leave out one of the two"
            )));
        }
        let address = self.local_addr()?;
        let name = self.name().map_or_else(|| address.to_string(), str::to_owned);
        Ok(Arc::new(ListenerInfo { index, name: name.into(), address }))
    }

    /// A listener that another process has handed over, with the options that it was opened with.
    /// Its path stays the other process's until [`own_path`](Self::own_path).
    pub(crate) fn handed(
        entry: manifest::Entry,
        sockets: Vec<OwnedFd>,
        share: Share,
    ) -> Result<Self> {
        let manifest::Entry { service, file, again, .. } = entry;
        let mut sockets: Vec<_> = sockets.into_iter().map(|it| Arc::new(it.into())).collect();
        let further = sockets.split_off(1.min(sockets.len()));
        let Some(socket): Option<Arc<socket::Listener>> = sockets.pop() else {
            return Err(io::Error::from(ErrorKind::InvalidData).into());
        };
        let again = match again {
            Some(options) => Some(Arc::new(Again { address: socket.local_address()?, options })),
            None => None,
        };
        let file = file.map(|(path, identity)| SocketFile::of_another(path, identity));
        let (share, shared) = (Some(share), AtomicBool::new(true));
        Ok(Self { socket, further, service, file, foreign: false, shared, again, share })
    }

    /// The entry that describes it when it is handed over.
    pub(crate) fn entry(&self, sockets: usize) -> manifest::Entry {
        manifest::Entry {
            sockets,
            service: self.service.clone(),
            file: self.file.as_ref().map(SocketFile::identified),
            again: self.again.as_ref().map(|it| it.options.clone()),
            datagrams: None,
        }
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

    /// From here on the listener removes its path when it closes: the process that made the path
    /// does not any more.
    pub(crate) fn own_path(&mut self) {
        if let Some(file) = &mut self.file {
            file.own();
        }
    }

    /// From here on this process serves it.
    pub(crate) fn serve(&mut self) {
        if let Some(file) = &mut self.file {
            file.serve();
        }
    }

    /// From here on the path stays when the listener closes.
    pub(crate) fn keep_path(&mut self) {
        if let Some(file) = &mut self.file {
            file.keep();
        }
    }
}

/// The socket itself: for options that this crate does not offer, and for other processes.
impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.store(true, Ordering::Relaxed);
        self.socket.as_fd()
    }
}

impl From<OwnedFd> for Listener {
    /// Adopts a listening socket. `serve` refuses any other descriptor.
    fn from(fd: OwnedFd) -> Self {
        Self::of(fd.into())
    }
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        OwnedFd::from(listener).into()
    }
}

impl From<UnixListener> for Listener {
    fn from(listener: UnixListener) -> Self {
        OwnedFd::from(listener).into()
    }
}

impl Again {
    /// A further socket on the same address. It runs the user's `before_bind`.
    pub(crate) fn open(&self) -> io::Result<Arc<socket::Listener>> {
        let opened = guard("before_bind", || socket::Listener::open(&self.address, &self.options));
        let socket = opened.unwrap_or_else(|_| Err(io::Error::other("before_bind panicked")));
        let text =
            |error: io::Error| format!("cannot listen on {} once more: {error}", self.address);
        Ok(Arc::new(socket.map_err(|error| io::Error::new(error.kind(), text(error)))?))
    }
}
