//! The system calls that open datagram sockets, and their options.

use std::fmt;
use std::fs::{self, Permissions};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use nix::libc;
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockRef, Socket, Type};

use super::binding::{self, BeforeBind, raw_address};
use super::{raw, repeat};
use crate::base::address::Address;

/// The options that a datagram socket gets before it is bound.
#[derive(Clone)]
#[expect(missing_docs, reason = "the builder of the face documents each, with defaults")]
pub struct DatagramOptions {
    pub reuse_address: bool,
    pub reuse_port: bool,
    pub only_v6: Option<bool>,
    pub freebind: bool,
    pub receive_buffer: Option<usize>,
    pub send_buffer: Option<usize>,
    pub broadcast: bool,
    pub device: Option<String>,
    pub mode: Option<u32>,
    pub ttl: Option<u32>,
    /// The TOS byte of what is sent, or the traffic class.
    pub tos: Option<u32>,
    pub dont_fragment: bool,
    /// Groups to join, each on the interface of that number; 0 is the system's choice.
    pub groups: Vec<(IpAddr, u32)>,
    pub multicast_loop: Option<bool>,
    pub multicast_ttl: Option<u32>,
    /// The number of the interface that what is sent to groups leaves by.
    pub multicast_interface: Option<u32>,
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
    pub before_bind: Option<Arc<BeforeBind>>,
}

