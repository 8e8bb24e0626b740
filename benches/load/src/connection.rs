//! One connection: how far its stream was sent, came back and may go on.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use crate::pattern::{Mismatch, Pattern};

/// Buffers that one event may send. A connection with more to say waits for its next turn, so that
/// a saturating one does not starve the others.
const SENDS_MAX: usize = 4;

/// Why a connection can't be used any more.
#[derive(Debug)]
pub(crate) enum Failure {
    Mismatch(Mismatch),
    /// More came back than was sent: so many bytes.
    Unasked(u64),
    /// The server ended it, after so many bytes.
    Closed(u64),
    Io(io::Error),
}

/// ```text
///   0 ........ received ........ sent ........ released
///   |  checked    |   on the way   |    may go    |
/// ```
#[derive(Debug)]
pub(crate) struct Connection {
    id: u32,
    socket: Option<TcpStream>,
    /// Bytes of the answers that came and were checked.
    received: u64,
    /// Bytes of the requests that the kernel has taken.
    sent: u64,
    /// Messages of the stream that may be sent.
    released: u64,
    /// Since when each released message waits that is not answered, if that is measured.
    waiting: VecDeque<Instant>,
    /// What epoll reports: nothing yet, or answers and perhaps room to send.
    pub(crate) interest: Option<Interest>,
    /// Whether it is in the worker's list of those with something to do.
    pub(crate) listed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interest {
    Answers,
    AnswersAndRoom,
}

/// What one reading gave.
#[derive(Debug, Default)]
pub(crate) struct Received {
    pub(crate) bytes: u64,
    pub(crate) messages: u64,
}

impl Connection {
    pub(crate) fn new(id: u32, socket: Option<TcpStream>) -> Self {
        Self {
            id,
            socket,
            received: 0,
            sent: 0,
            released: 0,
            waiting: VecDeque::new(),
            interest: None,
            listed: false,
        }
    }

    /// Goes on with the stream in a new socket.
    pub(crate) fn set_socket(&mut self, socket: TcpStream) {
        (self.socket, self.interest) = (Some(socket), None);
    }

    /// Closes the socket; messages that wait for an answer still do.
    pub(crate) fn close(&mut self) {
        self.socket = None;
    }

    pub(crate) fn is_open(&self) -> bool {
        self.socket.is_some()
    }

    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }

    /// Lets another message go, which counts as waiting since `since`.
    pub(crate) fn release(&mut self, since: Instant) {
        self.released += 1;
        self.waiting.push_back(since);
    }

    /// Releases everything that the socket takes. Nothing is timed: it would be the time in
    /// buffers.
    pub(crate) fn release_all(&mut self) {
        self.released = u64::MAX;
    }

    /// Since when the messages wait that are not answered, the oldest first.
    pub(crate) fn waiting(&self) -> &VecDeque<Instant> {
        &self.waiting
    }

    /// Takes the oldest message that is not answered, as it is now.
    pub(crate) fn take_waiting(&mut self) -> Option<Instant> {
        self.waiting.pop_front()
    }

    /// Closes the socket, and waits for no answer any more.
    pub(crate) fn give_up(&mut self) {
        self.socket = None;
        self.waiting.clear();
    }

    /// Drops the message on the way; the rest of the stream begins behind it.
    pub(crate) fn skip_message(&mut self, pattern: &Pattern) {
        self.waiting.pop_front();
        let behind = self.answered(pattern) + 1;
        self.received = behind * pattern.answer_size();
        self.sent = behind * pattern.request_size();
    }

    /// Messages that came back whole.
    pub(crate) fn answered(&self, pattern: &Pattern) -> u64 {
        self.received / pattern.answer_size()
    }

    /// Sends what may go, at most `at_once` messages ahead of the answers; whether there is
    /// nothing left of that.
    pub(crate) fn send(
        &mut self,
        pattern: &Pattern,
        at_once: u64,
        buffer: &mut [u8],
    ) -> Result<bool, Failure> {
        let allowed = self.released.min(self.answered(pattern).saturating_add(at_once));
        let end = allowed.saturating_mul(pattern.request_size());
        let Some(socket) = &mut self.socket else {
            return Ok(true);
        };
        for _ in 0..SENDS_MAX {
            let left = usize::try_from(end - self.sent).unwrap_or(usize::MAX);
            if left == 0 {
                break;
            }
            let length = left.min(buffer.len());
            let bytes = &mut buffer[..length];
            pattern.fill(self.id, self.sent, bytes);
            match socket.write(bytes) {
                Ok(taken) => self.sent += taken as u64,
                // Not connected yet, or full; or a signal came: epoll says when to go on.
                Err(error) if is_later(&error) => break,
                Err(error) => return Err(Failure::Io(error)),
            }
        }
        Ok(self.sent == end)
    }

