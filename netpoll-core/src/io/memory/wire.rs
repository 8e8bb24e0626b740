//! A pair of ends with a bounded pipe of bytes in each direction.
//!
//! ```text
//!   End 0 ── push ──► sides[0].sent ──► pull ── End 1
//!         ◄── pull ── sides[1].sent ◄── push ──
//! ```
//! It behaves as a socket of TCP does: an end that is closed with bytes unread, or with
//! `reset_on_close`, resets the other; a reset is met once, by a pull, a push or `take_error`.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Instant;

use netpoll_buffer::LinkBuffer;

use super::reports::Reports;
use crate::base::sync::{AtomicU64, Condvar, Mutex, MutexGuard, Ordering, lock, wait_until};
use crate::io::readiness::{Pulled, Pushed, Readiness};
use crate::pure::slab::Token;

/// What Linux calls them.
const EPIPE: i32 = 32;
const ECONNRESET: i32 = 104;
pub(super) const ECONNREFUSED: i32 = 111;

/// How many bytes a direction holds.
pub(crate) const CAPACITY: usize = 16 << 10;

/// One end. Its drop closes it.
#[derive(Debug)]
pub(crate) struct End {
    wire: Arc<Wire>,
    /// 0 or 1.
    side: usize,
}

#[derive(Debug)]
struct Wire {
    sides: Mutex<[Side; 2]>,
    /// How often something has changed, which happens under the lock; for [`End::until`].
    changes: AtomicU64,
    changed: Condvar,
}

/// What one end has done, and what it is to be told.
#[derive(Debug, Default)]
struct Side {
    /// What it sent and the other has not pulled.
    sent: VecDeque<u8>,
    /// It sends no more.
    ended: bool,
    closed: bool,
    resets: bool,
    /// It is still on its way.
    is_connecting: bool,
    /// A push found too little room: the next pull of the other end is told.
    is_blocked: bool,
    /// The errno of a failure that it has not met.
    failure: Option<i32>,
    /// It has failed.
    has_failed: bool,
    watcher: Option<Watcher>,
}

#[derive(Debug, Clone)]
struct Watcher {
    reports: Arc<Reports>,
    token: Token,
}

impl End {
    /// Two ends that are connected.
    pub(crate) fn pair() -> (Self, Self) {
        let wire = Arc::new(Wire {
            sides: Mutex::default(),
            changes: AtomicU64::new(0),
            changed: Condvar::new(),
        });
        (Self { wire: wire.clone(), side: 0 }, Self { wire, side: 1 })
    }

    /// One that is on its way for as long as the other end lives, or one that was refused.
    pub(super) fn connecting(failure: Option<i32>) -> (Self, Self) {
        let (ours, theirs) = Self::pair();
        {
            let mut sides = ours.sides();
            sides[0].is_connecting = failure.is_none();
            (sides[0].failure, sides[0].has_failed) = (failure, failure.is_some());
        }
        (ours, theirs)
    }

    pub(crate) fn pull(&self, input: &mut LinkBuffer, max: usize) -> io::Result<Pulled> {
        let mut sides = self.sides();
        self.check_arrived(&mut sides)?;
        let sent = &mut sides[1 - self.side].sent;
        let filled = input.fill(max, |slices| {
            let mut read = 0;
            for slice in slices {
                read += sent.read(slice)?;
            }
            Ok(read)
        })?;
        let drained = sent.is_empty();
        self.made_room(&mut sides);
        Ok(Pulled { read: filled.read, drained })
    }

