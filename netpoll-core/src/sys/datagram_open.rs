//! The system calls that open a socket of datagrams: bound, or connected to one peer.

use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;

use nix::libc;
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockAddr, SockFilter, SockRef};
use socket2::{Socket, Type};

use super::binding::{self, BindOptions, raw_address};
use super::connect::{self, ConnectOptions};
use super::datagram_features::{DatagramFeatures, Granted, ask_for};
use super::resolve::device_number;
use super::stream::local_address;
use super::{raw, repeat};
use crate::base::address::Address;
use crate::base::error::{Error, Result};

/// The usual default of Linux, 212 992, is full after 92 datagrams of 1 200 bytes: in a third of a
/// millisecond on loopback, and a loop is away for several whenever another thread has its
/// processor. This holds some 900. The memory is used only while datagrams wait.
const RECEIVE_BUFFER: usize = 1 << 20;

/// The options that a socket of datagrams gets when it is opened. `DatagramOptions` documents each.
#[derive(Debug, Clone, Default)]
#[expect(missing_docs, reason = "`DatagramOptions` of netpoll-server documents each")]
pub struct DatagramSocketOptions {
    pub bind: BindOptions,
    pub broadcast: bool,
    pub joins: Vec<Membership>,
    pub multicast_loop: Option<bool>,
    pub multicast_ttl: Option<u8>,
    pub multicast_interface: Option<String>,
    pub dscp: Option<u8>,
    pub ttl: Option<u8>,
    pub dont_fragment: Option<bool>,
    pub features: DatagramFeatures,
}

/// A multicast group that a socket is a member of, by an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    group: IpAddr,
    /// None is the one that the system's routes choose.
    interface: Option<String>,
}

impl Membership {
    /// The membership of a group by the interface of that name, or by the one that the system's
    /// routes choose.
    ///
    /// # Errors
    /// [`Error::Config`] for what is no group, or a name that no interface can have.
    pub fn new(group: IpAddr, interface: Option<&str>) -> Result<Self> {
        if !group.is_multicast() {
            let text = format!("join names {group}, which is no multicast group");
            return Err(Error::config(text));
        }
        check_interface("join", interface)?;
        Ok(Self { group, interface: interface.map(str::to_owned) })
    }

    /// The group.
    pub fn group(&self) -> IpAddr {
        self.group
    }
}

/// Checks the name of an interface.
///
/// # Errors
/// [`Error::Config`] for one that no interface can have; it names the option.
pub fn check_interface(option: &str, name: Option<&str>) -> Result<()> {
    if name.is_some_and(|it| it.is_empty() || it.contains('\0')) {
        return Err(Error::config(format!(
            "{option} names an interface with {name:?}; None is the system's choice"
        )));
    }
    Ok(())
}

/// Opens a socket that is bound to `address`, non-blocking and closed on exec.
pub(crate) fn bind(
    address: &Address,
    options: &DatagramSocketOptions,
) -> io::Result<(OwnedFd, Granted)> {
    let socket = socket_for(address)?;
    if let Address::Inet(inet) = address {
        let domain = Domain::for_address(*inet);
        binding::prepare_inet(&socket, domain, &options.bind)?;
        prepare_inet(&socket, domain, options)?;
        if options.bind.receive_buffer.is_none() {
            grow_receive_buffer(&socket);
        }
    }
    let socket = match (options.bind.mode, address.path()) {
        (Some(mode), Some(_)) => with_mode(socket, mode)?,
        _ => socket,
    };
    let granted = ask_for(socket.as_fd(), address, false, options.features)?;
    binding::prepare(&socket, &options.bind)?;
    binding::bind(&socket, address)?;
    if let (Some(mode), Some(path)) = (options.bind.mode, address.path()) {
        // What the umask has taken away.
        fs::set_permissions(path, Permissions::from_mode(mode))?;
    }
    for membership in &options.joins {
        join(socket.as_fd(), membership)?;
    }
    Ok((socket.into(), granted))
}

/// Gives a socket the receive buffer that it has where the user asks for none. One that is larger
/// by the system's settings stays as it is.
fn grow_receive_buffer(socket: &Socket) {
    // The kernel says and uses twice what it is asked for.
    if socket.recv_buffer_size().is_ok_and(|it| it < 2 * RECEIVE_BUFFER) {
        // Where the system refuses, datagrams are lost sooner, and counted.
        let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
    }
}

