//! A connected socket that a caller drives on its own thread, and waits at.

use std::fmt;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::scratch::with_envelopes;
use super::staged::{Staged, To};
use crate::base::address::Address;
use crate::base::blocking;
use crate::base::clock::{self, later};
use crate::base::error::{Error, Result, Wait};
use crate::base::waits::WaitsFor;
use crate::io::datagram::{DatagramSocket, MOST_PLACES, Message, Place, Places, Ready};

/// The longest datagram that is received whole; no datagram of UDP is longer.
const LONGEST: usize = 64 << 10;
/// Where the system has no thread for other callbacks, a wait looks so often whether it is to end.
const LOOK: Duration = Duration::from_millis(100);
/// So many entries of the error queue are taken at a time.
const FAULTS_AT_ONCE: usize = 64;

/// A socket that is connected to one peer, and that its holder drives: receives and sends wait on
/// the calling thread. It receives from that peer alone.
///
/// In a callback a wait passes the loop on to another thread first, as that of a
/// [`Connection`](crate::Connection) does. What ICMP says of a datagram that was sent is the error
/// of a later call, once: `ConnectionRefused` where no socket has the port, `HostUnreachable`, …
///
/// `connect_datagrams` of netpoll-client makes one.
pub struct DatagramClient {
    socket: DatagramSocket,
    peer: Address,
    read_timeout: Option<Duration>,
    write_timeout: Option<Duration>,
    /// What the last receive brought.
    places: Places,
    /// The next datagram of that: its place, and where it begins.
    next: (usize, usize),
    staged: Staged,
}

/// The payloads of what one receive brought, in the order in which they came.
#[derive(Clone)]
pub struct Payloads<'a> {
    places: &'a [Place],
    next: (usize, usize),
}

impl DatagramClient {
    /// Of a socket that is connected to `peer`.
    pub fn new(socket: DatagramSocket, peer: Address) -> Self {
        Self {
            socket,
            peer,
            read_timeout: None,
            write_timeout: None,
            places: Places::default(),
            next: (0, 0),
            staged: Staged::default(),
        }
    }

    /// The address of the peer.
    pub fn peer_addr(&self) -> &Address {
        &self.peer
    }

    /// The address of this end.
    ///
    /// # Errors
    /// The system's.
    pub fn local_addr(&self) -> Result<Address> {
        Ok(self.socket.local_address()?)
    }

    /// How long a receive waits. Default `None`: for ever.
    pub fn set_read_timeout(&mut self, timeout: impl Into<Option<Duration>>) {
        self.read_timeout = timeout.into();
    }

    /// How long a send waits for room in the send buffer. Default `None`: for ever; the device
    /// makes room soon.
    pub fn set_write_timeout(&mut self, timeout: impl Into<Option<Duration>>) {
        self.write_timeout = timeout.into();
    }

    /// Receives one datagram into `into`; returns how long it is, which may be 0.
    ///
    /// # Errors
    /// `InvalidData` for a datagram that is longer than `into`: its beginning stands there, the
    /// rest is lost. [`Error::TimedOut`]; [`Error::Config`] in a callback that must not wait;
    /// [`Error::NoThread`]; what ICMP said of a datagram that was sent; the system's.
    pub fn recv(&mut self, into: &mut [u8]) -> Result<usize> {
        let (place, range) = self.next_datagram()?;
        let (payload, is_cut) = (&place.block.bytes()[range], place.is_truncated);
        let length = payload.len().min(into.len());
        into[..length].copy_from_slice(&payload[..length]);
        if length < payload.len() || is_cut {
            let text = format!("the datagram has more than {length} bytes: its end is lost");
            return Err(io::Error::new(ErrorKind::InvalidData, text).into());
        }
        Ok(length)
    }

    /// Receives one datagram, without a copy.
    ///
    /// # Errors
    /// As [`recv`](Self::recv); of a Unix socket a datagram above 64 KiB is too long.
    pub fn recv_bytes(&mut self) -> Result<Bytes> {
        let (place, range) = self.next_datagram()?;
        if place.is_truncated {
            let text = format!("the datagram has more than {LONGEST} bytes: its end is lost");
            return Err(io::Error::new(ErrorKind::InvalidData, text).into());
        }
        Ok(place.block.slice(range))
    }