    /// Reads once, and checks what was read.
    pub(crate) fn receive(
        &mut self,
        pattern: &Pattern,
        buffer: &mut [u8],
    ) -> Result<Received, Failure> {
        let Some(socket) = &mut self.socket else {
            return Ok(Received::default());
        };
        let bytes = match socket.read(buffer) {
            Ok(0) => return Err(Failure::Closed(self.received)),
            Ok(bytes) => bytes,
            Err(error) if is_later(&error) => return Ok(Received::default()),
            Err(error) => return Err(Failure::Io(error)),
        };
        pattern.check(self.id, self.received, &buffer[..bytes]).map_err(Failure::Mismatch)?;
        let before = self.answered(pattern);
        self.received += bytes as u64;
        let most = pattern.answers_to(self.sent);
        if self.received > most {
            return Err(Failure::Unasked(self.received - most));
        }
        Ok(Received { bytes: bytes as u64, messages: self.answered(pattern) - before })
    }

    /// What went wrong, with the connection's name.
    pub(crate) fn describe(&self, failure: &Failure) -> String {
        match failure {
            Failure::Mismatch(_) => failure.to_string(), // it names the connection
            _ => format!("connection {}: {failure}", self.id),
        }
    }
}

fn is_later(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mismatch(mismatch) => mismatch.fmt(f),
            Self::Unasked(bytes) => write!(f, "{bytes} bytes came back that were never sent"),
            Self::Closed(bytes) => write!(f, "closed by the server, {bytes} bytes into its stream"),
            Self::Io(error) => error.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::pattern::Framing;

    const ALL: u64 = u64::MAX;

    /// A connection, and the server's end of it.
    fn connected() -> (Connection, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (Connection::new(5, Some(socket)), listener.accept().unwrap().0)
    }

    fn released(messages: usize) -> (Connection, TcpStream, Pattern, Vec<u8>) {
        let (mut connection, peer) = connected();
        (0..messages).for_each(|_| connection.release(Instant::now()));
        (connection, peer, Pattern::new(32, Framing::Bare), vec![0; 1024])
    }

    #[test]
    fn only_what_is_released_is_sent() {
        let (mut connection, mut peer, pattern, mut buffer) = released(3);
        assert!(connection.send(&pattern, 2, &mut buffer).unwrap());
        let mut bytes = [0; 64];
        peer.read_exact(&mut bytes).unwrap();
        assert_eq!(pattern.check(5, 0, &bytes), Ok(()));
        assert!(connection.send(&pattern, ALL, &mut buffer).unwrap());
        peer.read_exact(&mut bytes[..32]).unwrap();
        assert_eq!(pattern.check(5, 64, &bytes[..32]), Ok(()));
    }

    #[test]
    fn answers_count_when_they_are_whole() {
        let (mut connection, mut peer, pattern, mut buffer) = released(2);
        connection.send(&pattern, ALL, &mut buffer).unwrap();
        let mut bytes = [0; 64];
        peer.read_exact(&mut bytes).unwrap();
        peer.write_all(&bytes[..40]).unwrap();
        let first = connection.receive(&pattern, &mut buffer).unwrap();
        peer.write_all(&bytes[40..]).unwrap();
        let second = connection.receive(&pattern, &mut buffer).unwrap();
        assert_eq!((first.bytes, first.messages), (40, 1));
        assert_eq!((second.bytes, second.messages), (24, 1));
    }

    #[test]
    fn a_server_that_ends_or_adds_something_fails() {
        let (mut connection, mut peer, pattern, mut buffer) = released(1);
        connection.send(&pattern, ALL, &mut buffer).unwrap();
        let mut bytes = [0; 33];
        pattern.fill(5, 0, &mut bytes);
        peer.write_all(&bytes).unwrap();
        let unasked = connection.receive(&pattern, &mut buffer).unwrap_err();
        assert!(matches!(unasked, Failure::Unasked(1)), "{unasked:?}");

        let (mut connection, peer, pattern, mut buffer) = released(1);
        drop(peer);
        let closed = connection.receive(&pattern, &mut buffer).unwrap_err();
        let text = connection.describe(&closed);
        assert_eq!(text, "connection 5: closed by the server, 0 bytes into its stream");
    }

    #[test]
    fn a_skipped_message_is_not_waited_for() {
        let (mut connection, mut peer, pattern, mut buffer) = released(2);
        connection.skip_message(&pattern);
        assert_eq!(connection.waiting().len(), 1);
        connection.send(&pattern, ALL, &mut buffer).unwrap();
        let mut bytes = [0; 32];
        peer.read_exact(&mut bytes).unwrap();
        assert_eq!(pattern.check(5, 32, &bytes), Ok(()));
    }
}
