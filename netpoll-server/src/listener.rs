//! Listening sockets: opened here, or adopted from whoever opened them.

use std::io::{self, ErrorKind};
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use netpoll_core::socket::{self, SocketOptions};
use netpoll_core::{Address, Error, ListenerInfo, Result, guard};

use crate::listen_options::ListenOptions;
use crate::manifest;
use crate::proxy::ProxyProtocol;
use crate::succession::Share;

/// A listening socket, ready to be served, of TCP or a unix socket.
///
/// One that was opened at a path removes the path when it is closed, unless another socket has
/// taken its place there or [`EventLoop::hand_over`](crate::EventLoop::hand_over) has given it to
/// another process.
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
    fd: Arc<OwnedFd>,
    /// Where it was taken over: further sockets on its address, of the other process's loops.
    further: Vec<Arc<OwnedFd>>,
    pub(crate) service: Service,
    file: Option<SocketFile>,
    /// Somebody else has opened it, and set its options.
    foreign: bool,
    /// Somebody else may have a descriptor of it.
    shared: AtomicBool,
    /// How it was opened, where each loop opens a further one to accept for itself.
    again: Option<Arc<Again>>,
    /// Where it was taken over.
    share: Option<Share>,
}

/// How a socket was opened.
#[derive(Debug)]
pub(crate) struct Again {
    address: Address,
    options: SocketOptions,
}

/// How a listener is served, beside what its socket is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Service {
    pub(crate) name: Option<String>,
    pub(crate) max_connections: Option<usize>,
    pub(crate) proxy: Option<ProxyProtocol>,
}

/// One listener or several, as [`EventLoop::serve`](crate::EventLoop::serve) takes them.
#[derive(Debug)]
pub struct Listeners(pub(crate) Vec<Listener>);

impl Listener {
    /// Listens with default options; see [`ListenOptions::bind`].
    ///
    /// # Errors
    /// As [`ListenOptions::bind`].
    pub fn bind(network: &str, address: &str) -> Result<Self> {
        ListenOptions::default().bind(network, address)
    }

    /// Options that are set before the socket listens.
    pub fn options() -> ListenOptions {
        ListenOptions::default()
    }

    /// The listeners that whoever started this process opened for it, as systemd does for a
    /// service that has a `.socket` unit: from the variables `LISTEN_PID`, `LISTEN_FDS` and
    /// `LISTEN_FDNAMES`. Each has its name from there. None where the variables are not set or
    /// not meant for this process, and from the second call on. Descriptors that do not listen for
    /// streams are left alone, and so are those that this program itself has opened.
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

    pub(crate) fn opened(address: &Address, options: SocketOptions) -> io::Result<Self> {
        let mut listener = Self::from(socket::listen(address, &options)?);
        (listener.foreign, listener.shared) = (false, AtomicBool::new(false));
        if let Some(path) = address.path() {
            listener.file = Some(SocketFile::new(path)?);
        }
        if options.reuse_port && !address.is_unix() {
            // Port 0 was the system's choice, and is now everybody's.
            let address = socket::local_address(&listener.fd)?;
            listener.again = Some(Arc::new(Again { address, options }));
        }
        Ok(listener)
    }

