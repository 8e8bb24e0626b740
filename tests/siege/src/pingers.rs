//! Ordinary clients beside an attack: each sends a request, waits for the answer, and sends the
//! next one a little later. They measure the service that the attack leaves.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::crowd::connect;
use crate::report::{Problem, Row, Time};

/// What a client sends, and when it has its answer.
#[derive(Clone)]
pub(crate) struct Talk {
    pub(crate) ask: Vec<u8>,
    pub(crate) answer: Answer,
}

#[derive(Clone, Copy)]
pub(crate) enum Answer {
    /// So many bytes.
    Bytes(usize),
    /// A line.
    Line,
}

/// Clients that ping, on one thread of their own.
pub(crate) struct Pingers {
    shared: Arc<Mutex<Shared>>,
    thread: Option<JoinHandle<()>>,
}

/// What that thread reports, and what it must do.
struct Shared {
    tally: Tally,
    /// When the longest wait of a client began.
    waiting: Option<Instant>,
    lost: usize,
    over: bool,
}

struct Client {
    stream: TcpStream,
    heard: Vec<u8>,
    turn: Turn,
}

#[derive(Clone, Copy)]
enum Turn {
    Asks(Instant),
    Waits(Instant),
    Lost,
}

/// What the clients have measured since the last report.
#[derive(Clone)]
pub(crate) struct Tally {
    times: Vec<Duration>,
    last_answer: Instant,
    /// The longest time in which no client at all was answered.
    pub(crate) gap: Duration,
    /// The longest wait of a single client, answered or not.
    pub(crate) worst: Duration,
    /// Connections that ended.
    pub(crate) lost: usize,
}

impl Talk {
    /// Bytes that are sent back.
    pub(crate) fn echo() -> Self {
        Self { ask: b"0123456789abcdef".to_vec(), answer: Answer::Bytes(16) }
    }

    /// A request of the siege's own server.
    pub(crate) fn command(letter: u8, number: u32) -> Self {
        let [a, b, c, d] = number.to_be_bytes();
        Self { ask: vec![letter, 0, 0, 0, a, b, c, d], answer: Answer::Bytes(8) }
    }

    /// A line, which is answered by a line.
    pub(crate) fn line() -> Self {
        Self { ask: b"ping\n".to_vec(), answer: Answer::Line }
    }

    fn is_answered(&self, heard: &[u8]) -> bool {
        match self.answer {
            Answer::Bytes(bytes) => heard.len() >= bytes,
            Answer::Line => heard.ends_with(b"\n"),
        }
    }

    /// One request on a blocking stream, and how long the answer took.
    pub(crate) fn once(
        &self,
        stream: &mut TcpStream,
        patience: Duration,
    ) -> std::io::Result<Duration> {
        let begun = Instant::now();
        stream.set_read_timeout(Some(patience))?;
        stream.write_all(&self.ask)?;
        let mut heard = Vec::new();
        let mut buffer = [0; 4096];
        while !self.is_answered(&heard) {
            match stream.read(&mut buffer)? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                bytes => heard.extend_from_slice(&buffer[..bytes]),
            }
            if begun.elapsed() > patience {
                return Err(ErrorKind::TimedOut.into());
            }
        }
        Ok(begun.elapsed())
    }

    /// A new client: connects, sends one request and leaves. `None` if it was not served in time.
    pub(crate) fn newcomer(&self, address: SocketAddr, patience: Duration) -> Option<Duration> {
        let begun = Instant::now();
        let mut stream = TcpStream::connect_timeout(&address, patience).ok()?;
        self.once(&mut stream, patience).ok()?;
        Some(begun.elapsed())
    }
}

impl Pingers {
    /// Connects so many; each sends a request once in `period`.
    pub(crate) fn start(
        address: SocketAddr,
        clients: usize,
        talk: &Talk,
        period: Duration,
    ) -> Result<Self, Problem> {
        let streams: Result<Vec<_>, _> = (0..clients).map(|_| connect(address)).collect();
        let mut streams = streams?;
        // All are served before anything is measured.
        for stream in &mut streams {
            let served = talk.once(stream, Duration::from_secs(10));
            served.map_err(|error| Problem::Broken(format!("a pinger is not served: {error}")))?;
        }
        Self::on(streams, talk, period)
    }

