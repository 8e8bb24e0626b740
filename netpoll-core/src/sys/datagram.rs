//! The system calls that move datagrams: to receive and to send several at once, with their
//! addresses and their ancillary data.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::libc;

use super::ancillary::{Ancillary, Fault, ROOM};
use super::planned::{self, Call};
use super::{raw, repeat};
use crate::base::address::Address;

pub(crate) use super::raw::{MOST_MESSAGES, Outgoing};

/// The longest payload of UDP over IPv4, and so of what is sent in segments.
pub(crate) const LONGEST: usize = 65_507;
/// The errno of a datagram that is too long.
pub(crate) const TOO_LONG: i32 = libc::EMSGSIZE;
/// The most segments of one send. Before Linux 6.9 it is 64, see [`is_of_segments`].
pub(crate) const MOST_SEGMENTS: usize = 128;

/// The bytes of a `sockaddr` of any family that datagrams have.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C, align(8))]
pub(crate) struct Name {
    bytes: [u8; Name::ROOM],
    length: u32,
}

/// A place to receive one datagram to, beside its payload, and what came.
#[derive(Debug)]
#[repr(align(8))]
pub(crate) struct Slot {
    control: [u8; ROOM],
    name: Name,
    filled: raw::Filled,
}

/// Receives as many datagrams as there are places, of each of which `parts` says the slot and the
/// room for the payload; returns how many came: one `recvmmsg`, or one `recvmsg` for one.
///
/// # Errors
/// The system's; `WouldBlock` where none has come. An error that the socket holds comes before
/// datagrams that it has.
pub(crate) fn receive<T>(
    fd: BorrowedFd<'_>,
    places: &mut [T],
    parts: impl Fn(&mut T) -> (&mut Slot, &mut [u8]),
) -> io::Result<usize> {
    const FEW: usize = 4;
    if places.len() <= FEW {
        receive_up_to::<FEW, T>(fd, places, parts)
    } else {
        receive_up_to::<MOST_MESSAGES, T>(fd, places, parts)
    }
}

fn receive_up_to<const N: usize, T>(
    fd: BorrowedFd<'_>,
    places: &mut [T],
    parts: impl Fn(&mut T) -> (&mut Slot, &mut [u8]),
) -> io::Result<usize> {
    let mut filled = [raw::Filled::default(); N];
    let filled = &mut filled[..places.len().min(N)];
    let received = if let [single] = places {
        filled[0] = repeat(|| {
            planned::next(fd, Call::Receive)?;
            raw::receive_one(fd, incoming(parts(single)), 0)
        })?;
        1
    } else {
        repeat(|| {
            planned::next(fd, Call::Receive)?;
            let incoming = places.iter_mut().map(|it| incoming(parts(it)));
            raw::receive_messages::<N>(fd, incoming, filled, 0)
        })?
    };
    for (place, filled) in places.iter_mut().zip(&filled[..received]) {
        parts(place).0.filled = *filled;
    }
    Ok(received)
}

fn incoming<'a>((slot, room): (&'a mut Slot, &'a mut [u8])) -> raw::Incoming<'a> {
    raw::Incoming { name: &mut slot.name.bytes, control: &mut slot.control, room }
}

/// Takes one entry out of the error queue.
///
/// # Errors
/// The system's; `WouldBlock` where the queue is empty.
pub(crate) fn receive_fault(fd: BorrowedFd<'_>) -> io::Result<Option<Fault>> {
    let mut slot = Slot::new();
    // The payload is that of the datagram that met the error.
    let filled =
        repeat(|| raw::receive_one(fd, incoming((&mut slot, &mut [])), libc::MSG_ERRQUEUE))?;
    slot.filled = filled;
    Ok(slot.ancillary().error)
}

/// Sends messages; returns how many were sent, up to the first that failed.
///
/// # Errors
/// What the first message met; `WouldBlock` where there is no room.
pub(crate) fn send(fd: BorrowedFd<'_>, messages: &[Outgoing<'_>]) -> io::Result<usize> {
    repeat(|| {
        let most = planned::next(fd, Call::Send)?;
        match &messages[..messages.len().min(most)] {
            [] => Ok(0),
            [Outgoing { name, slices: [single], control: [] }] => {
                raw::send_to(fd, single, name).map(|_| 1)
            }
            [single] => raw::send_message(fd, single).map(|()| 1),
            several => raw::send_messages(fd, several),
        }
    })
}

