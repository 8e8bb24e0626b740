//! A filter for tests: records with a length, a key stream and a check sum, a handshake of two
//! flights, an end in order, and questions that the other side must answer.
//!
//! ```text
//!   record     kind u8 · length u16 · check u32 · payload, hidden by the key stream
//!   handshake  client HELLO ──► server HELLO ──► client DONE
//!   after it   DATA, ASK (answered by ANSWER), EMPTY, ALERT, END
//! ```
//! It is no cipher: it shows that each byte passes through a filter, once and in order.

use std::any::Any;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use netpoll::filter::{Filter, FilterClient, FilterError, FilterServer, FilterState, Opened};
use netpoll::{Address, LinkBuffer, Result};

use crate::util::lock;

pub(crate) const HELLO: u8 = 0x16;
pub(crate) const DONE: u8 = 2;
pub(crate) const DATA: u8 = 3;
pub(crate) const END: u8 = 4;
pub(crate) const ASK: u8 = 5;
pub(crate) const ANSWER: u8 = 6;
pub(crate) const ALERT: u8 = 7;
pub(crate) const EMPTY: u8 = 8;
/// The bytes before the payload of a record.
pub(crate) const HEADER: usize = 7;
/// The most that one record carries.
pub(crate) const PAYLOAD: usize = 4000;

/// One end of the protocol.
#[derive(Debug)]
pub(crate) struct Toy {
    is_client: bool,
    sending: Mutex<Sending>,
    receiving: Mutex<Receiving>,
    /// How many records it has opened.
    pub(crate) opened: AtomicUsize,
}

#[derive(Debug, Default)]
struct Sending {
    number: u32,
    to_say: Vec<u8>,
    is_over: bool,
}

#[derive(Debug)]
struct Receiving {
    number: u32,
    state: FilterState,
}

impl Toy {
    pub(crate) fn new(is_client: bool) -> Arc<Self> {
        let to_say = if is_client { vec![HELLO] } else { Vec::new() };
        Arc::new(Self {
            is_client,
            sending: Mutex::new(Sending { to_say, ..Sending::default() }),
            receiving: Mutex::new(Receiving { number: 0, state: FilterState::Handshaking }),
            opened: AtomicUsize::new(0),
        })
    }

    /// What [`Filter::say`] is to write next.
    pub(crate) fn will_say(&self, kind: u8) {
        lock(&self.sending).to_say.push(kind);
    }

    /// One record, with the next number of its direction.
    pub(crate) fn record(&self, kind: u8, payload: &[u8]) -> Vec<u8> {
        let mut sending = lock(&self.sending);
        sending.number += 1;
        record(self.is_client, sending.number, kind, payload)
    }

    fn say_all(&self, sending: &mut Sending, wire: &mut LinkBuffer) {
        for kind in std::mem::take(&mut sending.to_say) {
            sending.number += 1;
            wire.write_bytes(&record(self.is_client, sending.number, kind, b""));
        }
    }

    fn note(&self, receiving: &mut Receiving, kind: u8) -> Result<bool, FilterError> {
        use FilterState::{Finished, Handshaking, Open};
        let before = receiving.state;
        let answer = match (before, kind, self.is_client) {
            (Handshaking, HELLO, true) => {
                receiving.state = Open;
                Some(DONE)
            }
            (Handshaking, HELLO, false) => Some(HELLO),
            (Handshaking, DONE, false) => {
                receiving.state = Open;
                None
            }
            (Open, DATA | EMPTY | ANSWER, _) => None,
            (Open, ASK, _) => Some(ANSWER),
            (Open, END, _) => {
                receiving.state = Finished;
                None
            }
            (Open, ALERT, _) => return Err(FilterError::new("the peer sent an alert")),
            _ => return Err(FilterError::new(format!("a record {kind} in {before:?}"))),
        };
        if let Some(answer) = answer {
            self.will_say(answer);
        }
        Ok(answer.is_some())
    }
}

impl Filter for Toy {
    fn open(
        &self,
        wire: &mut [u8],
        room: usize,
        plain: &mut LinkBuffer,
    ) -> Result<Opened, FilterError> {
        let mut receiving = lock(&self.receiving);
        let (mut used, mut written, mut speaks) = (0, 0, false);
        while receiving.state != FilterState::Finished && written < room {
            let Some((kind, length)) = complete(&wire[used..]) else { break };
            receiving.number += 1;
            let number = receiving.number;
            let record = &mut wire[used..][..HEADER + length];
            if let Err(error) = uncover(!self.is_client, number, record)
                .and_then(|()| self.note(&mut receiving, kind).map(|it| speaks |= it))
            {
                self.will_say(ALERT);
                return Err(error);
            }
            if kind == DATA {
                plain.write_bytes(&record[HEADER..]);
                written += length;
            }
            used += HEADER + length;
            self.opened.fetch_add(1, Ordering::Relaxed);
        }
        Ok(Opened::new(used, receiving.state, speaks))
    }

