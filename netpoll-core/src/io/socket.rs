//! The sockets that the server and the client open: listeners, accepted and dialled streams.

use std::borrow::Cow;
use std::io;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

use netpoll_buffer::{Filled, LinkBuffer};

use crate::base::address::{Address, parse_port};
use crate::base::error::{Error, Result};
use crate::sys;

pub use crate::sys::connect::{BeforeConnect, ConnectOptions, Keepalive};
pub use crate::sys::handshakes::Handshake;
pub use crate::sys::listener::{BeforeBind, SocketOptions};

/// A connected stream: what a connection pulls its input from and pushes its output to.
///
/// With epoll both are a system call on the caller's own thread. In a connection it is closed by
/// whoever holds it last, the owner or the output (`connection/socket.rs`), so no operation can
/// reach the next owner of its number.
#[derive(Debug)]
pub(crate) struct Stream(OwnedFd);

/// What a stream's socket is. It says when a receive has emptied it; and it stands beside the
/// stream, where there is room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Tcp,
    /// A receive stops where descriptors or credentials were sent along, though more is there.
    Unix,
}

impl Kind {
    /// Of a socket that has such an address at either end.
    pub(crate) fn of(address: &Address) -> Self {
        if address.is_unix() { Self::Unix } else { Self::Tcp }
    }

    /// Whether a receive has left nothing behind, as far as the bytes go that it was for.
    #[inline]
    pub(crate) fn is_drained_by(self, filled: Filled) -> bool {
        filled.read < filled.reserved && self == Self::Tcp
    }
}

/// Who is at the other end of a unix socket, as the kernel noted it when they connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Credentials {
    /// The process id; it may have ended, and its number be another's by now.
    pub process: i32,
    /// The effective user id.
    pub user: u32,
    /// The effective group id.
    pub group: u32,
}

/// What a send did.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sent {
    pub(crate) bytes: usize,
    /// Whether the socket took all that it was offered, and so may take more.
    pub(crate) all_offered: bool,
}

impl Stream {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Pulls at most `max` bytes into `input`: one `readv`, or one `recvfrom` into a single block.
    pub(crate) fn receive(&self, input: &mut LinkBuffer, max: usize) -> io::Result<Filled> {
        input.fill(max, |slices| sys::receive(self.0.as_fd(), slices))
    }

    /// Pushes what stands readable in `output`, once: one `sendmsg`, or one `sendto` of a single
    /// block. It consumes nothing.
    #[inline]
    pub(crate) fn send(&self, output: &LinkBuffer) -> io::Result<Sent> {
        let first = output.chunk();
        if first.len() < output.len() {
            return self.send_several(output);
        }
        let bytes = sys::send_one(self.0.as_fd(), first)?;
        Ok(Sent { bytes, all_offered: bytes == first.len() })
    }

    fn send_several(&self, output: &LinkBuffer) -> io::Result<Sent> {
        let mut slices = [io::IoSlice::new(&[]); sys::MAX_SLICES];
        let count = output.gather(&mut slices);
        let offered: usize = slices[..count].iter().map(|slice| slice.len()).sum();
        let bytes = sys::send(self.0.as_fd(), &slices[..count])?;
        Ok(Sent { bytes, all_offered: bytes == offered })
    }

    pub(crate) fn shutdown_write(&self) -> io::Result<()> {
        sys::shutdown_write(self.0.as_fd())
    }

    /// Makes the coming close a reset.
    pub(crate) fn reset_on_close(&self) -> io::Result<()> {
        sys::reset_on_close(self.0.as_fd())
    }

    /// The error that the socket holds, if any; it is taken out.
    pub(crate) fn take_error(&self) -> io::Result<()> {
        sys::take_error(self.0.as_fd())
    }

    pub(crate) fn local_address(&self) -> io::Result<Address> {
        sys::local_address(self.0.as_fd())
    }

