//! What a socket of datagrams says beside payloads, and whether the kernel joins datagrams for it.

use std::io;
use std::os::fd::BorrowedFd;

use nix::libc;
use socket2::SockRef;

use super::raw;
use crate::base::address::Address;

/// What a socket of datagrams is asked for. The setters of `DatagramOptions` in netpoll-server
/// document each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DatagramFeatures {
    /// Whether the kernel may join datagrams that it has received (GRO).
    pub receive_joined: bool,
    /// Whether datagrams may be given to the kernel joined (GSO).
    pub send_joined: bool,
    /// Whether each datagram says which address it was sent to. `None`: where the socket is bound
    /// to all addresses.
    pub packet_info: Option<bool>,
    /// Whether each datagram says its TOS byte or traffic class.
    pub receive_tos: bool,
    /// Whether each datagram says when the kernel received it.
    pub timestamps: bool,
    /// Whether all that ICMP says of sent datagrams is reported (`IP_RECVERR`). `None`: where the
    /// socket is connected.
    pub errors: Option<bool>,
}

impl Default for DatagramFeatures {
    fn default() -> Self {
        Self {
            receive_joined: true,
            send_joined: true,
            packet_info: None,
            receive_tos: false,
            timestamps: false,
            errors: None,
        }
    }
}

/// What the kernel granted of a socket's options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Granted {
    pub(crate) is_v6: bool,
    pub(crate) is_unix: bool,
    pub(crate) is_connected: bool,
    /// It joins what it has received.
    pub(crate) joins: bool,
    /// It takes what is joined.
    pub(crate) splits: bool,
    /// Each datagram says which address it was sent to.
    pub(crate) tells_destination: bool,
    /// It has an error queue.
    pub(crate) has_errors: bool,
}

/// Asks a socket for its features, before it is bound to `address` or connected to it, so that the
/// first datagram has them, too. What the system does not know is done without; what the user has
/// asked for by name must be there.
pub(super) fn ask_for(
    fd: BorrowedFd<'_>,
    address: &Address,
    is_connected: bool,
    features: DatagramFeatures,
) -> io::Result<Granted> {
    let on = |option| raw::set_int_option(fd, option, 1);
    if features.timestamps {
        on((libc::SOL_SOCKET, libc::SO_TIMESTAMPNS))?;
    }
    // Not known to the kernel: drops are not counted.
    let _ = on((libc::SOL_SOCKET, SO_RXQ_OVFL));
    let ip = address.inet().map(|it| it.ip());
    let is_v6 = ip.is_some_and(|it| it.is_ipv6());
    let mut granted = Granted {
        is_v6,
        is_unix: address.is_unix(),
        is_connected,
        joins: false,
        splits: false,
        tells_destination: false,
        has_errors: false,
    };
    if granted.is_unix {
        return Ok(granted);
    }
    let by_family = |v4, v6| if is_v6 { (libc::IPPROTO_IPV6, v6) } else { (libc::IPPROTO_IP, v4) };
    if features.packet_info.unwrap_or(ip.is_some_and(|it| it.is_unspecified())) {
        on(by_family(libc::IP_PKTINFO, libc::IPV6_RECVPKTINFO))?;
        granted.tells_destination = true;
    }
    if features.receive_tos {
        on(by_family(libc::IP_RECVTOS, libc::IPV6_RECVTCLASS))?;
        if is_v6 {
            // Of peers with IPv4; a socket for IPv6 alone may refuse it.
            let _ = on((libc::IPPROTO_IP, libc::IP_RECVTOS));
        }
    }
    if features.errors.unwrap_or(is_connected) {
        on(by_family(libc::IP_RECVERR, libc::IPV6_RECVERR))?;
        granted.has_errors = true;
    }
    granted.joins = features.receive_joined && on((libc::IPPROTO_UDP, UDP_GRO)).is_ok();
    let knows_segments = raw::int_option(fd, (libc::IPPROTO_UDP, UDP_SEGMENT)).is_ok();
    granted.splits = features.send_joined && knows_segments;
    Ok(granted)
}

/// How many bytes of memory the datagrams that it has received may take.
pub(crate) fn receive_buffer(fd: BorrowedFd<'_>) -> io::Result<usize> {
    SockRef::from(&fd).recv_buffer_size()
}

// Not in libc for all systems.
const SO_RXQ_OVFL: i32 = 40;
const UDP_SEGMENT: i32 = 103;
const UDP_GRO: i32 = 104;
