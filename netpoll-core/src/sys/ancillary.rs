//! Ancillary data: the control messages that come with a datagram, and those that go with one.
//!
//! ```text
//!   struct cmsghdr of the kernel, each at a multiple of a word:
//!   ┌────────────────┬────────────┬───────────┬───────────┬─────────┐
//!   │ length: a word │ level: i32 │ type: i32 │ data ……   │ padding │   the length has no padding
//!   └────────────────┴────────────┴───────────┴───────────┴─────────┘
//! ```
//! Nothing is allocated, and no byte of a control buffer makes the reader panic.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;
use std::time::{Duration, SystemTime};

use nix::libc;

/// The longest ancillary data that is received: GRO, addresses, TOS, a time stamp and the drops
/// take 136 bytes, an entry of the error queue with its address 96. What does not fit is lost from
/// the end on, the stride of GRO among it.
pub(crate) const ROOM: usize = 256;

/// The longest that is sent: a segment size and a source address.
const ROOM_TO_SEND: usize = 80;

const WORD: usize = size_of::<usize>();
const HEADER: usize = (WORD + 8).next_multiple_of(WORD);

// Not in libc for all systems.
const UDP_SEGMENT: i32 = 103;
const UDP_GRO: i32 = 104;
const SCM_TIMESTAMPNS_NEW: i32 = 64;
const SO_RXQ_OVFL: i32 = 40;
/// What the kernel says of where an error came from: an ICMP or `ICMPv6` message, or itself.
const ORIGIN_LOCAL: u8 = 1;
const ORIGIN_ICMP: u8 = 2;
const ORIGIN_ICMP6: u8 = 3;

/// What the control messages of a datagram said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ancillary {
    /// The kernel has joined datagrams of this size; the last may be shorter.
    pub stride: Option<NonZeroU16>,
    /// The address that it was sent to.
    pub destination: Option<IpAddr>,
    /// The address that an answer comes from; not `destination` where that is a broadcast address.
    pub source: Option<IpAddr>,
    /// The number of the interface on which it came.
    pub interface: Option<u32>,
    /// The TOS byte of IPv4, or the traffic class of IPv6.
    pub tos: Option<u8>,
    /// When the kernel received it.
    pub time: Option<SystemTime>,
    /// How many packets the socket has dropped so far, modulo 2³².
    pub drops: Option<u32>,
    /// An entry of the error queue.
    pub error: Option<Fault>,
}

/// An entry of a socket's error queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// The errno.
    pub errno: i32,
    /// Whether it came in an ICMP message; else this system found it.
    pub from_network: bool,
}

impl Ancillary {
    /// Reads what `recvmsg` has written. Messages that it does not know are skipped, and at one
    /// that is longer than what is left it ends.
    pub fn read(control: &[u8]) -> Self {
        let mut found = Self::default();
        for message in (Messages { left: control }) {
            found.take(&message);
        }
        found
    }

    fn take(&mut self, message: &Message<'_>) {
        let data = message.data;
        match (message.level, message.kind) {
            (libc::IPPROTO_UDP, UDP_GRO) => {
                let size = int(data).and_then(|it| u16::try_from(it).ok());
                self.stride = size.and_then(NonZeroU16::new);
            }
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => self.take_v4(data),
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => self.take_v6(data),
            (libc::IPPROTO_IP, libc::IP_TOS) => self.tos = data.first().copied(),
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                self.tos = int(data).map(|it| it.cast_unsigned() as u8);
            }
            (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS | SCM_TIMESTAMPNS_NEW) => {
                self.time = time(data);
            }
            (libc::SOL_SOCKET, SO_RXQ_OVFL) => self.drops = int(data).map(i32::cast_unsigned),
            (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR) => {
                self.error = fault(data);
            }
            _ => {}
        }
    }

    /// `struct in_pktinfo`: an interface, the local address, the destination.
    fn take_v4(&mut self, data: &[u8]) {
        let Some(&[a, b, c, d, l0, l1, l2, l3, d0, d1, d2, d3]) = data.first_chunk() else {
            return;
        };
        self.interface = Some(u32::from_ne_bytes([a, b, c, d]));
        self.source = Some(Ipv4Addr::new(l0, l1, l2, l3).into());
        self.destination = Some(Ipv4Addr::new(d0, d1, d2, d3).into());
    }

    /// `struct in6_pktinfo`: the destination, an interface.
    fn take_v6(&mut self, data: &[u8]) {
        let Some((address, rest)) = data.split_first_chunk::<16>() else { return };
        let Some(&interface) = rest.first_chunk::<4>() else { return };
        let address = Ipv6Addr::from(*address);
        self.interface = Some(u32::from_ne_bytes(interface));
        self.destination = Some(address.into());
        self.source = (!address.is_multicast()).then_some(address.into());
    }
}

