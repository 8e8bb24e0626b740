//! Bytes in one direction, as fast as they go: uploads that the server counts, and downloads.
//!
//! ```text
//!   up     ──► size bytes, again and again, until the window is over, then the end of the stream
//!          ◄── how many there were: 8 bytes, big-endian
//!   down   ──► size: 4 bytes, big-endian
//!          ◄── pieces of size bytes, until we close; byte i of each is i modulo 251
//! ```
//!
//! What is uploaded is not made anew for each write, and what is downloaded is compared in passing:
//! the server is to be the one that is busy.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use crate::connection::Interest;
use crate::options::Mode;
use crate::poller::{Event, Poller};
use crate::schedule::{Share, Window};
use crate::socket;
use crate::tally::Tally;
use crate::worker::Run;

/// Bytes that one call receives at most.
const RECEIVED_MAX: usize = 64 << 10;
/// Calls for one event, so that no connection starves the others.
const CALLS_MAX: usize = 4;
/// After so many bytes a piece begins anew: no power of two, so that no lost block goes unnoticed.
const PERIOD: usize = 251;
/// How long the server may take to count what is in the kernel.
const COUNT_TIMEOUT: Duration = Duration::from_secs(10);

/// One thread's share of the connections.
#[derive(Debug)]
pub(crate) struct Bulk<'a> {
    run: Run<'a>,
    window: Window,
    poller: Poller,
    flows: Vec<Flow>,
    /// Connections that have not failed.
    healthy: usize,
    buffer: Box<[u8]>,
    /// The bytes of a piece, and a whole receive from each of its places.
    table: Box<[u8]>,
    tally: Tally,
}

/// One connection.
#[derive(Debug)]
struct Flow {
    id: u32,
    socket: Option<TcpStream>,
    /// How many bytes went.
    position: u64,
}

/// Why a connection can't be used any more.
#[derive(Debug)]
enum Failure {
    /// A byte of the download is not what it should be.
    Wrong {
        position: u64,
        expected: u8,
        received: u8,
    },
    /// The server counted so many bytes.
    Miscounted(u64),
    /// The server sent something before the end of the upload.
    Unasked,
    /// The server ended its stream.
    Closed,
    Io(io::Error),
}

impl<'a> Bulk<'a> {
    /// Opens the connections of a share.
    pub(crate) fn connect(run: Run<'a>, share: Share) -> io::Result<Self> {
        let address = run.options.address;
        let open = |id: u32| {
            let socket = Some(socket::open(address, id.into())?);
            Ok(Flow { id, socket, position: 0 })
        };
        let flows = share.ids().map(open).collect::<io::Result<Vec<_>>>().map_err(|error| {
            io::Error::new(error.kind(), format!("cannot connect to {address}: {error}"))
        })?;
        let length = if run.options.mode == Mode::Up { run.options.size } else { RECEIVED_MAX };
        let now = Instant::now();
        Ok(Self {
            run,
            window: Window::new(now, Duration::ZERO, Duration::ZERO),
            poller: Poller::new()?,
            healthy: flows.len(),
            flows,
            buffer: vec![0; length].into(),
            table: (0..RECEIVED_MAX + PERIOD).map(|i| (i % PERIOD) as u8).collect(),
            tally: Tally::new(),
        })
    }

    /// Runs from the window's start to its end, or until no connection is left.
    pub(crate) fn run(mut self, window: Window) -> io::Result<Tally> {
        self.window = window;
        for index in 0..self.flows.len() {
            self.begin(index)?;
        }
        while Instant::now() < window.until && self.healthy > 0 {
            for at in 0..self.poller.wait(window.until, None)? {
                if let Some(event) = self.poller.event(at) {
                    self.go_on(event);
                }
            }
        }
        self.tally.measured = window.measured(Instant::now());
        if self.run.options.mode == Mode::Up {
            self.compare_counts();
        }
        Ok(self.tally)
    }

    fn begin(&mut self, index: usize) -> io::Result<()> {
        let Some(socket) = &mut self.flows[index].socket else {
            return Ok(());
        };
        if self.run.options.mode == Mode::Up {
            return self.poller.add(socket.as_fd(), index, Interest::AnswersAndRoom);
        }
        // A new socket has room for it.
        socket.write_all(&(self.run.options.size as u32).to_be_bytes())?;
        self.poller.add(socket.as_fd(), index, Interest::Answers)
    }

    fn go_on(&mut self, event: Event) {
        let flow = &mut self.flows[event.index];
        let size = self.run.options.size;
        let before = flow.position;
        let result = if self.run.options.mode == Mode::Down {
            flow.download(size, &mut self.buffer, &self.table)
        } else if event.answers {
            Err(flow.interrupted())
        } else {
            flow.upload(&self.buffer)
        };
        if self.window.measures(Instant::now()) {
            self.tally.bytes += flow.position - before;
            let size = size as u64;
            let whole = flow.position / size - before / size;
            self.tally.requests += whole;
            self.run.live.add(whole, 0);
        }
        if let Err(failure) = result {
            self.fail(event.index, &failure);
        }
    }

    /// Ends all uploads, and compares what the server has counted.
    fn compare_counts(&mut self) {
        for index in 0..self.flows.len() {
            if let Err(failure) = self.flows[index].finish() {
                self.fail(index, &failure);
            }
        }
    }