/// What is to be done about a send that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The socket's buffer, or that of a Unix peer, has no room.
    Full,
    /// The device, or what stands between, can't send in segments: none is to be sent so any more.
    NoSegments,
    /// Not in segments of this size, or not so many: to be sent one by one.
    OneByOne,
    /// The socket held an error of an earlier datagram, and this one was not tried.
    OfAnother,
    /// The datagram can't be sent: it is too long, it has no route, a firewall drops it, the peer
    /// of a Unix socket is gone, memory or a queue of the device is full, and the like.
    OfThis,
}

/// Which refusal an errno is. `in_segments`: the message was more than one datagram.
pub(crate) fn refusal(error: &io::Error, in_segments: bool, connected: bool) -> Refusal {
    match error.raw_os_error() {
        Some(libc::EAGAIN) => Refusal::Full,
        // EIO: the device has no checksums. EOPNOTSUPP: it is a tunnel that has no segments.
        Some(libc::EIO | libc::EOPNOTSUPP | libc::ENOPROTOOPT) if in_segments => {
            Refusal::NoSegments
        }
        // A segment longer than the MTU, or too many of them.
        Some(libc::EMSGSIZE | libc::EINVAL) if in_segments => Refusal::OneByOne,
        // What ICMP said of an earlier datagram is held by a connected socket, and taken by the
        // next call.
        Some(
            libc::ECONNREFUSED
            | libc::EHOSTUNREACH
            | libc::ENETUNREACH
            | libc::EHOSTDOWN
            | libc::EPROTO
            | libc::ENOPROTOOPT
            | libc::EACCES
            | libc::EMSGSIZE,
        ) if connected => Refusal::OfAnother,
        // EMSGSIZE, EPERM (a firewall), ENOBUFS (the queue of a device), ENOMEM, ENETDOWN,
        // ENETUNREACH, EHOSTUNREACH, EADDRNOTAVAIL (the source is gone), EACCES (broadcast),
        // EINVAL (port 0), EAFNOSUPPORT, ENOTCONN, EDESTADDRREQ; of Unix sockets ENOENT,
        // ECONNREFUSED, EPROTOTYPE, ENAMETOOLONG, and EPIPE where this one was shut down.
        _ => Refusal::OfThis,
    }
}

/// What is to be done about a receive that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Nothing has come.
    Drained,
    /// The system has no `recvmmsg`.
    NotInBatches,
    /// What ICMP said of a datagram that was sent. More may stand behind it.
    OfSent,
    /// Memory has run out, or something forbids it: to be tried again after a while.
    ForNow,
    /// The descriptor is no socket any more: the user has closed it.
    Broken,
}

/// Which failure an errno is.
pub(crate) fn failure(error: &io::Error) -> Failure {
    match error.raw_os_error() {
        Some(libc::EAGAIN) => Failure::Drained,
        Some(libc::ENOSYS) => Failure::NotInBatches,
        Some(
            libc::ECONNREFUSED
            | libc::EHOSTUNREACH
            | libc::ENETUNREACH
            | libc::EHOSTDOWN
            | libc::ENETDOWN
            | libc::EPROTO
            | libc::ENOPROTOOPT
            | libc::EACCES
            | libc::EMSGSIZE
            | libc::EOPNOTSUPP
            | libc::ENONET
            | libc::ECONNRESET
            | libc::ETIMEDOUT,
        ) => Failure::OfSent,
        Some(libc::EBADF | libc::ENOTSOCK) => Failure::Broken,
        // ENOMEM, ENOBUFS; EPERM and the like of a sandbox.
        _ => Failure::ForNow,
    }
}

impl Slot {
    pub(crate) const fn new() -> Self {
        let filled = raw::Filled { bytes: 0, name: 0, control: 0, flags: 0 };
        Self { control: [0; ROOM], name: Name::NONE, filled }
    }

    /// How many bytes of the payload stand in its room.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.filled.bytes
    }

    /// Whether the payload was longer than its room; or the control messages were, so that it may
    /// be several datagrams of which nothing says where they end.
    #[inline]
    pub(crate) fn is_truncated(&self) -> bool {
        self.filled.flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0
    }

    /// What the control messages said.
    #[inline]
    pub(crate) fn ancillary(&self) -> Ancillary {
        let filled = self.filled.control.min(ROOM);
        if filled == 0 { Ancillary::default() } else { Ancillary::read(&self.control[..filled]) }
    }

    /// The sender's address, as the kernel wrote it.
    #[inline]
    pub(crate) fn name(&self) -> &[u8] {
        &self.name.bytes[..self.filled.name.min(Name::ROOM)]
    }
}

