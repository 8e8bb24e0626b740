//! Every system call of this project, each under the name of what it does to us.
//!
//! Nothing else calls the kernel, so this is where faults are injected and where `strace` should be
//! read beside. `EINTR` repeats here and is seen nowhere else.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::num::NonZeroI32;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::libc;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::socket::{MsgFlags, sockopt::PeerCredentials};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::time::ClockId;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, TcpKeepalive, Type};

use crate::base::address::Address;
use connect::Keepalive;

pub(crate) mod connect;
pub(crate) mod control;
pub(crate) mod handshakes;
pub(crate) mod listener;
mod raw;
mod state_file;

pub(crate) use state_file::StateFile;

pub(crate) use nix::sys::epoll::{EpollEvent as RawEvent, EpollFlags as RawFlags};

/// The most blocks that one `readv` or `sendmsg` is given; the kernel's own limit is 1 024.
pub(crate) const MAX_SLICES: usize = 64;

/// The errno of a socket that is connected to nobody.
pub(crate) const NOT_CONNECTED: i32 = libc::ENOTCONN;

/// The errno of an error that has none of the system's.
pub(crate) const UNKNOWN: NonZeroI32 = NonZeroI32::new(libc::EIO).unwrap();

/// An epoll instance.
#[derive(Debug)]
pub(crate) struct EpollFd(Epoll);

impl EpollFd {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?))
    }

    /// Registers `fd` once and for all: edge-triggered, for both directions.
    pub(crate) fn add(&self, fd: BorrowedFd<'_>, flags: EpollFlags, data: u64) -> io::Result<()> {
        Ok(self.0.add(fd, EpollEvent::new(flags | EpollFlags::EPOLLET, data))?)
    }

    /// Registers a listener: level-triggered, so that it is reported for as long as somebody waits
    /// in its queue, and nobody has to find the queue empty to know that it is.
    pub(crate) fn add_listener(&self, fd: BorrowedFd<'_>, data: u64) -> io::Result<()> {
        Ok(self.0.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, data))?)
    }

    pub(crate) fn remove(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        Ok(self.0.delete(fd)?)
    }

    /// Waits for events; `None` waits for ever. An interrupted wait returns 0 events.
    pub(crate) fn wait(
        &self,
        events: &mut [EpollEvent],
        timeout: Option<Duration>,
    ) -> io::Result<usize> {
        match self.0.wait(events, milliseconds(timeout)) {
            Err(nix::errno::Errno::EINTR) => Ok(0),
            other => Ok(other?),
        }
    }
}

/// Rounded up, so that a timer of less than a millisecond sleeps instead of spinning through zeros.
fn milliseconds(timeout: Option<Duration>) -> EpollTimeout {
    let Some(timeout) = timeout else {
        return EpollTimeout::NONE;
    };
    let rounded = timeout.saturating_add(Duration::from_nanos(999_999)).as_millis();
    EpollTimeout::from(u16::try_from(rounded).unwrap_or(u16::MAX))
}

/// An eventfd, registered edge-triggered and never read: each write is an edge.
#[derive(Debug)]
pub(crate) struct Bell {
    event: EventFd,
    /// So many writes fail from now on.
    #[cfg(all(test, not(loom)))]
    pub(crate) failures: crate::base::sync::AtomicUsize,
}

impl Bell {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            event: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
            #[cfg(all(test, not(loom)))]
            failures: crate::base::sync::AtomicUsize::new(0),
        })
    }

    /// Rings. A full counter means that it rings already; reading it makes room for another edge.
    pub(crate) fn ring(&self) -> io::Result<()> {
        #[cfg(all(test, not(loom)))]
        if self.fails() {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        while let Err(errno) = self.event.write(1) {
            match errno {
                nix::errno::Errno::EINTR => {}
                nix::errno::Errno::EAGAIN => drop(self.event.read()),
                _ => return Err(errno.into()),
            }
        }
        Ok(())
    }

    #[cfg(all(test, not(loom)))]
    fn fails(&self) -> bool {
        use crate::base::sync::Ordering::Relaxed;
        self.failures.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok()
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
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

/// Whether an error of accept says that the listener itself is beyond repair, rather than that
/// descriptors or memory have run out for a while.
pub(crate) fn is_of_a_dead_listener(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EBADF | libc::EINVAL | libc::ENOTSOCK | libc::EFAULT | libc::EEXIST)
    )
}

