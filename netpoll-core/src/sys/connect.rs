//! The system calls of a dial: a socket, its options, and a connect that goes on by itself.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::libc;
use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use socket2::{Domain, Socket, Type};

use super::binding::raw_address;
use super::keepalive::{self, Keepalive};
use super::stream::tcp_socket;
use crate::base::address::Address;

/// The options that a socket gets before it is connected. `DialerBuilder` documents each.
#[derive(Clone)]
#[expect(missing_docs, reason = "`DialerBuilder` of netpoll-client documents each, with defaults")]
pub struct ConnectOptions {
    pub local: Option<SocketAddr>,
    pub nodelay: bool,
    pub keepalive: Option<Keepalive>,
    pub user_timeout: Option<Duration>,
    pub receive_buffer: Option<usize>,
    pub send_buffer: Option<usize>,
    pub notsent_lowat: Option<usize>,
    pub device: Option<String>,
    pub before_connect: Option<Arc<BeforeConnect>>,
}

/// A function that is given the raw socket before it is connected.
pub type BeforeConnect = dyn Fn(BorrowedFd<'_>) -> io::Result<()> + Send + Sync;

impl fmt::Debug for ConnectOptions {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("ConnectOptions")
            .field("local", &self.local)
            .field("nodelay", &self.nodelay)
            .field("keepalive", &self.keepalive)
            .field("user_timeout", &self.user_timeout)
            .field("device", &self.device)
            .finish_non_exhaustive()
    }
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            local: None,
            nodelay: true,
            keepalive: None,
            user_timeout: None,
            receive_buffer: None,
            send_buffer: None,
            notsent_lowat: None,
            device: None,
            before_connect: None,
        }
    }
}

/// A socket on its way to `to`. When it is writable it is connected or has failed, and
/// [`take_error`](super::stream::take_error) says which. A Unix socket fails with `WouldBlock` if
/// the queue of its listener is full, and no event will tell when it is not.
pub(crate) fn connect(to: &Address, options: &ConnectOptions) -> io::Result<OwnedFd> {
    let socket = match to {
        Address::Inet(to) => tcp_socket(*to)?,
        _ => Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?,
    };
    if !to.is_unix() {
        prepare_tcp(&socket, options)?;
    }
    prepare(&socket, to, options)?;
    match socket.connect(&raw_address(to)?) {
        Ok(()) => {}
        // An interrupted connect goes on like one in progress; calling it again would be an error.
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(error) if error.kind() == ErrorKind::Interrupted => {}
        Err(error) => return Err(error),
    }
    Ok(socket.into())
}

/// Sets what a socket of datagrams has, too, and calls the user's function, which comes last.
pub(super) fn prepare(socket: &Socket, to: &Address, options: &ConnectOptions) -> io::Result<()> {
    if let Some(bytes) = options.receive_buffer {
        socket.set_recv_buffer_size(bytes)?;
    }
    if let Some(bytes) = options.send_buffer {
        socket.set_send_buffer_size(bytes)?;
    }
    if !to.is_unix() {
        choose_path(socket, options)?;
    }
    match &options.before_connect {
        Some(hook) => hook(socket.as_fd()),
        None => Ok(()),
    }
}

fn prepare_tcp(socket: &Socket, options: &ConnectOptions) -> io::Result<()> {
    if options.nodelay {
        socket.set_tcp_nodelay(true)?;
    }
    if let Some(probes) = options.keepalive {
        keepalive::set(socket.as_fd(), Some(probes))?;
    }
    if let Some(time) = options.user_timeout {
        keepalive::set_user_timeout(socket.as_fd(), Some(time))?;
    }
    if let Some(bytes) = options.notsent_lowat {
        socket.set_tcp_notsent_lowat(u32::try_from(bytes).unwrap_or(u32::MAX))?;
    }
    Ok(())
}

/// Chooses by which interface, and from which address, a socket of the internet sends.
fn choose_path(socket: &Socket, options: &ConnectOptions) -> io::Result<()> {
    if let Some(device) = &options.device {
        socket.bind_device(Some(device.as_bytes()))?;
    }
    if let Some(local) = options.local {
        if local.port() == 0 {
            // The port is then chosen when the peer is known, so that each pair of addresses has
            // all ports, instead of all pairs sharing them.
            setsockopt(socket, IpBindAddressNoPort, &true)?;
        }
        socket.bind(&local.into())?;
    }
    Ok(())
}