    /// The same on existing connections.
    pub(crate) fn on(
        streams: Vec<TcpStream>,
        talk: &Talk,
        period: Duration,
    ) -> Result<Self, Problem> {
        let now = Instant::now();
        let count = u32::try_from(streams.len()).unwrap_or(u32::MAX).max(1);
        let mut clients = Vec::new();
        for (number, stream) in (0..).zip(streams) {
            stream.set_nonblocking(true)?;
            let turn = Turn::Asks(now + period * number / count);
            clients.push(Client { stream, heard: Vec::new(), turn });
        }
        let shared = Shared { tally: Tally::new(), waiting: None, lost: 0, over: false };
        let shared = Arc::new(Mutex::new(shared));
        let (told, talk) = (shared.clone(), talk.clone());
        let thread = thread::spawn(move || while turn(&mut clients, &told, &talk, period) {});
        Ok(Self { shared, thread: Some(thread) })
    }

    /// What was measured since the last time.
    pub(crate) fn take(&self) -> Tally {
        let mut shared = lock(&self.shared);
        let now = Instant::now();
        let mut tally = std::mem::replace(&mut shared.tally, Tally::new());
        let since = |then: Instant| now.saturating_duration_since(then);
        tally.gap = tally.gap.max(since(tally.last_answer));
        tally.worst = tally.worst.max(shared.waiting.map(since).unwrap_or_default());
        tally.lost = shared.lost;
        tally
    }
}

impl Drop for Pingers {
    fn drop(&mut self) {
        lock(&self.shared).over = true;
        self.thread.take().map(JoinHandle::join);
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes the answers that have come, sends the requests that are due, and waits at most a few
/// milliseconds.
fn turn(clients: &mut [Client], shared: &Mutex<Shared>, talk: &Talk, period: Duration) -> bool {
    let mut told = lock(shared);
    for client in clients.iter_mut() {
        client.hear(talk, period, &mut told.tally);
        client.ask(talk);
    }
    told.waiting = clients.iter().filter_map(Client::waits).min();
    told.lost = clients.iter().filter(|it| matches!(it.turn, Turn::Lost)).count();
    let over = told.over;
    drop(told);
    let waiting = clients.iter().filter(|client| client.waits().is_some());
    let mut fds: Vec<PollFd<'_>> =
        waiting.map(|it| PollFd::new(it.stream.as_fd(), PollFlags::POLLIN)).collect();
    // A signal may interrupt it; then the turn is a short one.
    let _ = poll(&mut fds, PollTimeout::from(2_u8));
    !over
}

impl Client {
    fn waits(&self) -> Option<Instant> {
        match self.turn {
            Turn::Waits(since) => Some(since),
            Turn::Asks(_) | Turn::Lost => None,
        }
    }

    fn ask(&mut self, talk: &Talk) {
        let Turn::Asks(at) = self.turn else { return };
        let now = Instant::now();
        if at > now {
            return;
        }
        self.heard.clear();
        // It is so short that the socket takes all of it or, if the connection is over, nothing.
        self.turn = match self.stream.write_all(&talk.ask) {
            Ok(()) => Turn::Waits(now),
            Err(_) => Turn::Lost,
        };
    }

    fn hear(&mut self, talk: &Talk, period: Duration, tally: &mut Tally) {
        let Turn::Waits(since) = self.turn else { return };
        let mut buffer = [0; 1024];
        match self.stream.read(&mut buffer) {
            Ok(0) => self.turn = Turn::Lost,
            Ok(bytes) => self.heard.extend_from_slice(&buffer[..bytes]),
            Err(error) if is_transient(error.kind()) => {}
            Err(_) => self.turn = Turn::Lost,
        }
        if talk.is_answered(&self.heard) {
            let now = Instant::now();
            tally.answered(now, now.saturating_duration_since(since));
            self.heard.clear();
            self.turn = Turn::Asks(now.max(since + period));
        }
    }
}

fn is_transient(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

impl Tally {
    fn new() -> Self {
        let (gap, worst) = (Duration::ZERO, Duration::ZERO);
        Self { times: Vec::new(), last_answer: Instant::now(), gap, worst, lost: 0 }
    }

    fn answered(&mut self, now: Instant, took: Duration) {
        self.gap = self.gap.max(now.saturating_duration_since(self.last_answer));
        self.last_answer = now;
        self.worst = self.worst.max(took);
        self.times.push(took);
    }

    /// The time in which 99 of 100 answers came.
    pub(crate) fn p99(&self) -> Duration {
        let mut times = self.times.clone();
        times.sort_unstable();
        times.get(times.len() * 99 / 100).copied().unwrap_or_default()
    }

    pub(crate) fn answers(&self) -> usize {
        self.times.len()
    }

    /// The figures of the service beside an attack, next to those `alone`.
    pub(crate) fn report(&self, row: &mut Row, alone: &Self) {
        row.note("p99 alone", Time(alone.p99()));
        row.note("beside", Time(self.p99()));
        row.within("longest gap", self.gap, Duration::from_secs(1));
        row.within("longest wait", self.worst, Duration::from_secs(2));
        row.equal("pingers lost", self.lost, 0);
    }
}