/// Receives into several slices: one `readv`.
///
/// A single one is one `recvfrom`: it saves the kernel the import of the list, and, other than a
/// `read`, what is done for files.
pub(crate) fn receive(fd: BorrowedFd<'_>, into: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
    match into {
        [single] => repeat(|| raw::receive(fd, single)),
        several => repeat(|| Ok(nix::sys::uio::readv(fd, several)?)),
    }
}

/// Reads without taking.
pub(crate) fn peek(fd: BorrowedFd<'_>, into: &mut [u8]) -> io::Result<usize> {
    repeat(|| Ok(nix::sys::socket::recv(fd.as_raw_fd(), into, MsgFlags::MSG_PEEK)?))
}

/// Sends several slices: one `sendmsg`, which must not raise SIGPIPE in whoever uses us.
pub(crate) fn send(fd: BorrowedFd<'_>, from: &[IoSlice<'_>]) -> io::Result<usize> {
    repeat(|| SockRef::from(&fd).send_vectored_with_flags(from, libc::MSG_NOSIGNAL))
}

/// Sends one slice.
pub(crate) fn send_one(fd: BorrowedFd<'_>, from: &[u8]) -> io::Result<usize> {
    repeat(|| raw::send(fd, from))
}

/// Makes the coming close a reset: the peer must not take what it got for all that there was.
pub(crate) fn reset_on_close(fd: BorrowedFd<'_>) -> io::Result<()> {
    SockRef::from(&fd).set_linger(Some(Duration::ZERO))
}

/// Ends our stream towards the peer (FIN). A peer that is gone already is no error.
pub(crate) fn shutdown_write(fd: BorrowedFd<'_>) -> io::Result<()> {
    match SockRef::from(&fd).shutdown(std::net::Shutdown::Write) {
        Err(error) if error.kind() == ErrorKind::NotConnected => Ok(()),
        other => other,
    }
}

/// The error that the socket holds, of a connect that failed or later. Reading takes it out.
pub(crate) fn take_error(fd: BorrowedFd<'_>) -> io::Result<()> {
    match SockRef::from(&fd).take_error()? {
        None => Ok(()),
        Some(error) => Err(error),
    }
}

/// The address of our end.
pub(crate) fn local_address(fd: BorrowedFd<'_>) -> io::Result<Address> {
    address_of(&SockRef::from(&fd).local_addr()?)
}

/// Who opened the other end of a unix socket: process, user and group.
pub(crate) fn peer_credentials(fd: BorrowedFd<'_>) -> io::Result<(i32, u32, u32)> {
    if !local_address(fd)?.is_unix() {
        return Err(ErrorKind::Unsupported.into());
    }
    let credentials = nix::sys::socket::getsockopt(&fd, PeerCredentials)?;
    Ok((credentials.pid(), credentials.uid(), credentials.gid()))
}

/// Makes a socket that somebody else opened fit for a reactor.
pub(crate) fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    SockRef::from(&fd).set_nonblocking(true)
}

/// Sends small writes at once instead of waiting to fill a segment.
pub(crate) fn set_nodelay(fd: BorrowedFd<'_>) -> io::Result<()> {
    SockRef::from(&fd).set_tcp_nodelay(true)
}

/// What the calling thread has done so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    /// Times that it gave up its core because it had to wait.
    pub(crate) waits: i64,
    /// Time that it had a core.
    pub(crate) computed: Duration,
}

/// What the calling thread has done so far.
pub(crate) fn usage() -> Usage {
    let usage = getrusage(UsageWho::RUSAGE_THREAD);
    usage.map_or(Usage { waits: 0, computed: Duration::ZERO }, |usage| Usage {
        waits: usage.voluntary_context_switches(),
        computed: duration(usage.user_time()) + duration(usage.system_time()),
    })
}

fn duration(time: TimeVal) -> Duration {
    Duration::from_micros(time.num_microseconds().cast_unsigned())
}