/// Opens one more socket on the address of a socket that shares its port. The kernel spreads peers
/// over all of them by a hash of their addresses.
///
/// A datagram to a group or to all hosts would reach each of them. So this one takes only what is
/// for this host alone, and the first socket what is for several.
pub(crate) fn bind_further(
    address: &Address,
    options: &DatagramSocketOptions,
) -> io::Result<(OwnedFd, Granted)> {
    let bind_options = BindOptions { reuse_port: true, ..options.bind.clone() };
    let options =
        DatagramSocketOptions { bind: bind_options, joins: Vec::new(), ..options.clone() };
    let (fd, granted) = bind(address, &options)?;
    refuse_what_is_for_several(fd.as_fd())?;
    Ok((fd, granted))
}

/// Lets further sockets be bound to the address of a socket that is bound already. Another process
/// still can't take the address: its socket would have to share its port, too, and be the same
/// user's.
pub(crate) fn share_port(fd: BorrowedFd<'_>) -> io::Result<()> {
    SockRef::from(&fd).set_reuse_port(true)
}

/// Opens a socket that is connected to a peer: it sends to that peer alone, and receives from it
/// alone. No packet is sent. A Unix socket gets a name of the system's choice, so that the peer can
/// answer.
pub(crate) fn connect(
    to: &Address,
    options: &ConnectOptions,
    features: DatagramFeatures,
) -> io::Result<(OwnedFd, Granted)> {
    let socket = socket_for(to)?;
    if to.is_unix() {
        let unnamed = SockAddr::unix("")?;
        socket.bind(&unnamed)?;
    }
    connect::prepare(&socket, to, options)?;
    let granted = ask_for(socket.as_fd(), to, true, features)?;
    repeat(|| socket.connect(&raw_address(to)?))?;
    Ok((socket.into(), granted))
}

/// Makes a socket that was opened elsewhere fit for use here.
///
/// # Errors
/// The system's; `InvalidInput` for what is no socket of datagrams.
pub(crate) fn adopt(fd: BorrowedFd<'_>, features: DatagramFeatures) -> io::Result<Granted> {
    let socket = SockRef::from(&fd);
    if socket.r#type()? != Type::DGRAM {
        return Err(ErrorKind::InvalidInput.into());
    }
    socket.set_nonblocking(true)?;
    socket.set_cloexec(true)?;
    ask_for(fd, &local_address(fd)?, socket.peer_addr().is_ok(), features)
}

/// Makes a socket a member of a multicast group.
pub(crate) fn join(fd: BorrowedFd<'_>, membership: &Membership) -> io::Result<()> {
    let index = index_of(membership.interface.as_deref())?;
    let socket = SockRef::from(&fd);
    match &membership.group {
        IpAddr::V4(group) => {
            socket.join_multicast_v4_n(group, &InterfaceIndexOrAddress::Index(index))
        }
        IpAddr::V6(group) => socket.join_multicast_v6(group, index),
    }
}

/// Ends a membership.
pub(crate) fn leave(fd: BorrowedFd<'_>, membership: &Membership) -> io::Result<()> {
    let index = index_of(membership.interface.as_deref())?;
    let socket = SockRef::from(&fd);
    match &membership.group {
        IpAddr::V4(group) => {
            socket.leave_multicast_v4_n(group, &InterfaceIndexOrAddress::Index(index))
        }
        IpAddr::V6(group) => socket.leave_multicast_v6(group, index),
    }
}

fn socket_for(address: &Address) -> io::Result<Socket> {
    let (domain, protocol) = match address {
        Address::Inet(inet) => (Domain::for_address(*inet), Some(Protocol::UDP)),
        _ => (Domain::UNIX, None),
    };
    Socket::new(domain, Type::DGRAM.nonblocking().cloexec(), protocol)
}

/// Sets what only a socket of UDP has. One of IPv6 gets the options of IPv4, too: it sends to peers
/// of both, unless it is for IPv6 alone.
fn prepare_inet(
    socket: &Socket,
    domain: Domain,
    options: &DatagramSocketOptions,
) -> io::Result<()> {
    let is_v6 = domain == Domain::IPV6;
    socket.set_broadcast(options.broadcast)?;
    only_own_groups(socket, is_v6)?;
    if let Some(yes) = options.multicast_loop {
        socket.set_multicast_loop_v4(yes)?;
        in_v6(is_v6, || socket.set_multicast_loop_v6(yes))?;
    }
    if let Some(hops) = options.multicast_ttl {
        socket.set_multicast_ttl_v4(hops.into())?;
        in_v6(is_v6, || socket.set_multicast_hops_v6(hops.into()))?;
    }
    if let Some(name) = &options.multicast_interface {
        let index = index_of(Some(name))?;
        send_groups_by(socket, index)?;
        in_v6(is_v6, || socket.set_multicast_if_v6(index))?;
    }
    if let Some(dscp) = options.dscp {
        let tos = u32::from(dscp) << 2;
        socket.set_tos_v4(tos)?;
        in_v6(is_v6, || socket.set_tclass_v6(tos))?;
    }
    if let Some(hops) = options.ttl {
        socket.set_ttl_v4(hops.into())?;
        in_v6(is_v6, || socket.set_unicast_hops_v6(hops.into()))?;
    }
    if let Some(yes) = options.dont_fragment {
        set_dont_fragment(socket, is_v6, yes)?;
    }
    Ok(())
}

