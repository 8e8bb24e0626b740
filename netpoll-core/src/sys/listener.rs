//! The system calls of listening sockets: to open, adopt and close one without losing the
//! connections in its queue.

use std::fmt;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::fs::MetadataExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::libc;
use socket2::{Domain, Protocol, SockAddr, SockFilter, SockRef, Socket, Type};

use super::keepalive::{self, Keepalive};
use super::stream::address_of;
use super::{raw, repeat};
use crate::base::address::Address;

/// The options that a listening socket gets before it listens. `ListenOptions` documents each.
#[derive(Clone)]
#[expect(missing_docs, reason = "`ListenOptions` of netpoll-server documents each, with defaults")]
pub struct SocketOptions {
    pub backlog: Option<u32>,
    pub reuse_address: bool,
    pub reuse_port: bool,
    pub only_v6: Option<bool>,
    pub freebind: bool,
    pub nodelay: bool,
    pub receive_buffer: Option<usize>,
    pub send_buffer: Option<usize>,
    pub notsent_lowat: Option<usize>,
    pub keepalive: Option<Keepalive>,
    pub defer_accept: Option<Duration>,
    pub fast_open: Option<u32>,
    pub device: Option<String>,
    pub mode: Option<u32>,
    pub before_bind: Option<Arc<BeforeBind>>,
}

/// A function that is given the raw socket before it is bound.
pub type BeforeBind = dyn Fn(BorrowedFd<'_>) -> io::Result<()> + Send + Sync;

impl fmt::Debug for SocketOptions {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("SocketOptions")
            .field("backlog", &self.backlog)
            .field("reuse_address", &self.reuse_address)
            .field("reuse_port", &self.reuse_port)
            .finish_non_exhaustive()
    }
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self {
            backlog: None,
            reuse_address: true,
            reuse_port: false,
            only_v6: None,
            freebind: false,
            nodelay: true,
            receive_buffer: None,
            send_buffer: None,
            notsent_lowat: None,
            keepalive: None,
            defer_accept: None,
            fast_open: None,
            device: None,
            mode: None,
            before_bind: None,
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
    prepare(&socket, options)?;
    match address {
        Address::Inet(inet) => socket.bind(&SockAddr::from(*inet))?,
        Address::Path(path) => bind_path(&socket, path)?,
        Address::Abstract(name) => socket.bind(&abstract_address(name)?)?,
        Address::Unnamed => return Err(ErrorKind::AddrNotAvailable.into()),
    }
    if let (Some(mode), Some(path)) = (options.mode, address.path()) {
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
    socket.set_reuse_address(options.reuse_address)?;
    socket.set_reuse_port(options.reuse_port)?;
    socket.set_tcp_nodelay(options.nodelay)?;
    if let (Some(only), Domain::IPV6) = (options.only_v6, domain) {
        socket.set_only_v6(only)?;
    }
    if options.freebind {
        match domain {
            Domain::IPV6 => socket.set_freebind_v6(true)?,
            _ => socket.set_freebind_v4(true)?,
        }
    }
    if let Some(bytes) = options.notsent_lowat {
        socket.set_tcp_notsent_lowat(u32::try_from(bytes).unwrap_or(u32::MAX))?;
    }
    if let Some(probes) = options.keepalive {
        keepalive::set(socket.as_fd(), Some(probes))?;
    }
    if let Some(time) = options.defer_accept {
        let seconds = i32::try_from(time.as_secs().max(1)).unwrap_or(i32::MAX);
        raw::set_tcp_option(socket.as_fd(), libc::TCP_DEFER_ACCEPT, seconds)?;
    }
    if let Some(queue) = options.fast_open {
        let queue = i32::try_from(queue).unwrap_or(i32::MAX);
        raw::set_tcp_option(socket.as_fd(), libc::TCP_FASTOPEN, queue)?;
    }
    if let Some(device) = &options.device {
        socket.bind_device(Some(device.as_bytes()))?;
    }
    Ok(())
}

fn prepare(socket: &Socket, options: &SocketOptions) -> io::Result<()> {
    if let Some(bytes) = options.receive_buffer {
        socket.set_recv_buffer_size(bytes)?;
    }
    if let Some(bytes) = options.send_buffer {
        socket.set_send_buffer_size(bytes)?;
    }
    match &options.before_bind {
        Some(hook) => hook(socket.as_fd()),
        None => Ok(()),
    }
}

fn abstract_address(name: &[u8]) -> io::Result<SockAddr> {
    let mut path = Vec::with_capacity(name.len() + 1);
    path.push(0);
    path.extend_from_slice(name);
    SockAddr::unix(std::ffi::OsStr::from_bytes(&path))
}

/// Whether a path is of a socket behind which no process listens any more.
pub(crate) fn is_dead_socket(path: &Path) -> io::Result<bool> {
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        return Ok(false);
    }
    // A listener with a full queue answers EAGAIN, so it lives. One that we may not reach may live
    // too.
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
    let answer = socket.connect(&SockAddr::unix(path)?);
    Ok(answer.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused))
}