fn int(data: &[u8]) -> Option<i32> {
    data.first_chunk().map(|it| i32::from_ne_bytes(*it))
}

/// `struct timespec`, of two words or of two 64-bit numbers.
fn time(data: &[u8]) -> Option<SystemTime> {
    let long = |from: usize| data.get(from..)?.first_chunk().map(|it| i64::from_ne_bytes(*it));
    let short = |from: usize| int(data.get(from..)?).map(i64::from);
    let (seconds, nanos) = match data.len() {
        16 => (long(0)?, long(8)?),
        8 => (short(0)?, short(4)?),
        _ => return None,
    };
    let (seconds, nanos) = (u64::try_from(seconds).ok()?, u32::try_from(nanos).ok()?);
    let since = Duration::from_secs(seconds).checked_add(Duration::from_nanos(nanos.into()))?;
    SystemTime::UNIX_EPOCH.checked_add(since)
}

/// `struct sock_extended_err`: the errno, the origin, more that is not needed here.
fn fault(data: &[u8]) -> Option<Fault> {
    let origin = *data.get(4)?;
    matches!(origin, ORIGIN_LOCAL | ORIGIN_ICMP | ORIGIN_ICMP6).then_some(())?;
    Some(Fault { errno: int(data)?, from_network: origin != ORIGIN_LOCAL })
}

/// One control message.
struct Message<'a> {
    level: i32,
    kind: i32,
    data: &'a [u8],
}

/// The control messages of a buffer.
struct Messages<'a> {
    left: &'a [u8],
}

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let (length, rest) = self.left.split_first_chunk::<WORD>()?;
        let length = usize::from_ne_bytes(*length);
        let level = int(rest)?;
        let kind = int(rest.get(4..)?)?;
        let data = self.left.get(HEADER..length)?;
        let end = length.checked_next_multiple_of(WORD)?.min(self.left.len());
        self.left = &self.left[end..];
        Some(Message { level, kind, data })
    }
}

/// Ancillary data that goes with a datagram.
#[derive(Debug, Clone, Copy)]
#[repr(align(8))]
pub(crate) struct ToSend {
    bytes: [u8; ROOM_TO_SEND],
    length: usize,
}

impl ToSend {
    pub(crate) const NOTHING: Self = Self { bytes: [0; ROOM_TO_SEND], length: 0 };

    /// The payload is datagrams of `size` bytes each; the last may be shorter.
    pub(crate) fn segments(&mut self, size: u16) {
        self.add(libc::IPPROTO_UDP, UDP_SEGMENT, &[&size.to_ne_bytes()]);
    }

    /// It is to come from this address. `as_v6`: the socket is one of IPv6.
    pub(crate) fn source(&mut self, address: IpAddr, as_v6: bool) {
        const ANY_INTERFACE: [u8; 4] = [0; 4];
        match address {
            IpAddr::V4(it) if !as_v6 => {
                let (any, local) = (ANY_INTERFACE, it.octets());
                self.add(libc::IPPROTO_IP, libc::IP_PKTINFO, &[&any, &local, &[0; 4]]);
            }
            IpAddr::V4(it) => self.source(it.to_ipv6_mapped().into(), true),
            IpAddr::V6(it) => {
                let parts: [&[u8]; 2] = [&it.octets(), &ANY_INTERFACE];
                self.add(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &parts);
            }
        }
    }

    pub(crate) fn clear(&mut self) {
        self.length = 0;
    }

    /// What `sendmsg` is given.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    fn add(&mut self, level: i32, kind: i32, data: &[&[u8]]) {
        let start = self.length;
        let mut end = start;
        let size: usize = data.iter().map(|it| it.len()).sum();
        let head: [&[u8]; 3] =
            [&(HEADER + size).to_ne_bytes(), &level.to_ne_bytes(), &kind.to_ne_bytes()];
        for part in head.iter().chain(data) {
            self.bytes[end..end + part.len()].copy_from_slice(part);
            end += part.len();
        }
        self.length = start + (HEADER + size).next_multiple_of(WORD);
    }
}

// A segment size and the longer source address.
const _: () = assert!(
    ROOM_TO_SEND >= 2 * HEADER + 2_usize.next_multiple_of(WORD) + 20_usize.next_multiple_of(WORD)
);

#[cfg(all(test, not(loom)))]
#[path = "ancillary_tests.rs"]
mod tests;