/// Time that the calling thread has had a core so far, to the nanosecond.
pub(crate) fn own_time() -> Duration {
    ClockId::CLOCK_THREAD_CPUTIME_ID.now().map_or(Duration::ZERO, Duration::from)
}

/// Time that a thread of this process has had a core so far; `None` when it has ended.
pub(crate) fn thread_time(number: i32) -> Option<Duration> {
    // The kernel's own encoding of a thread's clock: the number's complement, above the bits that
    // say "of a thread" and "what the scheduler counted".
    const OF_THREAD: libc::clockid_t = 4;
    const SCHEDULED: libc::clockid_t = 2;
    let clock = ClockId::from_raw((!number << 3) | OF_THREAD | SCHEDULED);
    clock.now().ok().map(Duration::from)
}

/// By how much the timed waits of a thread may end late, so that the kernel ends several of them
/// at once. A thread inherits that of the thread that starts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TimerSlack(Option<u64>);

impl TimerSlack {
    /// None to speak of.
    pub(crate) const LEAST: Self = Self(Some(1));

    /// That of the calling thread: 50 µs, mostly.
    pub(crate) fn here() -> Self {
        let nanoseconds = nix::sys::prctl::get_timerslack().ok();
        Self(nanoseconds.and_then(|slack| u64::try_from(slack).ok()))
    }

    /// Makes it that of the calling thread.
    pub(crate) fn set(self) {
        let Some(nanoseconds) = self.0 else { return };
        if let Err(errno) = nix::sys::prctl::set_timerslack(nanoseconds) {
            log::debug!("cannot set the timer slack: {errno}");
        }
    }
}

/// Has the kernel probe a silent peer, or not.
pub(crate) fn set_keepalive(fd: BorrowedFd<'_>, keepalive: Option<Keepalive>) -> io::Result<()> {
    let socket = SockRef::from(&fd);
    let Some(Keepalive { idle, interval, count }) = keepalive else {
        return socket.set_keepalive(false);
    };
    let probes = TcpKeepalive::new().with_time(idle).with_interval(interval).with_retries(count);
    socket.set_tcp_keepalive(&probes)
}

/// How long sent bytes may stay unacknowledged; `None` is as long as the system says. The kernel
/// counts milliseconds in an `int`, and takes 0 for none.
pub(crate) fn set_user_timeout(fd: BorrowedFd<'_>, timeout: Option<Duration>) -> io::Result<()> {
    let (least, most) = (Duration::from_millis(1), Duration::from_millis(i32::MAX as u64));
    SockRef::from(&fd).set_tcp_user_timeout(timeout.map(|time| time.clamp(least, most)))
}

/// The number of a network device, by its name.
pub(crate) fn device_number(name: &str) -> io::Result<u32> {
    Ok(nix::net::if_::if_nametoindex(name)?)
}

/// The number under which the system knows the calling thread.
pub(crate) fn thread_number() -> i32 {
    nix::unistd::gettid().as_raw()
}

fn address_of(address: &SockAddr) -> io::Result<Address> {
    if let Some(inet) = address.as_socket() {
        return Ok(Address::Inet(inet));
    }
    if let Some(path) = address.as_pathname() {
        return Ok(Address::Path(path.into()));
    }
    if let Some(name) = address.as_abstract_namespace() {
        return Ok(Address::Abstract(name.into()));
    }
    if address.is_unix() { Ok(Address::Unnamed) } else { Err(ErrorKind::Unsupported.into()) }
}

fn tcp_socket(address: SocketAddr) -> io::Result<Socket> {
    let kind = Type::STREAM.nonblocking().cloexec();
    Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))
}

fn repeat<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_of_a_fraction_of_a_millisecond_is_not_a_busy_poll() {
        assert_eq!(milliseconds(Some(Duration::from_micros(1))), EpollTimeout::from(1u8));
        assert_eq!(milliseconds(Some(Duration::ZERO)), EpollTimeout::ZERO);
        assert_eq!(milliseconds(Some(Duration::MAX)), EpollTimeout::from(u16::MAX));
        assert_eq!(milliseconds(None), EpollTimeout::NONE);
    }
}