fn in_v6(is_v6: bool, set: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    if is_v6 { set() } else { Ok(()) }
}

/// By the system's default a socket that is bound to all addresses receives what comes for any
/// group that any process of this machine has joined.
fn only_own_groups(socket: &Socket, is_v6: bool) -> io::Result<()> {
    socket.set_multicast_all_v4(false)?;
    match in_v6(is_v6, || socket.set_multicast_all_v6(false)) {
        // Before Linux 4.20 IPv6 has no such option.
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(()),
        other => other,
    }
}

/// What is sent to a group of IPv4 leaves by this interface.
fn send_groups_by(socket: &Socket, index: u32) -> io::Result<()> {
    let any = Ipv4Addr::UNSPECIFIED.octets();
    // `struct ip_mreqn`: a group, an address, the number of an interface.
    let request = [any, any, index.to_ne_bytes()].concat();
    raw::set_option(socket.as_fd(), (libc::IPPROTO_IP, libc::IP_MULTICAST_IF), &request)
}

/// Datagrams larger than the path takes are refused (EMSGSIZE), or cut into fragments.
fn set_dont_fragment(socket: &Socket, is_v6: bool, yes: bool) -> io::Result<()> {
    let set = |option, value: i32| raw::set_option(socket.as_fd(), option, &value.to_ne_bytes());
    let v4 = if yes { libc::IP_PMTUDISC_DO } else { libc::IP_PMTUDISC_DONT };
    set((libc::IPPROTO_IP, libc::IP_MTU_DISCOVER), v4)?;
    let v6 = if yes { libc::IPV6_PMTUDISC_DO } else { libc::IPV6_PMTUDISC_DONT };
    in_v6(is_v6, || set((libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER), v6))
}

/// Drops what is not for this host alone: multicast and broadcast, by what the kernel says of the
/// packet. Of the loopback it says that each is for this host, so two addresses are looked at.
fn refuse_what_is_for_several(fd: BorrowedFd<'_>) -> io::Result<()> {
    const LOAD_WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const LOAD_BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
    const MASK: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
    const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    const TYPE_OF_PACKET: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_PKTTYPE).cast_unsigned();
    const VERSION: u32 = libc::SKF_NET_OFF.cast_unsigned();
    const DESTINATION_V4: u32 = (libc::SKF_NET_OFF + 16).cast_unsigned();
    let address = |octets| u32::from(Ipv4Addr::from(octets));
    SockRef::from(&fd).attach_filter(&[
        SockFilter::new(LOAD_WORD, 0, 0, TYPE_OF_PACKET),
        SockFilter::new(JUMP_IF_EQUAL, 0, 7, libc::PACKET_HOST.into()), // else: drop
        SockFilter::new(LOAD_BYTE, 0, 0, VERSION),
        SockFilter::new(MASK, 0, 0, 0xf0),
        SockFilter::new(JUMP_IF_EQUAL, 0, 3, 0x40), // else: take
        SockFilter::new(LOAD_WORD, 0, 0, DESTINATION_V4),
        SockFilter::new(JUMP_IF_EQUAL, 2, 0, address([127, 255, 255, 255])), // drop
        SockFilter::new(JUMP_IF_EQUAL, 1, 0, address([255, 255, 255, 255])), // drop
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ])
}

/// Gives the file that a bind will make this mode at most: a file that peers may write to for a
/// moment would let them send.
fn with_mode(socket: Socket, mode: u32) -> io::Result<Socket> {
    // The kernel takes the mode of a new socket's file from the socket, within the umask.
    let file = File::from(OwnedFd::from(socket));
    file.set_permissions(Permissions::from_mode(mode))?;
    Ok(OwnedFd::from(file).into())
}

