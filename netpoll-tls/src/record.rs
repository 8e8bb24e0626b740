//! A connection of TLS as a filter: records through rustls 0.23's unbuffered API, under one lock.
//!
//! This file alone knows that API. rustls 0.24 splits a connection into a receive half and a send
//! half, which need no lock between them; then this file is replaced.
//!
//! ```text
//!   open (the owner)                       say, seal, finish (the holder of the output's lock)
//!     │ lock, one record, unlock              │ lock, one record, unlock
//!     ▼                                       ▼
//!   process_tls_records(wire) ─► ReadTraffic ─► plain, copied
//!                             ─► EncodeTlsData ─► unsaid, in front of the next record on the wire
//!                             ─► WriteTraffic ─► encrypt
//! ```

use std::any::Any;
use std::fmt;
use std::hint;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};

use netpoll_buffer::LinkBuffer;
use netpoll_core::{Filter, FilterError, FilterState, Opened};
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, InsufficientSizeError, ReadTraffic,
    UnbufferedStatus, WriteTraffic,
};
use rustls::{ClientConfig, CommonState, ServerConfig};

use crate::gather::with_contiguous;
use crate::info::TlsInfo;
use crate::record_size::RecordSize;
use crate::{sentence, server_name};

/// The length of a record's header.
const HEADER: usize = 5;

/// What a record adds to its plain bytes: at most 29 bytes, and a key update of 27 in front of it.
/// More, as for records that a configuration has split, is asked for by a second attempt.
const RECORD_EXTRA: usize = 64;

/// Room for a `close_notify`, with what may stand in front of it.
const CLOSING: usize = 128;

/// How many looks at a lock that is held before the thread sleeps: some microseconds, in which most
/// records are done. A thread that sleeps is woken by a system call of the other one, at each
/// record again while both are busy.
const SPINS: usize = 100;

/// One connection of TLS, of a server or of a client.
pub(crate) struct Session {
    connection: Mutex<Connection>,
}

struct Connection {
    rustls: Rustls,
    size: RecordSize,
    stage: Stage,
    /// The peer has said that its stream is complete.
    peer_ended: bool,
    /// Messages of rustls that the send half has not taken yet, in wire form.
    unsaid: Vec<u8>,
    /// How many bytes at the front of the caller's wire rustls has seen and not let go: whole
    /// records that have a part of a handshake message. Almost always 0.
    holds: usize,
    /// A copy of them. rustls remembers them by their place, so it must be shown them at each call,
    /// also where the wire is not at hand: a thread may send at any time.
    held: Vec<u8>,
    /// The name that the client asked for, if this is a server's connection.
    server_name: Option<Box<str>>,
}

/// How far the stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Handshaking,
    Open,
    /// We have said that our stream is complete.
    Ended,
    /// rustls has reported an error.
    Failed,
}

enum Rustls {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

/// What is done where rustls is ready for it.
enum Work<'a> {
    /// Plain bytes are copied here.
    Open(&'a mut LinkBuffer),
    /// These bytes become records there.
    Seal(&'a [u8], &'a mut LinkBuffer),
    /// The stream ends, and that is said there.
    Finish(&'a mut LinkBuffer),
}

/// What a step came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// rustls has more to do.
    Again,
    /// A record was opened.
    Record,
    /// The peer's stream is complete.
    PeerEnded,
    /// rustls waits for the peer's part of the handshake.
    Blocked,
    /// rustls has nothing left to do; the work was done, if it is to seal or to finish.
    Ready,
}

impl Session {
    pub(crate) fn server(config: Arc<ServerConfig>) -> Result<Self, FilterError> {
        let rustls =
            UnbufferedServerConnection::new(config).map_err(|error| sentence::of_server(&error))?;
        Ok(Self::of(Rustls::Server(rustls)))
    }