impl Default for DatagramOptions {
    fn default() -> Self {
        Self {
            reuse_address: false,
            reuse_port: false,
            only_v6: None,
            freebind: false,
            receive_buffer: None,
            send_buffer: None,
            broadcast: false,
            device: None,
            mode: None,
            ttl: None,
            tos: None,
            dont_fragment: false,
            groups: Vec::new(),
            multicast_loop: None,
            multicast_ttl: None,
            multicast_interface: None,
            receive_joined: true,
            send_joined: true,
            packet_info: None,
            receive_tos: false,
            timestamps: false,
            errors: None,
            before_bind: None,
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

/// Opens a datagram socket, non-blocking and closed on exec, bound to `local`. The file of a Unix
/// socket behind which no process is any more is removed.
pub(crate) fn bind(local: &Address, options: &DatagramOptions) -> io::Result<(OwnedFd, Granted)> {
    let socket = open(local, options)?;
    match local {
        Address::Unnamed => {} // what it sends has no sender
        other => binding::bind(&socket, other)?,
    }
    if let (Some(mode), Some(path)) = (options.mode, local.path()) {
        fs::set_permissions(path, Permissions::from_mode(mode))?;
    }
    for (group, interface) in &options.groups {
        join(socket.as_fd(), *group, *interface)?;
    }
    let is_any = local.inet().is_some_and(|it| it.ip().is_unspecified());
    let granted = ask_for_ancillary(&socket, local, false, is_any, options)?;
    Ok((socket.into(), granted))
}

/// Opens one that is connected to `peer`: from `local`, or from an address that the system chooses.
pub(crate) fn connect(
    peer: &Address,
    local: Option<&Address>,
    options: &DatagramOptions,
) -> io::Result<(OwnedFd, Granted)> {
    let socket = open(peer, options)?;
    if let Some(local) = local {
        binding::bind(&socket, local)?;
    }
    repeat(|| socket.connect(&raw_address(peer)?))?;
    let granted = ask_for_ancillary(&socket, peer, true, false, options)?;
    Ok((socket.into(), granted))
}

/// Joins a multicast group on the interface of that number; 0 is the system's choice.
pub(crate) fn join(fd: BorrowedFd<'_>, group: IpAddr, interface: u32) -> io::Result<()> {
    let socket = SockRef::from(&fd);
    match group {
        IpAddr::V4(it) => socket.join_multicast_v4_n(&it, &by_number(interface)),
        IpAddr::V6(it) => socket.join_multicast_v6(&it, interface),
    }
}

/// Leaves a group that was joined on that interface.
pub(crate) fn leave(fd: BorrowedFd<'_>, group: IpAddr, interface: u32) -> io::Result<()> {
    let socket = SockRef::from(&fd);
    match group {
        IpAddr::V4(it) => socket.leave_multicast_v4_n(&it, &by_number(interface)),
        IpAddr::V6(it) => socket.leave_multicast_v6(&it, interface),
    }
}

/// How many bytes of memory the datagrams that it has received may take.
pub(crate) fn receive_buffer(fd: BorrowedFd<'_>) -> io::Result<usize> {
    SockRef::from(&fd).recv_buffer_size()
}

fn by_number(interface: u32) -> InterfaceIndexOrAddress {
    match interface {
        0 => InterfaceIndexOrAddress::Address(Ipv4Addr::UNSPECIFIED),
        number => InterfaceIndexOrAddress::Index(number),
    }
}

fn open(address: &Address, options: &DatagramOptions) -> io::Result<Socket> {
    let (domain, protocol) = match address {
        Address::Inet(inet) => (Domain::for_address(*inet), Some(Protocol::UDP)),
        _ => (Domain::UNIX, None),
    };
    let socket = Socket::new(domain, Type::DGRAM.nonblocking().cloexec(), protocol)?;
    if let Address::Inet(inet) = address {
        prepare_udp(&socket, *inet, options)?;
    }
    if let Some(bytes) = options.receive_buffer {
        socket.set_recv_buffer_size(bytes)?;
    }
    if let Some(bytes) = options.send_buffer {
        socket.set_send_buffer_size(bytes)?;
    }
    if let Some(hook) = &options.before_bind {
        hook(socket.as_fd())?;
    }
    Ok(socket)
}

fn prepare_udp(socket: &Socket, address: SocketAddr, options: &DatagramOptions) -> io::Result<()> {
    socket.set_reuse_address(options.reuse_address)?;
    socket.set_reuse_port(options.reuse_port)?;
    socket.set_broadcast(options.broadcast)?;
    if let Some(device) = &options.device {
        socket.bind_device(Some(device.as_bytes()))?;
    }
    if address.is_ipv4() { prepare_v4(socket, options) } else { prepare_v6(socket, options) }
}

fn prepare_v4(socket: &Socket, options: &DatagramOptions) -> io::Result<()> {
    if options.freebind {
        socket.set_freebind_v4(true)?;
    }
    if let Some(ttl) = options.ttl {
        socket.set_ttl_v4(ttl)?;
    }
    if let Some(tos) = options.tos {
        socket.set_tos_v4(tos)?;
    }
    if options.dont_fragment {
        let option = (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER);
        raw::set_int_option(socket.as_fd(), option, libc::IP_PMTUDISC_DO)?;
    }
    if let Some(is_on) = options.multicast_loop {
        socket.set_multicast_loop_v4(is_on)?;
    }
    if let Some(ttl) = options.multicast_ttl {
        socket.set_multicast_ttl_v4(ttl)?;
    }
    let Some(number) = options.multicast_interface else { return Ok(()) };
    // `struct ip_mreqn`: a group, an address, and the interface, which alone counts here.
    let request = [[0; 4], [0; 4], number.to_ne_bytes()].concat();
    raw::set_option(socket.as_fd(), (libc::IPPROTO_IP, libc::IP_MULTICAST_IF), &request)
}

fn prepare_v6(socket: &Socket, options: &DatagramOptions) -> io::Result<()> {
    if let Some(only) = options.only_v6 {
        socket.set_only_v6(only)?;
    }
    if options.freebind {
        socket.set_freebind_v6(true)?;
    }
    if let Some(hops) = options.ttl {
        socket.set_unicast_hops_v6(hops)?;
    }
    if let Some(class) = options.tos {
        socket.set_tclass_v6(class)?;
    }
    if options.dont_fragment {
        let option = (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER);
        raw::set_int_option(socket.as_fd(), option, libc::IPV6_PMTUDISC_DO)?;
    }
    if let Some(is_on) = options.multicast_loop {
        socket.set_multicast_loop_v6(is_on)?;
    }
    if let Some(hops) = options.multicast_ttl {
        socket.set_multicast_hops_v6(hops)?;
    }
    options.multicast_interface.map_or(Ok(()), |number| socket.set_multicast_if_v6(number))
}

/// Asks for the control messages that the options want, and for joined datagrams. What the system
/// does not know is done without; what the user has asked for by name must be there.
fn ask_for_ancillary(
    socket: &Socket,
    address: &Address,
    is_connected: bool,
    is_any: bool,
    options: &DatagramOptions,
) -> io::Result<Granted> {
    let fd = socket.as_fd();
    let on = |option| raw::set_int_option(fd, option, 1);
    if options.timestamps {
        on((libc::SOL_SOCKET, libc::SO_TIMESTAMPNS))?;
    }
    // Not known to the kernel: drops are not counted.
    let _ = on((libc::SOL_SOCKET, SO_RXQ_OVFL));
    let (is_unix, is_v6) = (address.is_unix(), address.inet().is_some_and(|it| it.is_ipv6()));
    let mut granted = Granted {
        is_v6,
        is_unix,
        is_connected,
        joins: false,
        splits: false,
        tells_destination: false,
        has_errors: false,
    };
    if is_unix {
        return Ok(granted);
    }
    let by_family = |v4, v6| if is_v6 { (libc::IPPROTO_IPV6, v6) } else { (libc::IPPROTO_IP, v4) };
    if options.packet_info.unwrap_or(is_any) {
        on(by_family(libc::IP_PKTINFO, libc::IPV6_RECVPKTINFO))?;
        granted.tells_destination = true;
    }
    if options.receive_tos {
        on(by_family(libc::IP_RECVTOS, libc::IPV6_RECVTCLASS))?;
        if is_v6 {
            // Of peers with IPv4; a socket for IPv6 alone may refuse it.
            let _ = on((libc::IPPROTO_IP, libc::IP_RECVTOS));
        }
    }
    if options.errors.unwrap_or(is_connected) {
        on(by_family(libc::IP_RECVERR, libc::IPV6_RECVERR))?;
        granted.has_errors = true;
    }
    granted.joins = options.receive_joined && on((libc::IPPROTO_UDP, UDP_GRO)).is_ok();
    let knows_segments = raw::int_option(fd, (libc::IPPROTO_UDP, UDP_SEGMENT)).is_ok();
    granted.splits = options.send_joined && knows_segments;
    Ok(granted)
}

// Not in libc for all systems.
const SO_RXQ_OVFL: i32 = 40;
const UDP_SEGMENT: i32 = 103;
const UDP_GRO: i32 = 104;

impl fmt::Debug for DatagramOptions {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("DatagramOptions")
            .field("reuse_port", &self.reuse_port)
            .field("receive_buffer", &self.receive_buffer)
            .field("packet_info", &self.packet_info)
            .finish_non_exhaustive()
    }
}
