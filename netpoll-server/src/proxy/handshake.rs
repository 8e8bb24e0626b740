//! The time between a proxy's connect and the end of its header.
//!
//! Until the header is complete it is only peeked at; then it is taken, and no byte more. So the
//! bytes behind it are the connection's, and a connection begins only when its client is known.

use std::io::ErrorKind;
use std::sync::Arc;

use netpoll_core::proxy::{HEADER_MAX, Header, parse};
use netpoll_core::{Address, ConnectionGroup, Preamble, Remote, Stream, clock, later};

use super::options::ProxyProtocol;

/// What becomes a connection when its header has come.
pub(crate) trait Proxied: Send {
    fn stream(&self) -> &Stream;

    /// The proxy's address.
    fn peer(&self) -> &Address;

    /// Whether it would be a connection of this group.
    fn is_of(&self, group: &Arc<ConnectionGroup>) -> bool;

    /// The header was taken.
    fn proceed(self, header: Header);

    /// There is no header, or none in time.
    fn give_up(self);
}

/// A stream, and what has come of the header that names its client.
struct ProxyHandshake<P> {
    proxied: P,
    limit: usize,
    seen: Seen,
}

/// What has been seen of the header.
enum Seen {
    Part,
    /// All of it, and its length.
    All(Header, usize),
    /// Bytes that can't become one.
    Nonsense,
}

/// Waits on `reactor` for the header; if this is the `last` chance, it must be there already.
pub(crate) fn begin<P: Proxied + 'static>(
    proxied: P,
    proxy: &ProxyProtocol,
    reactor: &Remote,
    last: bool,
) {
    let late = later(clock::now(), proxy.deadline);
    let mut handshake = Box::new(ProxyHandshake { proxied, limit: proxy.limit, seen: Seen::Part });
    // It usually comes with the first segment.
    if handshake.is_complete() || last {
        handshake.end();
    } else {
        reactor.await_preamble(handshake, late);
    }
}

impl<P: Proxied> ProxyHandshake<P> {
    fn look(&self) -> Seen {
        let mut bytes = vec![0; self.limit.min(HEADER_MAX)];
        let seen = match self.proxied.stream().peek(&mut bytes) {
            Ok(0) => return Seen::Nonsense,
            Ok(seen) => seen,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Seen::Part,
            Err(error) => {
                log::debug!("{} sent no PROXY header: {error}", self.proxied.peer());
                return Seen::Nonsense;
            }
        };
        match parse(&bytes[..seen], self.limit) {
            Ok(None) => Seen::Part,
            Ok(Some((header, len))) => Seen::All(header, len),
            Err(malformed) => {
                log::debug!("{} is refused: {malformed}", self.proxied.peer());
                Seen::Nonsense
            }
        }
    }
}

impl<P: Proxied> Preamble for ProxyHandshake<P> {
    fn stream(&self) -> &Stream {
        self.proxied.stream()
    }

    fn is_of(&self, group: &Arc<ConnectionGroup>) -> bool {
        self.proxied.is_of(group)
    }

    fn is_complete(&mut self) -> bool {
        if matches!(self.seen, Seen::Part) {
            self.seen = self.look();
        }
        !matches!(self.seen, Seen::Part)
    }

    fn end(mut self: Box<Self>) {
        self.is_complete();
        let Self { proxied, seen, .. } = *self;
        let Seen::All(header, len) = seen else {
            log::debug!("{} is refused: it sent no PROXY header", proxied.peer());
            return proxied.give_up();
        };
        if let Err(error) = proxied.stream().take(&mut vec![0; len]) {
            log::debug!("cannot take the PROXY header of {}: {error}", proxied.peer());
            return proxied.give_up();
        }
        proxied.proceed(header);
    }
}