/// Removes the file at a path if it is still that one; says whether it was.
pub(crate) fn remove_own(path: &Path, own: (u64, u64)) -> io::Result<bool> {
    let is_own = identity(path).is_ok_and(|it| it == own);
    if is_own {
        fs::remove_file(path)?;
    }
    Ok(is_own)
}

/// Says which file a path is: device and inode.
pub(crate) fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let file = fs::symlink_metadata(path)?;
    Ok((file.st_dev(), file.st_ino()))
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

/// The descriptors that this process was started with for it to serve, by systemd's protocol: their
/// names stand with them. They are closed on exec from here on. A second call returns none. What
/// does not listen for streams is left alone.
pub(crate) fn inherited() -> io::Result<Vec<(String, OwnedFd)>> {
    let ours = std::env::var("LISTEN_PID").is_ok_and(|it| it == std::process::id().to_string());
    let count = std::env::var("LISTEN_FDS").ok().and_then(|it| it.parse().ok());
    let (true, Some(count)) = (ours, count) else { return Ok(Vec::new()) };
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let names: Vec<&str> = names.split(':').collect();
    let mut all = Vec::new();
    for (place, fd) in raw::take_inherited(count, |it| is_listener(it).unwrap_or(false)) {
        SockRef::from(&fd).set_cloexec(true)?;
        let name = names.get(place).copied().unwrap_or_default();
        all.push((name.to_owned(), fd));
    }
    Ok(all)
}

/// Binds to a path. A socket that stands there already is removed if no process listens behind it
/// any more; no other file is ever removed.
fn bind_path(socket: &Socket, path: &Path) -> io::Result<()> {
    let address = SockAddr::unix(path)?;
    match socket.bind(&address) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {}
        other => return other,
    }
    // Held open, so that no other socket has its inode before it is removed.
    let held =
        OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW).open(path)?;
    let file = held.metadata()?;
    let dead = (file.st_dev(), file.st_ino());
    if !is_dead_socket(path)? || identity(path)? != dead {
        return Err(ErrorKind::AddrInUse.into());
    }
    remove(path, dead)?;
    socket.bind(&address)
}

/// Removes the dead socket `dead` from its path. Another server may have taken the path since the
/// socket was found dead. So the file is moved aside first, and looked at where no other file can
/// replace it; if it is another one, it is put back.
fn remove(path: &Path, dead: (u64, u64)) -> io::Result<()> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".dead-{}-{}", std::process::id(), super::thread::thread_number()));
    let aside = PathBuf::from(aside);
    fs::rename(path, &aside)?;
    if identity(&aside).is_ok_and(|it| it == dead) {
        return fs::remove_file(&aside);
    }
    // A link fails if a third file has come meanwhile, so it overwrites none.
    fs::hard_link(&aside, path)?;
    fs::remove_file(&aside)?;
    Err(ErrorKind::AddrInUse.into())
}