    fn fail(&mut self, index: usize, failure: &Failure) {
        let flow = &mut self.flows[index];
        self.tally.error(format!("connection {}, {} bytes: {failure}", flow.id, flow.position));
        self.run.live.add(0, 1);
        flow.socket = None;
        self.healthy -= 1;
    }
}

impl Flow {
    /// Writes as much as the socket takes, in a bounded number of calls.
    fn upload(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let Some(socket) = &mut self.socket else {
            return Ok(());
        };
        for _ in 0..CALLS_MAX {
            match socket.write(bytes) {
                Ok(taken) => self.position += taken as u64,
                Err(error) if is_later(&error) => break,
                Err(error) => return Err(Failure::Io(error)),
            }
        }
        Ok(())
    }

    /// What came while the upload was not over.
    fn interrupted(&mut self) -> Failure {
        match self.socket.as_mut().map(|socket| socket.read(&mut [0])) {
            Some(Ok(0)) | None => Failure::Closed,
            Some(Ok(_)) => Failure::Unasked,
            Some(Err(error)) => Failure::Io(error),
        }
    }

    /// Ends the upload, and waits until the server has counted it.
    fn finish(&mut self) -> Result<(), Failure> {
        let Some(socket) = &mut self.socket else {
            return Ok(());
        };
        let mut count = [0; 8];
        let ended = socket
            .shutdown(Shutdown::Write)
            .and_then(|()| socket.set_nonblocking(false))
            .and_then(|()| socket.set_read_timeout(Some(COUNT_TIMEOUT)))
            .and_then(|()| socket.read_exact(&mut count));
        match ended.map(|()| u64::from_be_bytes(count)) {
            Ok(count) if count == self.position => Ok(()),
            Ok(count) => Err(Failure::Miscounted(count)),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err(Failure::Closed),
            Err(error) => Err(Failure::Io(error)),
        }
    }

    /// Reads once, and compares what was read with pieces of `size` bytes.
    fn download(&mut self, size: usize, buffer: &mut [u8], table: &[u8]) -> Result<(), Failure> {
        let Some(socket) = &mut self.socket else {
            return Ok(());
        };
        let mut rest = match socket.read(buffer) {
            Ok(0) => return Err(Failure::Closed),
            Ok(length) => &buffer[..length],
            Err(error) if is_later(&error) => return Ok(()),
            Err(error) => return Err(Failure::Io(error)),
        };
        while !rest.is_empty() {
            let place = (self.position % size as u64) as usize;
            let (now, later) = rest.split_at(rest.len().min(size - place));
            let expected = &table[place % PERIOD..][..now.len()];
            if now != expected {
                return Err(Failure::find(self.position, expected, now));
            }
            self.position += now.len() as u64;
            rest = later;
        }
        Ok(())
    }
}

impl Failure {
    #[cold]
    fn find(position: u64, expected: &[u8], received: &[u8]) -> Self {
        let index = expected.iter().zip(received).position(|(expected, it)| expected != it);
        let index = index.expect("the caller has seen that they differ");
        let (expected, received) = (expected[index], received[index]);
        Self::Wrong { position: position + index as u64, expected, received }
    }
}

fn is_later(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wrong { position, expected, received } => {
                write!(f, "byte {position} came as {received:#04x} and is {expected:#04x}")
            }
            Self::Miscounted(count) => write!(f, "the server counted {count}"),
            Self::Unasked => f.write_str("the server answered before the end"),
            Self::Closed => f.write_str("closed by the server"),
            Self::Io(error) => error.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn connected() -> (Flow, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (Flow { id: 0, socket: Some(socket), position: 0 }, listener.accept().unwrap().0)
    }

    fn table() -> Vec<u8> {
        (0..RECEIVED_MAX + PERIOD).map(|i| (i % PERIOD) as u8).collect()
    }

    #[test]
    fn a_download_is_compared_across_pieces() {
        let piece: Vec<u8> = (0..300_u32).map(|i| (i % 251) as u8).collect();
        let (mut flow, mut peer) = connected();
        peer.write_all(&piece.repeat(3)[..700]).unwrap();
        while flow.position < 700 {
            flow.download(300, &mut [0; 123], &table()).unwrap();
        }
        peer.write_all(&piece[100..]).unwrap();
        flow.download(300, &mut [0; 123], &table()).unwrap();
        peer.write_all(&piece[..10]).unwrap();
        drop(peer);
        let failure = loop {
            if let Err(failure) = flow.download(300, &mut [0; 123], &table()) {
                break failure;
            }
        };
        assert!(matches!(failure, Failure::Closed), "{failure}");
        assert_eq!(flow.position, 910);
    }

    #[test]
    fn a_wrong_byte_of_a_download_is_named() {
        let mut piece: Vec<u8> = (0..300_u32).map(|i| (i % 251) as u8).collect();
        piece[260] = 77;
        let (mut flow, mut peer) = connected();
        peer.write_all(&piece).unwrap();
        drop(peer);
        let failure = loop {
            if let Err(failure) = flow.download(300, &mut [0; 123], &table()) {
                break failure;
            }
        };
        assert_eq!(failure.to_string(), "byte 260 came as 0x4d and is 0x09");
    }

    #[test]
    fn a_wrong_count_is_an_error() {
        for (count, is_right) in [(1000_u64, true), (999, false)] {
            let (mut flow, mut peer) = connected();
            flow.upload(&[0; 250]).unwrap();
            peer.write_all(&count.to_be_bytes()).unwrap();
            let finished = flow.finish();
            assert_eq!(finished.is_ok(), is_right, "{finished:?}");
        }
    }
}
