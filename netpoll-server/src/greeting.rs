//! The time between a proxy's connect and the end of its header.
//!
//! The header is only looked at until it is complete (`MSG_PEEK`), then taken, and no byte more: so
//! what follows is the connection's, and a connection begins only when it is known whose it is.

use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Instant;

use netpoll_core::{Group, Preamble, later, socket};

use crate::guest::Guest;
use crate::proxy::{HEADER_MAX, Header, ProxyProtocol, parse};

/// A guest whose proxy has not said yet for whom it speaks.
pub(crate) struct Greeting {
    guest: Guest,
    limit: usize,
    seen: Seen,
}

/// What has been seen of the header.
enum Seen {
    Part,
    All(Header),
    /// What can't become one.
    Nonsense,
}

impl Greeting {
    /// Awaits the header; if this is the `last` chance, it must be there already.
    pub(crate) fn begin(guest: Guest, proxy: ProxyProtocol, last: bool) {
        let late = later(Instant::now(), proxy.deadline);
        let home = guest.own.clone().unwrap_or_else(|| guest.front.main.clone());
        let mut greeting = Box::new(Self { guest, limit: proxy.limit, seen: Seen::Part });
        // It usually comes with the first segment.
        if greeting.is_complete() || last {
            greeting.end();
        } else {
            home.await_preamble(greeting, late);
        }
    }

    fn look(&self) -> Seen {
        let mut bytes = vec![0; self.limit.min(HEADER_MAX)];
        let seen = match socket::peek(&self.guest.stream, &mut bytes) {
            Ok(0) => return Seen::Nonsense,
            Ok(seen) => seen,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Seen::Part,
            Err(error) => {
                log::debug!("{} sent no PROXY header: {error}", self.guest.peer);
                return Seen::Nonsense;
            }
        };
        match parse(&bytes[..seen], self.limit) {
            Ok(None) => Seen::Part,
            Ok(Some(header)) => Seen::All(header),
            Err(malformed) => {
                log::debug!("{} is refused: {malformed}", self.guest.peer);
                Seen::Nonsense
            }
        }
    }
}

impl Preamble for Greeting {
    fn stream(&self) -> BorrowedFd<'_> {
        self.guest.stream.as_fd()
    }

    fn is_of(&self, group: &Arc<Group>) -> bool {
        Arc::ptr_eq(&self.guest.front.group, group)
    }

    fn is_complete(&mut self) -> bool {
        if matches!(self.seen, Seen::Part) {
            self.seen = self.look();
        }
        !matches!(self.seen, Seen::Part)
    }

    fn end(mut self: Box<Self>) {
        self.is_complete();
        let Self { mut guest, seen, .. } = *self;
        let Seen::All(header) = seen else {
            guest.front.group.count_refusal();
            return log::debug!("{} is refused: it sent no PROXY header", guest.peer);
        };
        if let Err(error) = socket::take(&guest.stream, &mut vec![0; header.len]) {
            guest.front.group.count_refusal();
            return log::debug!("cannot take the PROXY header of {}: {error}", guest.peer);
        }
        if let Some((peer, local)) = header.addresses {
            (guest.peer, guest.local) = (peer, Some(local));
        }
        match guest.ticket.count_source(guest.peer.ip()) {
            Ok(()) => guest.admit(),
            Err(limit) => guest.refuse(limit),
        }
    }
}
