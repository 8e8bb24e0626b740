//! The options of a socket of datagrams, set before it is bound.

use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use netpoll_core::socket::{DatagramSocketOptions, Membership, Networks, check_interface};
use netpoll_core::{Address, Error, Result};

use super::bound::Datagrams;
use crate::options::{first_that_opens, validate_bind};

const DOING: &str = "bind";

/// How a socket of datagrams is opened.
///
/// ```
/// use netpoll_server::Datagrams;
///
/// let socket = Datagrams::options().receive_buffer(1 << 20).ttl(8).bind("udp", "127.0.0.1:0")?;
/// assert_ne!(socket.local_addr().port(), 0);
/// # Ok::<(), netpoll_core::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
#[must_use = "options do nothing until `bind`"]
pub struct DatagramOptions {
    socket: DatagramSocketOptions,
    /// Not checked yet.
    joins: Vec<(IpAddr, Option<String>)>,
    reuse_port: Option<bool>,
}

impl Datagrams {
    /// Binds with default options; see [`DatagramOptions::bind`].
    ///
    /// # Errors
    /// As [`DatagramOptions::bind`].
    pub fn bind(network: &str, address: &str) -> Result<Self> {
        DatagramOptions::default().bind(network, address)
    }

    /// Options that are set before the socket is bound.
    pub fn options() -> DatagramOptions {
        DatagramOptions::default()
    }
}

impl DatagramOptions {
    /// `SO_RCVBUF`, in bytes: what the kernel keeps of datagrams that were not received yet, with
    /// its bookkeeping, for which it doubles the number; above `net.core.rmem_max` it cuts it down.
    /// What does not fit is lost. Default `None`: of UDP 1 MiB, which holds some 900 datagrams of
    /// 1 200 bytes, or the system's (`net.core.rmem_default`) where that is more; of a Unix socket
    /// the system's.
    pub fn receive_buffer(mut self, bytes: impl Into<Option<usize>>) -> Self {
        self.socket.bind.receive_buffer = bytes.into();
        self
    }

    /// `SO_SNDBUF`, in bytes: what may be on its way to the device. Default `None`: the system's.
    pub fn send_buffer(mut self, bytes: impl Into<Option<usize>>) -> Self {
        self.socket.bind.send_buffer = bytes.into();
        self
    }

    /// `SO_REUSEADDR`: other sockets that set it, too, may be bound to the same address, as several
    /// members of a multicast group of one machine are. Each of them gets what is sent to the
    /// group; what is sent to one host goes to the socket that was bound last, so another program
    /// could take it away. Default off. UDP only.
    pub fn reuse_address(mut self, yes: bool) -> Self {
        self.socket.bind.reuse_address = yes;
        self
    }

    /// `SO_REUSEPORT`: whether the kernel spreads peers over several sockets on the address, by a
    /// hash of their addresses and ports.
    ///
    /// Default `None`: each loop of the event loop has a socket, unless there is but one loop. The
    /// address is bound for this process alone first, so a second server is refused with
    /// `AddrInUse`. With `true` it is shared from the start, also with other processes of the same
    /// user. With `false` one loop serves all.
    ///
    /// When a socket is added or closed, the kernel spreads anew: about half of the peers of a
    /// single socket go to the second one, and a closed one leaves its peers, and some others, to
    /// the rest. What is sent to a group or to all hosts is served by the first socket. UDP only.
    pub fn reuse_port(mut self, yes: impl Into<Option<bool>>) -> Self {
        self.reuse_port = yes.into();
        self
    }

    /// Whether an IPv6 socket takes nothing from IPv4 peers. Default `None`: yes on the network
    /// `udp6`, and on `udp` no, so that `[::]` serves both.
    pub fn only_v6(mut self, yes: impl Into<Option<bool>>) -> Self {
        self.socket.bind.only_v6 = yes.into();
        self
    }