    /// A client's connection, with its first message ready to be said.
    pub(crate) fn client(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Self, FilterError> {
        let rustls = UnbufferedClientConnection::new(config, name)
            .map_err(|error| sentence::of_client(&error))?;
        let session = Self::of(Rustls::Client(rustls));
        session.lock()?.open(&mut [], &mut 0, &mut LinkBuffer::new())?;
        Ok(session)
    }

    /// What the handshake agreed on; `None` before its end.
    pub(crate) fn info(&self) -> Option<TlsInfo> {
        let connection = self.lock().ok()?;
        let common = connection.rustls.common();
        let (version, suite) = (common.protocol_version()?, common.negotiated_cipher_suite()?);
        let agreed = connection.stage != Stage::Handshaking;
        agreed.then(|| TlsInfo::of(version, suite, common, connection.server_name.clone()))
    }

    fn of(rustls: Rustls) -> Self {
        Self {
            connection: Mutex::new(Connection {
                rustls,
                size: RecordSize::default(),
                stage: Stage::Handshaking,
                peer_ended: false,
                unsaid: Vec::new(),
                holds: 0,
                held: Vec::new(),
                server_name: None,
            }),
        }
    }

    /// Waits for one record at the most. A panic inside rustls would leave it between two states,
    /// so nothing goes on after one.
    fn lock(&self) -> Result<MutexGuard<'_, Connection>, FilterError> {
        for _ in 0..SPINS {
            match self.connection.try_lock() {
                Err(TryLockError::WouldBlock) => hint::spin_loop(),
                Ok(connection) => return Ok(connection),
                Err(TryLockError::Poisoned(_)) => break,
            }
        }
        let broken = |_| FilterError::new("TLS stopped at a panic of an earlier call");
        self.connection.lock().map_err(broken)
    }
}

impl Filter for Session {
    fn open(
        &self,
        wire: &mut [u8],
        room: usize,
        plain: &mut LinkBuffer,
    ) -> Result<Opened, FilterError> {
        let len = |plain: &LinkBuffer| plain.len() + plain.malloc_len();
        let (mut used, full) = (0, len(plain).saturating_add(room));
        loop {
            // Free between two records, so that a thread that sends waits for one at the most.
            let mut connection = self.lock()?;
            let state = match connection.open(wire, &mut used, plain)? {
                // If nothing is left, a further look would say so for the price of a lock.
                Step::Record if used == wire.len() && connection.is_quiet() => FilterState::Open,
                Step::Record if len(plain) < full => continue,
                Step::PeerEnded => FilterState::Finished,
                _ if connection.stage == Stage::Handshaking => FilterState::Handshaking,
                _ => FilterState::Open,
            };
            let used = if state == FilterState::Finished { wire.len() } else { used };
            return Ok(Opened::new(used, state, !connection.unsaid.is_empty()));
        }
    }

    fn say(&self, wire: &mut LinkBuffer) {
        if let Ok(mut connection) = self.lock() {
            flush(&mut connection.unsaid, wire);
        }
    }

    fn seal(
        &self,
        plain: &LinkBuffer,
        from: usize,
        wire: &mut LinkBuffer,
    ) -> Result<usize, FilterError> {
        let left = plain.len().saturating_sub(from);
        if left == 0 {
            return Ok(0);
        }
        let mut connection = self.lock()?;
        let most = connection.size.next(left);
        with_contiguous(plain, from, most, |bytes| {
            connection.seal(bytes, wire)?;
            Ok(bytes.len())
        })
    }

    fn finish(&self, wire: &mut LinkBuffer) {
        if let Ok(mut connection) = self.lock() {
            connection.finish(wire);
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let connection = self.connection.try_lock();
        let stage = connection.as_ref().map_or("busy", |connection| match connection.stage {
            Stage::Handshaking => "handshaking",
            Stage::Open => "open",
            Stage::Ended => "ended",
            Stage::Failed => "failed",
        });
        out.debug_struct("Session").field("stage", &stage).finish_non_exhaustive()
    }
}

impl Connection {
    /// Opens one record, or says why there is none. `used` grows by what is done with.
    ///
    /// rustls is shown one record at a time, behind those that it holds. So it is known at any time
    /// which those are.
    fn open(
        &mut self,
        wire: &mut [u8],
        used: &mut usize,
        plain: &mut LinkBuffer,
    ) -> Result<Step, FilterError> {
        if self.stage == Stage::Failed {
            return Err(FilterError::new("TLS has failed before"));
        }
        if self.peer_ended {
            return Ok(Step::PeerEnded);
        }
        loop {
            let rest = &mut wire[*used..];
            if rest.len() == self.holds && self.is_quiet() {
                return Ok(self.rests(rest));
            }
            let record = record_end(rest, self.holds);
            // rustls also sees the begin of a record, since that may be wrong already.
            let shown = record.unwrap_or(rest.len());
            let (done, step) = self.show(&mut rest[..shown], plain)?;
            *used += done;
            match (done, record) {
                (0, None) => return Ok(self.rests(&wire[*used..])),
                (0, Some(end)) => self.holds = end,
                (done, Some(end)) if done == end => (self.holds, self.held) = (0, Vec::new()),
                // It happens after a record of a message that has no byte of the message.
                _ => return Err(self.fail(&rustls::Error::General("rustls lost its place".into()))),
            }
            if matches!(step, Step::Record | Step::PeerEnded) {
                return Ok(step);
            }
        }
    }