    pub(crate) fn push(&self, output: &LinkBuffer) -> io::Result<Pushed> {
        let mut sides = self.sides();
        if let Some(errno) = sides[self.side].failure.take() {
            return Err(error(errno));
        }
        if sides[self.side].ended || sides[1 - self.side].closed {
            return Err(error(EPIPE));
        }
        let ours = &mut sides[self.side];
        let room = CAPACITY - ours.sent.len();
        let mut taken = 0;
        for chunk in output.chunks() {
            let some = &chunk[..chunk.len().min(room - taken)];
            ours.sent.extend(some);
            taken += some.len();
        }
        ours.is_blocked = taken < output.len();
        if taken == 0 && ours.is_blocked {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.tell_other(&sides, Readiness { receivable: true, ..Readiness::default() });
        Ok(Pushed { taken, wants: taken == output.len() })
    }

    pub(crate) fn peek(&self, into: &mut [u8]) -> io::Result<usize> {
        let mut sides = self.sides();
        self.check_arrived(&mut sides)?;
        let sent = &sides[1 - self.side].sent;
        let bytes = into.iter_mut().zip(sent);
        Ok(bytes.map(|(place, byte)| *place = *byte).count())
    }

    pub(crate) fn take(&self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.peek(into)?;
        let mut sides = self.sides();
        sides[1 - self.side].sent.drain(..read);
        self.made_room(&mut sides);
        Ok(read)
    }

    pub(crate) fn end_write(&self) {
        let mut sides = self.sides();
        sides[self.side].ended = true;
        self.tell_other(&sides, end_of(&sides, 1 - self.side));
    }

    pub(crate) fn reset_on_close(&self) {
        self.sides()[self.side].resets = true;
    }

    pub(crate) fn take_error(&self) -> io::Result<()> {
        self.sides()[self.side].failure.take().map_or(Ok(()), |errno| Err(error(errno)))
    }

    /// Calls until it would not block, or `late`: for the peers of tests, which wait.
    pub(crate) fn until<R>(
        &self,
        late: Instant,
        mut call: impl FnMut(&Self) -> io::Result<R>,
    ) -> io::Result<R> {
        loop {
            let before = self.wire.changes.load(Ordering::SeqCst);
            match call(self) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
            let mut sides = self.sides();
            let mut is_late = false;
            while self.wire.changes.load(Ordering::SeqCst) == before {
                if is_late {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                (sides, is_late) = wait_until(&self.wire.changed, sides, Some(late));
            }
        }
    }

    /// Reports what happens to it from now on, and what has happened.
    pub(super) fn watch(&self, reports: &Arc<Reports>, token: Token) {
        let mut sides = self.sides();
        sides[self.side].watcher = Some(Watcher { reports: reports.clone(), token });
        if !sides[self.side].is_connecting {
            let mut now = end_of(&sides, self.side);
            now.receivable |= !sides[1 - self.side].sent.is_empty();
            now.sendable = true;
            reports.stream(token, now);
        }
    }

    pub(super) fn forget(&self) {
        self.sides()[self.side].watcher = None;
    }

    pub(super) fn is_connecting(&self) -> bool {
        self.sides()[self.side].is_connecting
    }

    fn sides(&self) -> MutexGuard<'_, [Side; 2]> {
        lock(&self.wire.sides)
    }

    /// Whether a pull has something, or why it has not; the end is something.
    fn check_arrived(&self, sides: &mut [Side; 2]) -> io::Result<()> {
        if let Some(errno) = sides[self.side].failure.take() {
            return Err(error(errno));
        }
        let other = &sides[1 - self.side];
        let has_arrived = !other.sent.is_empty() || other.ended || other.closed;
        if has_arrived || sides[self.side].has_failed {
            Ok(())
        } else {
            Err(io::ErrorKind::WouldBlock.into())
        }
    }

    /// A pull may have made room for an end that found too little.
    fn made_room(&self, sides: &mut [Side; 2]) {
        if std::mem::take(&mut sides[1 - self.side].is_blocked) {
            self.tell_other(sides, Readiness { sendable: true, ..Readiness::default() });
        }
    }

    fn tell_other(&self, sides: &[Side; 2], readiness: Readiness) {
        if let Some(Watcher { reports, token }) = &sides[1 - self.side].watcher {
            reports.stream(*token, readiness);
        }
        self.wire.changes.fetch_add(1, Ordering::SeqCst);
        self.wire.changed.notify_all();
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let mut sides = self.sides();
        let unread = !sides[1 - self.side].sent.is_empty();
        let ours = &mut sides[self.side];
        (ours.closed, ours.ended, ours.watcher) = (true, true, None);
        let must_reset = ours.resets || unread;
        let theirs = &mut sides[1 - self.side];
        if must_reset && !theirs.closed {
            (theirs.failure, theirs.has_failed) = (Some(ECONNRESET), true);
            sides[self.side].sent.clear();
        }
        self.tell_other(&sides, end_of(&sides, 1 - self.side));
    }
}

/// What `side` is told of the other's end, and of its own failure.
fn end_of(sides: &[Side; 2], side: usize) -> Readiness {
    let (ours, other) = (&sides[side], &sides[1 - side]);
    let failed = ours.has_failed;
    let peer_closed = other.ended || other.closed;
    Readiness {
        receivable: failed || peer_closed,
        sendable: failed,
        peer_closed,
        failed,
        in_pieces: false,
    }
}

fn error(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}