    /// Gives it a name, by which callbacks and logs know it. Default: its address.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.service.name = Some(name.into());
        self
    }

    /// Connections that came by it and may be open at a time. Default `None`: as many as the event
    /// loop allows.
    #[must_use]
    pub fn max_connections(mut self, connections: impl Into<Option<usize>>) -> Self {
        self.service.max_connections = connections.into();
        self
    }

    /// Expects every connection to begin with a header of the PROXY protocol, version 1 or 2, and
    /// takes the client's address from it; callbacks see only what comes behind it. A connection
    /// that begins otherwise, or too late, is closed. Default `None`.
    ///
    /// For listeners that none but proxies can reach: whoever connects says who they are.
    #[must_use]
    pub fn proxy_protocol(mut self, proxy: impl Into<Option<ProxyProtocol>>) -> Self {
        self.service.proxy = proxy.into();
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
        Ok(socket::local_address(&self.fd)?)
    }

    /// How further sockets on its address are opened.
    pub(crate) fn again(&self) -> Option<&Arc<Again>> {
        self.again.as_ref()
    }

    /// The sockets that it has so far, one of them at least.
    pub(crate) fn sockets(&self) -> impl Iterator<Item = &Arc<OwnedFd>> {
        std::iter::once(&self.fd).chain(&self.further)
    }

    /// The socket, for somebody who may go on with it whatever happens here.
    pub(crate) fn share(&self) -> &Arc<OwnedFd> {
        self.shared.store(true, Ordering::Relaxed);
        &self.fd
    }

    /// Whether somebody else may have a descriptor of the socket, and go on with it.
    pub(crate) fn is_shared(&self) -> bool {
        self.shared.load(Ordering::Relaxed)
    }

    /// Makes the socket fit for a reactor whoever opened it, and says how connections know it.
    pub(crate) fn prepare(&self, index: usize) -> Result<Arc<ListenerInfo>> {
        if let Err(error) = socket::adopt_listener(&self.fd, self.foreign) {
            return Err(match error.kind() {
                ErrorKind::InvalidInput => Error::config(format!(
                    "listener {index} is no listening stream socket, so it cannot be served"
                )),
                _ => error.into(),
            });
        }
        for further in &self.further {
            socket::adopt_listener(further, self.foreign)?;
        }
        if self.service.max_connections == Some(0) {
            return Err(Error::config(format!(
                "max_connections of listener {index} is 0, so nobody could connect"
            )));
        }
        if let Some(ProxyProtocol { deadline, limit }) = self.service.proxy
            && (deadline.is_zero() || limit < 107)
        {
            return Err(Error::config(format!(
                "proxy_protocol of listener {index} needs a deadline, and a limit of 107 or more"
            )));
        }
        let address = self.local_addr()?;
        let name = self.name().map_or_else(|| address.to_string(), str::to_owned);
        Ok(Arc::new(ListenerInfo { index, name: name.into(), address }))
    }

    /// What a process like this one has opened and handed over: its options are as that wanted
    /// them. Its path stays that process's until [`own_path`](Self::own_path).
    pub(crate) fn handed(
        entry: manifest::Entry,
        mut sockets: Vec<Arc<OwnedFd>>,
        share: Share,
    ) -> Result<Self> {
        let manifest::Entry { service, file, again, .. } = entry;
        let further = sockets.split_off(1.min(sockets.len()));
        let Some(fd) = sockets.pop() else {
            return Err(io::Error::from(ErrorKind::InvalidData).into());
        };
        let again = match again {
            Some(options) => {
                Some(Arc::new(Again { address: socket::local_address(&fd)?, options }))
            }
            None => None,
        };
        let file = file.map(|(path, identity)| SocketFile::of_another(path, identity));
        let (share, shared) = (Some(share), AtomicBool::new(true));
        Ok(Self { fd, further, service, file, foreign: false, shared, again, share })
    }

    /// What is said of it when it is handed over.
    pub(crate) fn entry(&self, sockets: usize) -> manifest::Entry {
        manifest::Entry {
            sockets,
            service: self.service.clone(),
            file: self.file.as_ref().map(|it| (it.path.to_path_buf(), it.identity)),
            again: self.again.as_ref().map(|it| it.options.clone()),
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

    /// Removes the path when the listener closes, since the process that made it does so no more.
    pub(crate) fn own_path(&mut self) {
        if let Some(file) = &mut self.file {
            file.own();
        }
    }

    /// From here on this process serves it.
    pub(crate) fn serve(&mut self) {
        if let Some(file) = &mut self.file {
            file.served = Some(process::id());
        }
    }

    /// Leaves the path where it is when the listener closes.
    pub(crate) fn keep_path(&mut self) {
        if let Some(file) = &mut self.file {
            file.kept = true;
        }
    }
}

/// The socket itself: for options that nothing here offers, and to be handed to other processes.
impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.share().as_fd()
    }
}

impl From<OwnedFd> for Listener {
    /// Adopts a listening socket. What is none is refused by `serve`.
    fn from(fd: OwnedFd) -> Self {
        Self {
            fd: Arc::new(fd),
            further: Vec::new(),
            service: Service::default(),
            file: None,
            foreign: true,
            shared: AtomicBool::new(true),
            again: None,
            share: None,
        }
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

impl From<Listener> for Listeners {
    fn from(listener: Listener) -> Self {
        Self(vec![listener])
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
        Self(listeners)
    }
}

impl<const N: usize> From<[Listener; N]> for Listeners {
    fn from(listeners: [Listener; N]) -> Self {
        Self(listeners.into())
    }
}

impl Again {
    /// A further socket on the same address. It runs the user's `before_bind`.
    pub(crate) fn open(&self) -> io::Result<Arc<OwnedFd>> {
        let opened = guard("before_bind", || socket::listen(&self.address, &self.options));
        let socket = opened.unwrap_or_else(|_| Err(io::Error::other("before_bind panicked")));
        let text =
            |error: io::Error| format!("cannot listen on {} once more: {error}", self.address);
        Ok(Arc::new(socket.map_err(|error| io::Error::new(error.kind(), text(error)))?))
    }
}

/// The file of a unix socket. Its drop removes it, if it is still the one that was made, and this
/// the process that serves it: a fork has a copy of this value, and is not the server. One that was
/// never served is left to another process that has the socket, as the child of a daemon has.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: Box<Path>,
    /// Device and inode.
    identity: (u64, u64),
    /// The process that serves it.
    served: Option<u32>,
    kept: bool,
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<Self> {
        // The process may change its directory before the drop.
        let path = std::path::absolute(path)?;
        let identity = socket::identity(&path)?;
        let mut file = Self::of_another(path, identity);
        file.kept = false;
        Ok(file)
    }

    /// It is this process's to remove, whichever others have the socket.
    pub(crate) fn own(&mut self) {
        (self.kept, self.served) = (false, Some(process::id()));
    }

    /// One that another process made, which removes it.
    fn of_another(path: PathBuf, identity: (u64, u64)) -> Self {
        Self { path: path.into(), identity, served: None, kept: true }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // The listener's own socket is closed by now.
        let ours = match self.served {
            Some(server) => server == process::id(),
            None => socket::is_dead(&self.path),
        };
        if self.kept || !ours {
            return;
        }
        let ours = socket::identity(&self.path).is_ok_and(|it| it == self.identity);
        if ours && let Err(error) = std::fs::remove_file(&self.path) {
            log::warn!("cannot remove the socket {}: {error}", self.path.display());
        }
    }
}