/// The number of an interface, 0 for the system's choice.
fn index_of(interface: Option<&str>) -> io::Result<u32> {
    let Some(name) = interface else { return Ok(0) };
    device_number(name).map_err(|error| {
        let text = format!("there is no interface {name}: {error}");
        io::Error::new(ErrorKind::NotFound, text)
    })
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn any_port(ip: &str) -> Address {
        Address::Inet(format!("{ip}:0").parse().expect("an address"))
    }

    #[test]
    fn a_bound_socket_has_room_for_a_burst_unless_the_user_says_how_much() {
        let room = |receive_buffer| {
            let bind_options = BindOptions { receive_buffer, ..BindOptions::default() };
            let options =
                DatagramSocketOptions { bind: bind_options, ..DatagramSocketOptions::default() };
            let (fd, _) = bind(&any_port("127.0.0.1"), &options).expect("a socket");
            SockRef::from(&fd).recv_buffer_size().expect("an option")
        };
        let plain = Socket::new(Domain::IPV4, Type::DGRAM, None).expect("a socket");
        let of_system = plain.recv_buffer_size().expect("an option");
        plain.set_recv_buffer_size(RECEIVE_BUFFER).expect("an option");
        let granted = plain.recv_buffer_size().expect("an option"); // or what rmem_max allows
        assert_eq!(room(None), granted.max(of_system));
        assert_eq!(room(Some(1 << 14)), 1 << 15);
    }

    #[test]
    fn each_option_reaches_the_socket() {
        let options = DatagramSocketOptions {
            bind: BindOptions { receive_buffer: Some(1 << 17), ..BindOptions::default() },
            broadcast: true,
            multicast_loop: Some(false),
            multicast_ttl: Some(7),
            multicast_interface: Some("lo".to_owned()),
            dscp: Some(46),
            ttl: Some(33),
            dont_fragment: Some(true),
            ..DatagramSocketOptions::default()
        };
        let (fd, _) = bind(&any_port("127.0.0.1"), &options).expect("a socket");
        let socket = SockRef::from(&fd);
        assert!(socket.recv_buffer_size().expect("an option") >= 1 << 17);
        assert!(socket.broadcast().expect("an option"));
        assert!(!socket.multicast_loop_v4().expect("an option"));
        assert!(!socket.multicast_all_v4().expect("an option"));
        assert_eq!(socket.multicast_ttl_v4().expect("an option"), 7);
        assert_eq!(socket.tos_v4().expect("an option"), 46 << 2);
        assert_eq!(socket.ttl_v4().expect("an option"), 33);
        assert!(socket.nonblocking().expect("a flag"));
        let Ok((fd, _)) = bind(&any_port("[::1]"), &options) else { return };
        let socket = SockRef::from(&fd);
        assert!(!socket.multicast_loop_v6().expect("an option"));
        assert_eq!(socket.multicast_hops_v6().expect("an option"), 7);
        assert_eq!(socket.multicast_if_v6().expect("an option"), 1, "the number of lo");
        assert_eq!(socket.tclass_v6().expect("an option"), 46 << 2);
        assert_eq!(socket.unicast_hops_v6().expect("an option"), 33);
        assert_eq!(socket.ttl_v4().expect("an option"), 33, "for peers of IPv4");
    }

    #[test]
    fn what_must_not_be_cut_says_so() {
        for (asked, expected) in [(true, libc::IP_PMTUDISC_DO), (false, libc::IP_PMTUDISC_DONT)] {
            let options = DatagramSocketOptions {
                dont_fragment: Some(asked),
                ..DatagramSocketOptions::default()
            };
            let (fd, _) = bind(&any_port("127.0.0.1"), &options).expect("a socket");
            let mut value = [0_u8; 4];
            raw::option(fd.as_fd(), (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER), &mut value)
                .expect("an option");
            assert_eq!(i32::from_ne_bytes(value), expected);
        }
    }

    #[test]
    fn a_further_socket_shares_the_port_that_others_can_not_take() {
        let options = DatagramSocketOptions::default();
        let (first, _) = bind(&any_port("127.0.0.1"), &options).expect("a socket");
        let address = local_address(first.as_fd()).expect("an address");
        let taken = bind_further(&address, &options).expect_err("the first does not share");
        assert_eq!(taken.kind(), ErrorKind::AddrInUse);
        share_port(first.as_fd()).expect("an option");
        bind_further(&address, &options).expect("it shares");
        let taken = bind(&address, &options).expect_err("this one does not");
        assert_eq!(taken.kind(), ErrorKind::AddrInUse);
    }

    #[test]
    fn memberships_begin_and_end() {
        let (fd, _) =
            bind(&any_port("0.0.0.0"), &DatagramSocketOptions::default()).expect("a socket");
        let group = IpAddr::from([239, 7, 7, 7]);
        let membership = Membership::new(group, Some("lo")).expect("a group");
        join(fd.as_fd(), &membership).expect("a member");
        assert!(join(fd.as_fd(), &membership).is_err(), "it is one already");
        leave(fd.as_fd(), &membership).expect("it was one");
        assert!(leave(fd.as_fd(), &membership).is_err(), "it is none any more");
        let nowhere = Membership::new(group, Some("no-such-device")).expect("a group");
        let error = join(fd.as_fd(), &nowhere).expect_err("there is no such interface");
        assert!(error.to_string().starts_with("there is no interface no-such-device"), "{error}");
    }
}