    /// Waits for a datagram, and receives all that have come with it, up to 16, or more where the
    /// kernel has joined them. One that is too long for [`recv_bytes`](Self::recv_bytes) is cut.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub fn recv_batch(&mut self) -> Result<Payloads<'_>> {
        if self.places.used().len() <= self.next.0 {
            self.receive(MOST_PLACES)?;
        }
        let next = std::mem::replace(&mut self.next, (usize::MAX, 0));
        Ok(Payloads { places: self.places.used(), next })
    }

    /// Sends one datagram.
    ///
    /// # Errors
    /// `EMSGSIZE`, as an [`Error::Io`], for a payload that is too long. What ICMP said of an
    /// earlier datagram: then this one was not sent. [`Error::TimedOut`]; [`Error::Config`] in a
    /// callback that must not wait; [`Error::NoThread`]; the system's.
    pub fn send(&self, payload: &[u8]) -> Result<()> {
        let deadline = deadline_of(self.write_timeout);
        loop {
            match self.socket.send_one(None, payload) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.wait(Ready::ToSend, deadline)?;
                }
                Err(error) => return Err(self.explained(error)),
            }
        }
    }

    /// Sends several datagrams, in their order, with as few system calls as the kernel offers:
    /// those of one size are given to it in one piece. They are copied.
    ///
    /// # Errors
    /// As [`send`](Self::send), where a datagram was refused; the others were sent all the same, up
    /// to a timeout.
    pub fn send_batch<P: AsRef<[u8]>>(
        &mut self,
        payloads: impl IntoIterator<Item = P>,
    ) -> Result<()> {
        let mut outcome = Ok(());
        let segments = self.socket.segments();
        self.staged.clear(); // the iterator of an earlier call may have panicked
        for payload in payloads {
            let payload = payload.as_ref();
            self.staged.add(&[], To::Peer(None), payload, |it| segments.most(it));
            if self.staged.is_full() {
                outcome = self.send_staged().and(outcome);
            }
        }
        self.send_staged().and(outcome)
    }

    fn send_staged(&mut self) -> Result<()> {
        let sent = self.send_messages();
        self.staged.clear();
        sent
    }

    fn send_messages(&self) -> Result<()> {
        let deadline = deadline_of(self.write_timeout);
        let (count, mut done, mut part, mut refusal) = (self.staged.len(), 0, 0, None);
        while done < count {
            let message = |at| {
                let message: Message<'_> = self.staged.message(&[], done + at);
                if at == 0 { message.behind(part) } else { message }
            };
            let sent = with_envelopes(|it| self.socket.send(it, count - done, message));
            part = if sent.done > 0 { sent.part } else { part + sent.part };
            done += sent.done;
            refusal = sent.error.filter(|_| sent.refused > 0).or(refusal);
            if sent.full {
                self.wait(Ready::ToSend, deadline)?;
            }
        }
        refusal.map_or(Ok(()), |error| Err(self.explained(error)))
    }

    /// The next datagram: its place, and where it stands there.
    fn next_datagram(&mut self) -> Result<(&Place, Range<usize>)> {
        if self.places.used().len() <= self.next.0 {
            // One is what answers a question; more come where more have come before.
            let most = if self.places.used().len() > 1 { MOST_PLACES } else { 2 };
            self.receive(most)?;
        }
        let mut rest = Payloads { places: self.places.used(), next: self.next };
        let (at, range) = rest.step().ok_or(Error::WouldBlock)?; // a receive brings one at least
        self.next = rest.next;
        Ok((&self.places.used()[at], range))
    }

    /// Receives to up to `most` places, and waits until there is something.
    fn receive(&mut self, most: usize) -> Result<()> {
        let deadline = deadline_of(self.read_timeout);
        self.next = (0, 0);
        self.places.clear();
        loop {
            match self.socket.receive(&mut self.places, most, LONGEST) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.places.keep(0); // a wait may be long
                    self.wait(Ready::ToReceive, deadline)?;
                }
                Err(error) => return Err(self.explained(error)),
            }
        }
    }

    /// An error of the socket, with which entries stand in the error queue.
    fn explained(&self, error: io::Error) -> Error {
        drop(self.take_faults());
        error.into()
    }

    /// Takes what ICMP has said out of the socket: it would say so again, and each wait would end
    /// at once. Several faults are told as one.
    fn take_faults(&self) -> Option<io::Error> {
        let mut queued = None;
        for _ in 0..FAULTS_AT_ONCE {
            let Some(fault) = self.socket.take_fault() else { break };
            queued = queued.or(Some(fault.errno));
        }
        let own = self.socket.take_error().err();
        own.or(queued.map(io::Error::from_raw_os_error))
    }

    /// Waits until the socket is ready, or has an error.
    fn wait(&self, ready: Ready, deadline: Option<Instant>) -> Result<()> {
        let (doing, wait) = match ready {
            Ready::ToReceive => ("receive a datagram", Wait::Read),
            Ready::ToSend => ("send a datagram", Wait::Write),
        };
        let waiting = blocking::begin(doing, WaitsFor::Elsewhere, None)?;
        loop {
            let left = deadline.map(|it| it.saturating_duration_since(clock::now()));
            if left.is_some_and(|it| it.is_zero()) || waiting.is_over() {
                return Err(Error::TimedOut(wait));
            }
            let look = waiting.is_listed().then_some(LOOK);
            let at_most = [left, look].into_iter().flatten().min();
            let state = self.socket.wait(ready, at_most)?;
            if state.has_faults
                && let Some(error) = self.take_faults()
            {
                return Err(error.into());
            }
            if state.is_ready {
                return Ok(());
            }
        }
    }
}

impl Payloads<'_> {
    /// The next datagram: its place, and where it stands there.
    fn step(&mut self) -> Option<(usize, Range<usize>)> {
        let (at, start) = self.next;
        let place = self.places.get(at)?;
        let all = place.block.bytes().len();
        let end = (start + place.stride()).min(all);
        self.next = if end == all { (at + 1, 0) } else { (at, end) };
        Some((at, start..end))
    }
}

impl<'a> Iterator for Payloads<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (at, range) = self.step()?;
        Some(&self.places[at].block.bytes()[range])
    }
}

/// For an event loop that serves it from now on. What it has received and not returned is lost.
impl From<DatagramClient> for DatagramSocket {
    fn from(client: DatagramClient) -> Self {
        client.socket
    }
}

fn deadline_of(timeout: Option<Duration>) -> Option<Instant> {
    timeout.map(|it| later(clock::now(), it))
}

impl fmt::Debug for DatagramClient {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("DatagramClient")
            .field("peer", &self.peer)
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Payloads<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_list().entries(self.clone()).finish()
    }
}