    /// Lets rustls look at `bytes` until it has nothing left to do with them; says how many it is
    /// done with.
    fn show(
        &mut self,
        bytes: &mut [u8],
        plain: &mut LinkBuffer,
    ) -> Result<(usize, Step), FilterError> {
        let (mut done, mut work) = (0, Work::Open(plain));
        loop {
            let (more, step) = self.rustls.step(&mut bytes[done..], &mut work, &mut self.unsaid);
            done += more;
            if self.stage == Stage::Handshaking {
                self.server_name = server_name::take().or(self.server_name.take());
                if !self.rustls.common().is_handshaking() {
                    self.stage = Stage::Open;
                }
            }
            match step.map_err(|error| self.fail(&error))? {
                Step::Again => {}
                step => {
                    self.peer_ended |= step == Step::PeerEnded;
                    return Ok((done, step));
                }
            }
        }
    }

    /// rustls has nothing to do without further bytes.
    fn is_quiet(&self) -> bool {
        self.stage != Stage::Handshaking && !self.rustls.common().wants_write()
    }

    /// Nothing can be opened in what is left on the wire.
    fn rests(&mut self, rest: &[u8]) -> Step {
        if self.stage == Stage::Handshaking {
            return Step::Blocked;
        }
        if self.held.len() != self.holds {
            self.held = rest[..self.holds].to_vec(); // it was shorter: what is held grows, or ends
        }
        Step::Ready
    }

    fn seal(&mut self, bytes: &[u8], wire: &mut LinkBuffer) -> Result<(), FilterError> {
        match self.stage {
            Stage::Open => self.send(&mut Work::Seal(bytes, wire)),
            Stage::Handshaking => Err(FilterError::new("the TLS handshake goes on")),
            Stage::Ended => Err(FilterError::new("our stream of TLS was ended before")),
            Stage::Failed => Err(FilterError::new("TLS has failed before")),
        }
    }

    /// Says that our stream is complete. Without a handshake there is no stream, and nothing to
    /// say.
    fn finish(&mut self, wire: &mut LinkBuffer) {
        if self.stage == Stage::Open && self.send(&mut Work::Finish(wire)).is_ok() {
            self.stage = Stage::Ended;
        }
    }

    /// Steps on until the work is done.
    fn send(&mut self, work: &mut Work<'_>) -> Result<(), FilterError> {
        loop {
            // `held` has only records that rustls has seen, so none is opened here.
            let (_, step) = self.rustls.step(&mut self.held, work, &mut self.unsaid);
            match step {
                Ok(Step::Ready) => return Ok(()),
                Ok(Step::Again) => {}
                Ok(_) => return Err(self.fail(&rustls::Error::HandshakeNotComplete)),
                Err(error) => return Err(self.fail(&error)),
            }
        }
    }

    /// Keeps the alert, which is the last thing to say.
    fn fail(&mut self, error: &rustls::Error) -> FilterError {
        self.stage = Stage::Failed;
        self.held = Vec::new();
        self.rustls.alert(&mut self.unsaid);
        match self.rustls {
            Rustls::Client(_) => sentence::of_client(error),
            Rustls::Server(_) => sentence::of_server(error),
        }
    }
}

impl Rustls {
    fn common(&self) -> &CommonState {
        match self {
            Self::Client(client) => client,
            Self::Server(server) => server,
        }
    }

    /// One step; says how many bytes at the front of `wire` are done with.
    fn step(
        &mut self,
        wire: &mut [u8],
        work: &mut Work<'_>,
        unsaid: &mut Vec<u8>,
    ) -> (usize, Result<Step, rustls::Error>) {
        match self {
            Self::Client(client) => stepped(client.process_tls_records(wire), work, unsaid),
            Self::Server(server) => stepped(server.process_tls_records(wire), work, unsaid),
        }
    }