    fn say(&self, wire: &mut LinkBuffer) {
        self.say_all(&mut lock(&self.sending), wire);
    }

    fn seal(
        &self,
        plain: &LinkBuffer,
        from: usize,
        wire: &mut LinkBuffer,
    ) -> Result<usize, FilterError> {
        let mut sending = lock(&self.sending);
        assert!(!sending.is_over, "sealed after the end");
        self.say_all(&mut sending, wire);
        let mut payload = Vec::new();
        let mut skip = from;
        for chunk in plain.chunks() {
            let skipped = skip.min(chunk.len());
            skip -= skipped;
            let taken = (chunk.len() - skipped).min(PAYLOAD - payload.len());
            payload.extend_from_slice(&chunk[skipped..][..taken]);
        }
        sending.number += 1;
        wire.write_bytes(&record(self.is_client, sending.number, DATA, &payload));
        Ok(payload.len())
    }

    fn finish(&self, wire: &mut LinkBuffer) {
        let mut sending = lock(&self.sending);
        assert!(!std::mem::replace(&mut sending.is_over, true), "it ends once");
        sending.to_say.push(END);
        self.say_all(&mut sending, wire);
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// What makes [`Toy`]s, at both ends.
#[derive(Debug, Default, Clone)]
pub(crate) struct Toys {
    /// As [`FilterServer::first_byte`].
    pub(crate) or_plain: bool,
    pub(crate) max_handshakes: Option<usize>,
    pub(crate) timeout: Option<Duration>,
    /// Refuses to make a filter.
    pub(crate) refuses: bool,
    /// What was made last.
    pub(crate) made: Arc<Mutex<Option<Arc<Toy>>>>,
}

impl Toys {
    fn make(&self, is_client: bool) -> Result<Arc<dyn Filter>> {
        if self.refuses {
            return Err(netpoll::Error::config("no filter for this one"));
        }
        let toy = Toy::new(is_client);
        *lock(&self.made) = Some(toy.clone());
        Ok(toy)
    }
}

impl FilterServer for Toys {
    fn accept(&self, _: &Address, local: Option<&Address>) -> Result<Arc<dyn Filter>> {
        assert!(local.is_some(), "a socket has an address");
        self.make(false)
    }

    fn max_handshakes(&self) -> usize {
        self.max_handshakes.unwrap_or(1000)
    }

    fn handshake_timeout(&self) -> Option<Duration> {
        self.timeout.or(Some(Duration::from_secs(20)))
    }

    fn first_byte(&self) -> Option<u8> {
        self.or_plain.then_some(HELLO)
    }
}

impl FilterClient for Toys {
    fn dial(&self, address: &str, _: &Address) -> Result<Arc<dyn Filter>> {
        assert!(address.contains(':'), "the address as it was given: {address}");
        self.make(true)
    }
}

/// A client that speaks the protocol over a socket that is not ours.
#[derive(Debug)]
pub(crate) struct ToyClient<F: Filter + ?Sized = Toy> {
    pub(crate) socket: TcpStream,
    pub(crate) toy: Arc<F>,
    wire: Vec<u8>,
    plain: LinkBuffer,
    state: FilterState,
}

impl ToyClient {
    /// Connects and shakes hands.
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let mut client = Self::over(crate::util::connect(address), Toy::new(true));
        client.shake_hands().expect("a handshake");
        client
    }
}

impl<F: Filter + ?Sized> ToyClient<F> {
    /// An end that has said nothing yet.
    pub(crate) fn over(socket: TcpStream, toy: Arc<F>) -> Self {
        let (wire, plain) = (Vec::new(), LinkBuffer::new());
        Self { socket, toy, wire, plain, state: FilterState::Handshaking }
    }

