//! The system calls of listening sockets: to open, adopt and close one without losing the
//! connections in its queue.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use nix::libc;
use socket2::{Domain, Protocol, SockFilter, SockRef, Socket, Type};

use super::binding::{self, BindOptions};
use super::keepalive::{self, Keepalive};
use super::stream::address_of;
use super::{raw, repeat};
use crate::base::address::Address;

/// The options that a listening socket gets before it listens. `ListenOptions` documents each.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "`ListenOptions` of netpoll-server documents each, with defaults")]
pub struct SocketOptions {
    pub bind: BindOptions,
    pub backlog: Option<u32>,
    pub nodelay: bool,
    pub notsent_lowat: Option<usize>,
    pub keepalive: Option<Keepalive>,
    pub defer_accept: Option<Duration>,
    pub fast_open: Option<u32>,
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self {
            bind: BindOptions { reuse_address: true, ..BindOptions::default() },
            backlog: None,
            nodelay: true,
            notsent_lowat: None,
            keepalive: None,
            defer_accept: None,
            fast_open: None,
        }
    }
}

/// Opens a listening socket, non-blocking and closed on exec.
pub(crate) fn listen(address: &Address, options: &SocketOptions) -> io::Result<OwnedFd> {
    let (domain, protocol) = match address {
        Address::Inet(inet) => (Domain::for_address(*inet), Some(Protocol::TCP)),
        _ => (Domain::UNIX, None),
    };
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(domain, kind, protocol)?;
    if let Address::Inet(_) = address {
        prepare_tcp(&socket, domain, options)?;
    }
    binding::prepare(&socket, &options.bind)?;
    binding::bind(&socket, address)?;
    if let (Some(mode), Some(path)) = (options.bind.mode, address.path()) {
        // No peer can connect before the socket listens, so a wider mode until here gives nothing
        // away.
        fs::set_permissions(path, Permissions::from_mode(mode))?;
    }
    // The kernel cuts it down to `net.core.somaxconn`.
    let backlog =
        options.backlog.map_or(i32::MAX, |backlog| i32::try_from(backlog).unwrap_or(i32::MAX));
    socket.listen(backlog)?;
    Ok(socket.into())
}

/// What accepted sockets inherit, and what only a TCP listener has.
fn prepare_tcp(socket: &Socket, domain: Domain, options: &SocketOptions) -> io::Result<()> {
    binding::prepare_inet(socket, domain, &options.bind)?;
    socket.set_tcp_nodelay(options.nodelay)?;
    if let Some(bytes) = options.notsent_lowat {
        socket.set_tcp_notsent_lowat(u32::try_from(bytes).unwrap_or(u32::MAX))?;
    }
    if let Some(probes) = options.keepalive {
        keepalive::set(socket.as_fd(), Some(probes))?;
    }
    if let Some(time) = options.defer_accept {
        let seconds = i32::try_from(time.as_secs().max(1)).unwrap_or(i32::MAX);
        set_tcp_option(socket, libc::TCP_DEFER_ACCEPT, seconds)?;
    }
    if let Some(queue) = options.fast_open {
        let queue = i32::try_from(queue).unwrap_or(i32::MAX);
        set_tcp_option(socket, libc::TCP_FASTOPEN, queue)?;
    }
    Ok(())
}

fn set_tcp_option(socket: &Socket, option: i32, value: i32) -> io::Result<()> {
    raw::set_option(socket.as_fd(), (libc::IPPROTO_TCP, option), &value.to_ne_bytes())
}

/// Whether the socket listens for a stream.
pub(crate) fn is_listener(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let socket = SockRef::from(&fd);
    Ok(socket.is_listener()? && socket.r#type()? == Type::STREAM)
}

/// Takes one connection out of a listener's queue, non-blocking and closed on exec from birth.
pub(crate) fn accept(listener: BorrowedFd<'_>) -> io::Result<(OwnedFd, Address)> {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    let (socket, peer) = repeat(|| SockRef::from(&listener).accept4(flags))?;
    Ok((socket.into(), address_of(&peer)?))
}

/// Whether an error of accept is about the one connection that it would have returned, so that the
/// next one may be tried at once. accept(2) wants these treated like EAGAIN.
pub(crate) fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNABORTED
                | libc::EPROTO
                | libc::EPERM // the firewall's answer
                | libc::ENETDOWN
                | libc::ENETUNREACH
                | libc::ENOPROTOOPT
                | libc::EHOSTDOWN
                | libc::EHOSTUNREACH
                | libc::ENONET
                | libc::EOPNOTSUPP
        )
    )
}

/// Whether the process (EMFILE) or the system (ENFILE) has no descriptors left.
pub(crate) fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// Whether an error of accept says that the listener can never accept again. Others say that
/// descriptors or memory have run out for a while.
pub(crate) fn is_of_a_dead_listener(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EBADF | libc::EINVAL | libc::ENOTSOCK | libc::EFAULT | libc::EEXIST)
    )
}

/// Lets no further connection begin on a TCP listener: a filter drops SYN segments. Connections
/// with a handshake that has begun still reach the queue. The senders of dropped segments try again
/// after a second, and find the port closed or another server on it.
pub(crate) fn turn_away_newcomers(fd: BorrowedFd<'_>) -> io::Result<()> {
    // A filter sees the segment from TCP's header on; the flags are its byte 13, SYN is bit 1.
    const LOAD_BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
    const JUMP_IF_SET: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    SockRef::from(&fd).attach_filter(&[
        SockFilter::new(LOAD_BYTE, 0, 0, 13),
        SockFilter::new(JUMP_IF_SET, 0, 1, 0x02),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ])
}

/// Closes the port though descriptors are open. Connections in the queue are reset, as by a close.
pub(crate) fn stop_listening(fd: BorrowedFd<'_>) -> io::Result<()> {
    SockRef::from(&fd).shutdown(std::net::Shutdown::Both)
}