    /// After an error, takes what rustls still has to say. It must not be asked for anything else:
    /// it would go on with the record that it has refused.
    fn alert(&mut self, unsaid: &mut Vec<u8>) {
        while self.common().wants_write() {
            let nowhere = &mut LinkBuffer::new();
            if self.step(&mut [], &mut Work::Open(nowhere), unsaid).1.is_err() {
                return;
            }
        }
    }
}

/// Does what the state asks for.
fn stepped<D>(
    status: UnbufferedStatus<'_, '_, D>,
    work: &mut Work<'_>,
    unsaid: &mut Vec<u8>,
) -> (usize, Result<Step, rustls::Error>) {
    let step = status.state.and_then(|state| match state {
        ConnectionState::ReadTraffic(traffic) => copy(traffic, work),
        ConnectionState::EncodeTlsData(message) => encode(message, unsaid),
        ConnectionState::TransmitTlsData(transmit) => {
            transmit.done(); // it stands in `unsaid`, which is sent in order
            Ok(Step::Again)
        }
        ConnectionState::PeerClosed | ConnectionState::Closed => Ok(Step::PeerEnded),
        ConnectionState::BlockedHandshake => Ok(Step::Blocked),
        ConnectionState::WriteTraffic(traffic) => write(traffic, work, unsaid),
        // Configurations that allow early data are refused.
        _ => Err(rustls::Error::General("a state that netpoll-tls does not know".into())),
    });
    (status.discard, step)
}

/// Copies opened records: rustls lends them, and keeps the memory.
fn copy<D>(
    mut traffic: ReadTraffic<'_, '_, D>,
    work: &mut Work<'_>,
) -> Result<Step, rustls::Error> {
    let Work::Open(plain) = work else {
        return Err(rustls::Error::General("a record was opened where none was shown".into()));
    };
    while let Some(record) = traffic.next_record() {
        plain.write_bytes(record?.payload);
    }
    Ok(Step::Record)
}

fn encode<D>(
    mut message: EncodeTlsData<'_, D>,
    unsaid: &mut Vec<u8>,
) -> Result<Step, rustls::Error> {
    // Asking for no room at all tells the size.
    let Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) =
        message.encode(&mut [])
    else {
        return Ok(Step::Again);
    };
    let start = unsaid.len();
    unsaid.resize(start + required_size, 0);
    match message.encode(&mut unsaid[start..]) {
        Ok(_) => Ok(Step::Again),
        Err(error) => Err(rustls::Error::General(error.to_string())),
    }
}

/// Seals or finishes, if that is the work, behind what was to be said before.
fn write<D>(
    mut traffic: WriteTraffic<'_, D>,
    work: &mut Work<'_>,
    unsaid: &mut Vec<u8>,
) -> Result<Step, rustls::Error> {
    match work {
        Work::Open(_) => return Ok(Step::Ready),
        Work::Seal(bytes, wire) => {
            flush(unsaid, wire);
            written(wire, bytes.len() + RECORD_EXTRA, |room| traffic.encrypt(bytes, room))
        }
        Work::Finish(wire) => {
            flush(unsaid, wire);
            written(wire, CLOSING, |room| traffic.queue_close_notify(room))
        }
    }
    .map(|()| Step::Ready)
}

fn flush(unsaid: &mut Vec<u8>, wire: &mut LinkBuffer) {
    if !unsaid.is_empty() {
        wire.write_shared(mem::take(unsaid).into());
    }
}

/// Lets `encrypt` write into `room` bytes of `wire`, or as many as it asks for.
fn written(
    wire: &mut LinkBuffer,
    mut room: usize,
    mut encrypt: impl FnMut(&mut [u8]) -> Result<usize, EncryptError>,
) -> Result<(), rustls::Error> {
    loop {
        let mut outcome = Ok(0);
        wire.write_with(room, |room| {
            outcome = encrypt(room);
            *outcome.as_ref().unwrap_or(&0)
        });
        match outcome {
            Ok(_) => return Ok(()),
            Err(EncryptError::InsufficientSize(more)) if more.required_size > room => {
                room = more.required_size;
            }
            Err(_) => return Err(rustls::Error::EncryptError),
        }
    }
}

/// Where the record ends that begins at `start`, if it is whole.
fn record_end(wire: &[u8], start: usize) -> Option<usize> {
    match *wire.get(start..)? {
        [_, _, _, high, low, ref body @ ..] => {
            let length = usize::from(u16::from_be_bytes([high, low]));
            (body.len() >= length).then_some(start + HEADER + length)
        }
        _ => None,
    }
}