impl Name {
    /// A `sockaddr_un` has 110 bytes.
    const ROOM: usize = 112;
    pub(crate) const NONE: Self = Self { bytes: [0; Self::ROOM], length: 0 };

    /// The bytes of an address.
    ///
    /// # Errors
    /// `InvalidInput` for a socket without a name, and for a name that is too long.
    pub(crate) fn of(address: &Address) -> io::Result<Self> {
        let mut name = Self::NONE;
        match address {
            Address::Inet(SocketAddr::V4(it)) => {
                name.add(&(libc::AF_INET as libc::sa_family_t).to_ne_bytes());
                name.add(&it.port().to_be_bytes());
                name.add(&it.ip().octets());
                name.add(&[0; 8]);
            }
            Address::Inet(SocketAddr::V6(it)) => {
                name.add(&(libc::AF_INET6 as libc::sa_family_t).to_ne_bytes());
                name.add(&it.port().to_be_bytes());
                name.add(&it.flowinfo().to_be_bytes());
                name.add(&it.ip().octets());
                name.add(&it.scope_id().to_ne_bytes());
            }
            Address::Path(path) => name.add_unix(path.as_os_str().as_bytes(), b"", b"\0")?,
            Address::Abstract(text) => name.add_unix(text, b"\0", b"")?,
            Address::Unnamed => return Err(io::ErrorKind::InvalidInput.into()),
        }
        Ok(name)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length as usize]
    }

    fn add_unix(&mut self, text: &[u8], before: &[u8], behind: &[u8]) -> io::Result<()> {
        const LONGEST: usize = 108;
        let has_zero = before.is_empty() && text.contains(&0);
        if before.len() + text.len() + behind.len() > LONGEST || text.is_empty() || has_zero {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.add(&(libc::AF_UNIX as libc::sa_family_t).to_ne_bytes());
        self.add(before);
        self.add(text);
        self.add(behind);
        Ok(())
    }

    fn add(&mut self, part: &[u8]) {
        let from = self.length as usize;
        self.bytes[from..from + part.len()].copy_from_slice(part);
        self.length += part.len() as u32;
    }
}

/// The address that the kernel wrote so; [`Address::Unnamed`] for none, and for one that is cut or
/// of another family.
pub fn address_of(name: &[u8]) -> Address {
    let Some((family, rest)) = name.split_first_chunk() else { return Address::Unnamed };
    match i32::from(libc::sa_family_t::from_ne_bytes(*family)) {
        libc::AF_INET => v4(rest),
        libc::AF_INET6 => v6(rest),
        libc::AF_UNIX => Some(unix(rest)),
        _ => None,
    }
    .unwrap_or(Address::Unnamed)
}

fn v4(rest: &[u8]) -> Option<Address> {
    let &[high, low, a, b, c, d] = rest.first_chunk()?;
    let port = u16::from_be_bytes([high, low]);
    Some(Address::Inet(SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), port).into()))
}

fn v6(rest: &[u8]) -> Option<Address> {
    let (port, rest) = rest.split_first_chunk()?;
    let (flow, rest) = rest.split_first_chunk()?;
    let (ip, rest) = rest.split_first_chunk::<16>()?;
    let (port, flow) = (u16::from_be_bytes(*port), u32::from_be_bytes(*flow));
    let zone = u32::from_ne_bytes(*rest.first_chunk()?);
    Some(Address::Inet(SocketAddrV6::new(Ipv6Addr::from(*ip), port, flow, zone).into()))
}

fn unix(name: &[u8]) -> Address {
    match name {
        [] => Address::Unnamed,
        [0, name @ ..] => Address::Abstract(name.into()),
        path => {
            let end = path.iter().position(|it| *it == 0).unwrap_or(path.len());
            Address::Path(Path::new(std::ffi::OsStr::from_bytes(&path[..end])).into())
        }
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        address_of(self.bytes()).fmt(out)
    }
}

#[cfg(all(test, not(loom)))]
#[path = "datagram_tests.rs"]
mod tests;