    pub(crate) fn peer_credentials(&self) -> io::Result<Credentials> {
        let (process, user, group) = sys::peer_credentials(self.0.as_fd())?;
        Ok(Credentials { process, user, group })
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The addresses behind `host:port`, those of the network's family alone: all for `"tcp"`, IPv4 for
/// `"tcp4"`, IPv6 for `"tcp6"`. Names are asked for on this thread, which waits for the answer.
///
/// # Errors
/// [`Error::Config`] for another network, an address without a port, or a name without an address
/// of that family; [`Error::Address`] where the resolver fails. `doing` says for what, as in
/// "listen on".
pub fn resolve(doing: &'static str, network: &str, address: &str) -> Result<Vec<SocketAddr>> {
    let fits: fn(&SocketAddr) -> bool = match network {
        "tcp" => |_| true,
        "tcp4" => SocketAddr::is_ipv4,
        "tcp6" => SocketAddr::is_ipv6,
        _ => {
            return Err(Error::config(format!(
                "cannot {doing} {network} {address}: the network must be tcp, tcp4, tcp6 or unix"
            )));
        }
    };
    if address.rsplit_once(':').is_some_and(|(_, port)| parse_port(port).is_none()) {
        return Err(Error::config(format!(
            "cannot {doing} {network} {address}: the port must be a number from 0 to 65535"
        )));
    }
    let address = &*numbered_zone(address);
    let all = address.to_socket_addrs().map_err(|error| match error.kind() {
        io::ErrorKind::InvalidInput => Error::config(format!(
            "cannot {doing} {network} {address}: {error}; write it as host:port or [v6]:port"
        )),
        _ => Error::address(doing, network, address, error),
    })?;
    let fitting: Vec<_> = all.filter(fits).collect();
    if fitting.is_empty() {
        return Err(Error::config(format!(
            "cannot {doing} {network} {address}: it has no address of that family"
        )));
    }
    Ok(fitting)
}

/// An IPv6 address with its zone as a number, `[fe80::1%2]:80`, where it was named by an interface,
/// `[fe80::1%eth0]:80`, which the standard library doesn't know.
fn numbered_zone(address: &str) -> Cow<'_, str> {
    let numbered = || {
        let (host, port) = address.strip_prefix('[')?.rsplit_once("]:")?;
        let (host, zone) = host.split_once('%')?;
        Some(format!("[{host}%{}]:{port}", sys::device_number(zone).ok()?))
    };
    numbered().map_or(Cow::Borrowed(address), Cow::Owned)
}

/// The address that `host` is written as; `None` where it is a name. The zone of an IPv6 address
/// is the number of a network device or its name, which must exist.
pub fn literal(host: &str, port: u16) -> Option<SocketAddr> {
    let Some((host, zone)) = host.split_once('%') else {
        return Some(SocketAddr::new(host.parse().ok()?, port));
    };
    let host: Ipv6Addr = host.parse().ok()?;
    let plain = !zone.is_empty() && zone.bytes().all(|it| it.is_ascii_digit());
    let zone = if plain { zone.parse().ok()? } else { sys::device_number(zone).ok()? };
    Some(SocketAddrV6::new(host, port, 0, zone).into())
}

/// What has arrived on a stream, up to the length of `into`; it stays there to be received.
///
/// # Errors
/// The system's; `WouldBlock` while nothing has.
pub fn peek(stream: &impl AsFd, into: &mut [u8]) -> io::Result<usize> {
    sys::peek(stream.as_fd(), into)
}

/// Takes the first bytes of what has arrived on a stream.
///
/// # Errors
/// The system's; `UnexpectedEof` where fewer have.
pub fn take(stream: &impl AsFd, into: &mut [u8]) -> io::Result<()> {
    let read = sys::receive(stream.as_fd(), &mut [io::IoSliceMut::new(into)])?;
    if read == into.len() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// Says `words` to somebody who is not admitted, as far as the socket takes them at once, and
/// closes in order: what they have sent is taken first, so that no reset overtakes the words.
pub fn part_with(stream: OwnedFd, words: &[u8]) {
    let stream = Stream::new(stream);
    if !words.is_empty() {
        // Who doesn't take it is refused without it.
        let _ = sys::send(stream.as_fd(), &[io::IoSlice::new(words)]);
    }
    let _ = stream.shutdown_write();
    let mut unread = LinkBuffer::new();
    let _ = stream.receive(&mut unread, 64 << 10);
}

/// Whether a failure to accept is about the one connection, so that the next may be tried at once.
pub fn is_of_one_connection(error: &io::Error) -> bool {
    sys::is_of_one_connection(error)
}

/// Whether the process, or the system, has no descriptors left.
pub fn is_out_of_descriptors(error: &io::Error) -> bool {
    sys::is_out_of_descriptors(error)
}

/// Whether a failure to accept says that the listener itself is beyond repair.
pub fn is_listener_dead(error: &io::Error) -> bool {
    sys::is_of_a_dead_listener(error)
}

/// Opens a listening socket, non-blocking and closed on exec. A unix socket's path is taken over
/// from a socket that nobody listens behind any more, and from nothing else.
///
/// # Errors
/// The system's: `AddrInUse`, `AddrNotAvailable`, `PermissionDenied`, …
pub fn listen(address: &Address, options: &SocketOptions) -> io::Result<OwnedFd> {
    sys::listener::listen(address, options)
}

/// Makes a listener fit for a reactor, whoever opened it: non-blocking. One of TCP whose options
/// are `foreign` gets `TCP_NODELAY`, which ours have unless somebody did not want it.
///
/// # Errors
/// The system's; `InvalidInput` for what is no listening stream socket.
pub fn adopt_listener(listener: &impl AsFd, foreign: bool) -> io::Result<()> {
    let fd = listener.as_fd();
    if !sys::listener::is_listener(fd)? {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    sys::set_nonblocking(fd)?;
    if foreign && !sys::local_address(fd)?.is_unix() { sys::set_nodelay(fd) } else { Ok(()) }
}

/// Whether a socket listens for streams.
pub fn is_listening(socket: &impl AsFd) -> bool {
    sys::listener::is_listener(socket.as_fd()).unwrap_or(false)
}

/// The address a socket is bound to.
///
/// # Errors
/// The system's.
pub fn local_address(socket: &impl AsFd) -> io::Result<Address> {
    sys::local_address(socket.as_fd())
}

/// Which file stands at a path: device and inode.
///
/// # Errors
/// The system's.
pub fn identity(path: &Path) -> io::Result<(u64, u64)> {
    sys::listener::identity(path)
}

/// Whether a path is of a Unix socket behind which no process listens any more.
pub fn is_dead(path: &Path) -> bool {
    sys::listener::is_dead_socket(path).unwrap_or(false)
}

/// Takes one connection out of a listener's queue.
///
/// # Errors
/// The system's; `WouldBlock` where none waits.
pub fn accept(listener: &impl AsFd) -> io::Result<(OwnedFd, Address)> {
    sys::accept(listener.as_fd())
}

/// Lets no further connection begin on a TCP listener; those that have begun reach its queue.
///
/// # Errors
/// The system's.
pub fn turn_away_newcomers(listener: &impl AsFd) -> io::Result<()> {
    sys::listener::turn_away_newcomers(listener.as_fd())
}

/// Who has begun to connect to the port of a TCP listener, with a handshake that is not complete:
/// asked of the kernel by `sock_diag(7)`; costs a walk of its table of connections.
///
/// Those of other sockets on the same port are among them.
///
/// # Errors
/// The system's, where it has no such table or does not show it.
pub fn handshakes(listener: &impl AsFd) -> io::Result<Vec<Handshake>> {
    sys::handshakes::of_port(listener.as_fd())
}

/// Closes the port of a listener, whoever has descriptors of it; those in its queue are reset.
///
/// # Errors
/// The system's.
pub fn stop_listening(listener: &impl AsFd) -> io::Result<()> {
    sys::listener::stop_listening(listener.as_fd())
}

/// A descriptor that does nothing but be there to be given up when others have run out.
///
/// # Errors
/// The system's.
pub fn spare_descriptor() -> io::Result<OwnedFd> {
    sys::listener::spare()
}

/// The effective user of this process.
pub fn own_user() -> u32 {
    sys::control::own_user()
}

/// Who is at the other end of a Unix stream: the process that connected, or that listened.
///
/// # Errors
/// The system's.
pub fn peer_credentials(stream: &UnixStream) -> io::Result<Credentials> {
    let (process, user, group) = sys::peer_credentials(stream.as_fd())?;
    Ok(Credentials { process, user, group })
}

/// Sends all of `bytes`.
///
/// # Errors
/// The system's; `TimedOut` where the peer has not taken them by the deadline.
pub fn send_within(to: &UnixStream, bytes: &[u8], deadline: Instant) -> io::Result<()> {
    sys::control::send_within(to, bytes, deadline)
}

/// Receives as many bytes as `into` has. With a deadline that has passed it takes what is there.
///
/// # Errors
/// The system's; `TimedOut` where they have not come by the deadline; `UnexpectedEof`.
pub fn receive_within(from: &UnixStream, into: &mut [u8], deadline: Instant) -> io::Result<()> {
    sys::control::receive_within(from, into, deadline)
}

/// Sends descriptors.
///
/// # Errors
/// As [`send_within`].
pub fn send_descriptors(
    to: &UnixStream,
    descriptors: &[BorrowedFd<'_>],
    deadline: Instant,
) -> io::Result<()> {
    sys::control::send_descriptors(to, descriptors, deadline)
}

/// Receives `count` descriptors that [`send_descriptors`] sent, or none.
///
/// # Errors
/// As [`receive_within`]; the system's where this process may not open so many more;
/// `InvalidData` where others come.
pub fn receive_descriptors(
    from: &UnixStream,
    count: usize,
    deadline: Instant,
) -> io::Result<Vec<OwnedFd>> {
    sys::control::receive_descriptors(from, count, deadline)
}

/// The descriptors, with their names, that whoever started this process opened for it to serve, by
/// systemd's protocol. A second call returns none.
///
/// # Errors
/// The system's.
pub fn inherited() -> io::Result<Vec<(String, OwnedFd)>> {
    sys::listener::inherited()
}