    pub(crate) fn shake_hands(&mut self) -> io::Result<()> {
        self.say()?;
        while self.state == FilterState::Handshaking {
            if self.receive()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    /// Sends what the protocol wants said.
    pub(crate) fn say(&mut self) -> io::Result<()> {
        let mut out = LinkBuffer::new();
        self.toy.say(&mut out);
        self.write(out)
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut out = LinkBuffer::new();
        let plain = LinkBuffer::from(bytes.to_vec());
        let mut from = 0;
        while from < plain.len() {
            from += self.toy.seal(&plain, from, &mut out).map_err(io::Error::other)?;
        }
        self.write(out)
    }

    /// Ends our stream in order.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        let mut out = LinkBuffer::new();
        self.toy.finish(&mut out);
        self.write(out)?;
        self.socket.shutdown(Shutdown::Write)
    }

    /// Receives and opens once; returns how many bytes the socket had.
    pub(crate) fn receive(&mut self) -> io::Result<usize> {
        let before = self.wire.len();
        self.wire.resize(before + (64 << 10), 0);
        let read = self.socket.read(&mut self.wire[before..]);
        self.wire.truncate(before + read.as_ref().map_or(0, |read| *read));
        let opened = self.toy.open(&mut self.wire, usize::MAX, &mut self.plain);
        let opened = opened.map_err(io::Error::other)?;
        self.plain.flush();
        self.wire.drain(..opened.used);
        self.state = opened.state;
        if opened.speaks {
            self.say()?;
        }
        read
    }

    /// The next plain bytes, as many; fewer at the end of the stream.
    pub(crate) fn hear(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.plain.len() < count && self.state != FilterState::Finished {
            if self.receive()? == 0 {
                break;
            }
        }
        let mut heard = vec![0; count.min(self.plain.len())];
        self.plain.copy_to(&mut heard);
        Ok(heard)
    }

    /// Everything up to the end; an error if that does not come in order.
    pub(crate) fn rest(&mut self) -> io::Result<Vec<u8>> {
        let all = self.hear(usize::MAX)?;
        if self.state != FilterState::Finished {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(all)
    }

    /// How many plain bytes have come and were not heard yet.
    pub(crate) fn buffered(&self) -> usize {
        self.plain.len()
    }

    pub(crate) fn echo(&mut self, bytes: &[u8]) {
        self.send(bytes).expect("the peer takes it");
        assert!(self.hear(bytes.len()).expect("the peer answers") == bytes, "other bytes");
    }

    fn write(&mut self, out: LinkBuffer) -> io::Result<()> {
        let mut out = out;
        out.flush();
        for chunk in out.chunks() {
            self.socket.write_all(chunk)?;
        }
        Ok(())
    }
}

/// The kind and the length of the payload of a record that is complete.
fn complete(wire: &[u8]) -> Option<(u8, usize)> {
    let (header, payload) = wire.split_at_checked(HEADER)?;
    let length = usize::from(u16::from_be_bytes([header[1], header[2]]));
    (payload.len() >= length).then_some((header[0], length))
}

fn record(by_client: bool, number: u32, kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).expect("a payload that fits").to_be_bytes();
    let mut record = vec![kind, length[0], length[1], 0, 0, 0, 0];
    record.extend_from_slice(payload);
    cover(by_client, number, &mut record[HEADER..]);
    let check = check(number, &record).to_be_bytes();
    record[3..HEADER].copy_from_slice(&check);
    record
}

fn uncover(by_client: bool, number: u32, record: &mut [u8]) -> Result<(), FilterError> {
    if check(number, record).to_be_bytes() != record[3..HEADER] {
        return Err(FilterError::caused_by(
            format!("record {number} was changed on its way"),
            io::Error::from(io::ErrorKind::InvalidData),
        ));
    }
    cover(by_client, number, &mut record[HEADER..]);
    Ok(())
}

fn cover(by_client: bool, number: u32, payload: &mut [u8]) {
    let mut key = u64::from(number.wrapping_mul(0x9E37_79B9) ^ u32::from(by_client));
    // By words: tests are built without optimisation.
    for word in payload.chunks_mut(8) {
        key = key.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
        let mut bytes = [0; 8];
        bytes[..word.len()].copy_from_slice(word);
        let covered = (u64::from_le_bytes(bytes) ^ key).to_le_bytes();
        word.copy_from_slice(&covered[..word.len()]);
    }
}

/// FNV-1a, by words, over the number, the kind, the length and the payload.
fn check(number: u32, record: &[u8]) -> u32 {
    let mut hash = 0xCBF2_9CE4_8422_2325 ^ u64::from(number);
    for word in [&record[..3]].into_iter().chain(record[HEADER..].chunks(8)) {
        let mut bytes = [0; 8];
        bytes[..word.len()].copy_from_slice(word);
        hash = (hash ^ u64::from_le_bytes(bytes)).wrapping_mul(0x0000_0100_0000_01B3);
        hash ^= hash >> 29;
    }
    (hash >> 32) as u32
}