    /// `IP_FREEBIND`, for IPv6 `IPV6_FREEBIND`: bind to an address that this machine does not have,
    /// or not yet. A wrong address is then no error. Default off. UDP only.
    pub fn freebind(mut self, yes: bool) -> Self {
        self.socket.bind.freebind = yes;
        self
    }

    /// `SO_BROADCAST`: datagrams may be sent to all hosts of a network. To receive what others send
    /// to all hosts needs no option. Default off. UDP only.
    pub fn broadcast(mut self, yes: bool) -> Self {
        self.socket.broadcast = yes;
        self
    }

    /// Joins a multicast group, by the interface of that name, or with `None` by the one that the
    /// system's routes choose. It may be called for several groups; [`Datagrams::join`] joins
    /// later. A socket gets what is sent to groups that it has joined, and not, as by the system's
    /// default, to those that any program of the machine has joined. UDP only.
    pub fn join<'a>(mut self, group: IpAddr, interface: impl Into<Option<&'a str>>) -> Self {
        self.joins.push((group, interface.into().map(str::to_owned)));
        self
    }

    /// Whether what this socket sends to a group reaches members on this machine. Default `None`:
    /// the system's, yes. UDP only.
    pub fn multicast_loop(mut self, yes: impl Into<Option<bool>>) -> Self {
        self.socket.multicast_loop = yes.into();
        self
    }

    /// How many routers may pass on what is sent to a group; 0 keeps it on this machine. Default
    /// `None`: the system's, 1, for the local network. UDP only.
    pub fn multicast_ttl(mut self, hops: impl Into<Option<u8>>) -> Self {
        self.socket.multicast_ttl = hops.into();
        self
    }

    /// The interface by which what is sent to a group leaves. Default `None`: the one that the
    /// system's routes choose. UDP only.
    pub fn multicast_interface<'a>(mut self, name: impl Into<Option<&'a str>>) -> Self {
        self.socket.multicast_interface = name.into().map(str::to_owned);
        self
    }

    /// The class of service of what is sent, a DSCP of 0 to 63, such as 46 for voice. Default
    /// `None`: the system's, 0. UDP only.
    pub fn dscp(mut self, class: impl Into<Option<u8>>) -> Self {
        self.socket.dscp = class.into();
        self
    }

    /// How many routers may pass a datagram on, 1 to 255. Default `None`: the system's, mostly 64.
    /// UDP only.
    pub fn ttl(mut self, hops: impl Into<Option<u8>>) -> Self {
        self.socket.ttl = hops.into();
        self
    }

    /// Whether a datagram that is larger than the path takes is an error of the sender (EMSGSIZE),
    /// and not sent in fragments; for programs that find the path's size out themselves. Default
    /// `None`: the system's. UDP only.
    pub fn dont_fragment(mut self, yes: impl Into<Option<bool>>) -> Self {
        self.socket.dont_fragment = yes.into();
        self
    }

    /// `SO_BINDTODEVICE`: only what arrives, and leaves, by this interface. Default `None`: any.
    /// UDP only.
    pub fn device(mut self, interface: impl Into<Option<String>>) -> Self {
        self.socket.bind.device = interface.into();
        self
    }

    /// The permissions of a Unix socket's file, such as `0o660`: users that may write to it may
    /// send. Default `None`: what the umask leaves of `0o777`.
    pub fn mode(mut self, mode: impl Into<Option<u32>>) -> Self {
        self.socket.bind.mode = mode.into();
        self
    }

    /// Whether each datagram says when the kernel received it; see
    /// [`Datagram::time`](netpoll_core::Datagram::time). Costs 2 to 3 %. Default off.
    pub fn time_stamps(mut self, yes: bool) -> Self {
        self.socket.features.timestamps = yes;
        self
    }

    /// Whether each datagram says its TOS byte, or traffic class, with what routers say of
    /// congestion; see [`Datagram::tos`](netpoll_core::Datagram::tos). Default off. UDP only.
    pub fn receive_tos(mut self, yes: bool) -> Self {
        self.socket.features.receive_tos = yes;
        self
    }

    /// Whether each datagram says which address it was sent to, and by which interface it came; see
    /// [`Datagram::local`](netpoll_core::Datagram::local). Costs 1 to 2 %. Default `None`: where
    /// the socket is bound to all addresses, so that answers come from the right one. UDP only.
    pub fn packet_info(mut self, yes: impl Into<Option<bool>>) -> Self {
        self.socket.features.packet_info = yes.into();
        self
    }

    /// `UDP_GRO`: whether the kernel may join datagrams of one peer that it has received, and pass
    /// them in one piece. Callbacks see no difference but in speed. Default on. UDP only.
    pub fn gro(mut self, yes: bool) -> Self {
        self.socket.features.receive_joined = yes;
        self
    }

    /// `UDP_SEGMENT`: whether datagrams of one size to one peer are given to the kernel in one
    /// piece. Default on; where a device can't do it, the socket notices, and goes on without. UDP
    /// only.
    pub fn gso(mut self, yes: bool) -> Self {
        self.socket.features.send_joined = yes;
        self
    }

    /// Called with each raw socket before it is bound, for options that this crate does not offer.
    /// An error that it returns is `bind`'s.
    pub fn before_bind(
        mut self,
        hook: impl Fn(BorrowedFd<'_>) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        self.socket.bind.before_bind = Some(Arc::new(hook));
        self
    }

    /// Opens the socket and binds it. The networks, and what their addresses look like:
    ///
    /// - `udp`: `host:port`; on the first address of the host that can be bound. `[v6]:port`, also
    ///   with a zone (`[fe80::1%eth0]:80`); `:port` is every address of this machine.
    /// - `udp4`, `udp6`: the same, for one family.
    /// - `unixgram`: a path, or `@name` in Linux's abstract namespace. A dead socket at that path
    ///   is replaced; any other file there is left alone, and is an error.
    ///
    /// Datagrams that come before it is served wait in its receive buffer.
    ///
    /// # Errors
    /// [`Error::Config`] for an address, a network or an option that can't be used;
    /// [`Error::Address`] with the system's answer, of kind `AddrInUse`, `AddrNotAvailable`,
    /// `PermissionDenied`, `NotFound` for an interface that is not there, …
    pub fn bind(&self, network: &str, address: &str) -> Result<Datagrams> {
        Networks::Datagrams.family(DOING, network, address)?;
        self.validate()?;
        let mut options = self.socket.clone();
        options.joins = self.memberships(network)?;
        options.bind.reuse_port = self.reuse_port == Some(true);
        if network == "unixgram" {
            if address.is_empty() || address == "@" {
                return Err(Error::config("a unix socket needs a path or an @name to bind to"));
            }
            let opened = Datagrams::opened(&Address::unix(address), options, false);
            return opened.map_err(|error| Error::address(DOING, network, address, error));
        }
        options.bind.only_v6 = options.bind.only_v6.or(Some(network == "udp6"));
        let may_spread = self.reuse_port != Some(false);
        first_that_opens(Networks::Datagrams, DOING, network, address, |it| {
            Datagrams::opened(it, options.clone(), may_spread)
        })
    }

    fn validate(&self) -> Result<()> {
        let options = &self.socket;
        validate_bind(&options.bind)?;
        if let Some(class) = options.dscp.filter(|&class| class > 63) {
            return Err(Error::config(format!("dscp is {class}, but classes end at 63")));
        }
        if options.ttl == Some(0) {
            return Err(Error::config("ttl is 0, so nothing would leave; None is the system's"));
        }
        check_interface("multicast_interface", options.multicast_interface.as_deref())
    }

    fn memberships(&self, network: &str) -> Result<Vec<Membership>> {
        let checked = |(group, interface): &(IpAddr, Option<String>)| {
            if network == "udp4" && group.is_ipv6() || network == "udp6" && group.is_ipv4() {
                let text = format!("join names the group {group}, but the network is {network}");
                return Err(Error::config(text));
            }
            Membership::new(*group, interface.as_deref())
        };
        self.joins.iter().map(checked).collect()
    }
}
