//! Sockets of datagrams that are connected to one peer, by its name.

use std::io::ErrorKind;
use std::sync::{Arc, OnceLock};

use netpoll_core::socket::{DatagramFeatures, Networks};
use netpoll_core::{Address, DatagramClient, DatagramSocket, Error, Limits, Notify, Result, clock};

use crate::dialer::Dialer;
use crate::target::{Kind, Target};

const DOING: &str = "connect";

/// Opens a socket of datagrams that is connected to one peer, with default options; see
/// [`Dialer::connect_datagrams`].
///
/// ```
/// use std::time::Duration;
///
/// let server = std::net::UdpSocket::bind("127.0.0.1:0")?;
/// let address = server.local_addr()?.to_string();
/// let mut client = netpoll_client::connect_datagrams("udp", &address)?;
/// client.set_read_timeout(Duration::from_secs(1));
/// client.send(b"how late is it?")?;
///
/// let (_, peer) = server.recv_from(&mut [0; 64])?;
/// server.send_to(b"noon", peer)?;
/// assert_eq!(client.recv_bytes()?, "noon");
/// # Ok::<(), netpoll_core::Error>(())
/// ```
///
/// # Errors
/// As [`Dialer::connect_datagrams`].
pub fn connect_datagrams(network: &str, address: &str) -> Result<DatagramClient> {
    static DEFAULT: OnceLock<Dialer> = OnceLock::new();
    if let Some(dialer) = DEFAULT.get() {
        return dialer.connect_datagrams(network, address);
    }
    let dialer = Dialer::new(Limits::default())?;
    DEFAULT.get_or_init(|| dialer).connect_datagrams(network, address)
}

impl Dialer {
    /// Opens a socket of datagrams that is connected to one peer, which no packet tells of. A name
    /// is resolved within the dialer's timeout, and the peer is the first of its addresses to which
    /// there is a route. Of the dialer's options those count that concern any socket: the local
    /// address, buffers, the device, `before_connect`.
    ///
    /// | network | address |
    /// | --- | --- |
    /// | `"udp"`, of one family `"udp4"`, `"udp6"` | `host:port`, `1.2.3.4:port`, `[::1]:port` |
    /// | `"unixgram"` | a path, or `@` and a name of Linux's abstract namespace |
    ///
    /// # Errors
    /// [`Error::Config`](netpoll_core::Error::Config) for an address or a network that can't be
    /// used, and for a name in a callback that must not wait;
    /// [`Error::Address`](netpoll_core::Error::Address) with the system's answer, of kind
    /// `NotFound` (no such host, no such path), `ConnectionRefused` (no socket at that path),
    /// `NetworkUnreachable`, `TimedOut`, …
    pub fn connect_datagrams(&self, network: &str, address: &str) -> Result<DatagramClient> {
        let (target, kind) = Target::parse_for(Networks::Datagrams, DOING, network, address)?;
        let addresses = match kind {
            Kind::Literal(address) => vec![address],
            Kind::Name(host, port) => self.look_up(&target, host, port)?,
        };
        let local = self.options.connect.local.map(|it| it.is_ipv4());
        let fits = |to: &Address| match (local, to.inet()) {
            (Some(is_v4), Some(to)) => to.is_ipv4() == is_v4,
            _ => true,
        };
        let mut failure = None;
        for peer in addresses.into_iter().filter(fits) {
            let features = DatagramFeatures::default();
            match DatagramSocket::connect(&peer, &self.options.connect, features) {
                Ok(socket) => return Ok(DatagramClient::new(socket, peer)),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        Err(failure.map_or_else(
            || target.wrong("it has no address of the local address's family"),
            |error| target.failed(error),
        ))
    }

    /// The addresses of a name that belong to the network's family. Waits on this thread.
    fn look_up(&self, target: &Target<'_>, host: &str, port: u16) -> Result<Vec<Address>> {
        let failed = |error: Error| target.failed(error.into());
        let (notify, deadline) =
            (Arc::<Notify>::default(), clock::now().checked_add(self.options.timeout));
        let question = self.options.resolver.ask(host, port, &notify);
        let question = question.map_err(|error| target.failed(error))?;
        loop {
            if let Some(answer) = question.answer() {
                return target.fitting(answer.map_err(|error| target.failed(error))?);
            }
            if deadline.is_some_and(|it| it <= clock::now()) {
                return Err(target.failed(ErrorKind::TimedOut.into()));
            }
            notify.wait(deadline).map_err(failed)?;
        }
    }
}
