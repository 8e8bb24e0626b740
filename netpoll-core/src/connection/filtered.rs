//! The filter of a connection, as its owner uses it: what comes on the wire is opened into the
//! input.
//!
//! ```text
//!   socket ──► desk, of the thread ──► Filter::open ──► input
//!                 ▲           │
//!                 └── rest ◄──┘   part of a record: the connection keeps it until the rest comes
//! ```

use std::cell::Cell;
use std::fmt;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use netpoll_buffer::{Account, Charge, LinkBuffer};

use super::input::End;
use super::output::FollowUp;
use super::owner::Owner;
use super::shared::Shared;
use crate::base::clock::{self, later};
use crate::base::error::{Error, Result};
use crate::base::filter_error::FilterError;
use crate::base::panic::guard_quietly;
use crate::base::sync::{AtomicBool, AtomicU64, Mutex, Ordering, lock};
use crate::io::filter::{Filter, FilterClient, FilterServer, FilterState};
use crate::io::stream::NOT_CONNECTED;
use crate::pure::task::Events;

/// The most that one receive takes from the socket: four full records of TLS.
const RECEIVED_AT_MOST: usize = 64 << 10;
/// The largest record: one of TLS with its header and padding, a little rounded up. A receive takes
/// no more beyond the room of the input.
const RECORD: usize = 18 << 10;
/// The most that may wait on the wire for the rest of a message: 64 KiB of a handshake message, and
/// a record. If the filter uses nothing of so much, it never will.
const REST_AT_MOST: usize = (64 << 10) + RECORD;

/// How long a shutdown waits for a handshake that has begun: as long as for one of TCP.
const HURRY: Duration = Duration::from_millis(500);

thread_local! {
    /// Where this thread receives the wire bytes of any connection; the allocation stays.
    static DESK: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The filter of one connection.
pub(crate) struct Filtered {
    maker: Maker,
    /// Only the owner holds the lock for long.
    half: Mutex<ReceiveHalf>,
    stage: FilterStage,
    /// How many bytes have come on the wire.
    received: AtomicU64,
}

/// What makes the filter.
pub(crate) enum Maker {
    Server(Arc<dyn FilterServer>),
    /// With the address as the caller gave it.
    Client(Arc<dyn FilterClient>, Box<str>),
}

#[derive(Default)]
struct ReceiveHalf {
    /// `None` before the handshake begins, without a filter, and after the end.
    filter: Option<Arc<dyn Filter>>,
    /// What `on_prepare` has chosen to make the filter, in place of the listener's.
    chosen: Option<Arc<dyn FilterServer>>,
    /// What was received and is not opened, in memory of its own length: a block could be four
    /// times as large, and this may wait for as long as the peer likes.
    rest: Vec<u8>,
    /// Counts `rest`, if there is a budget.
    rest_counts: Option<Charge>,
    /// Plain bytes of the last record for which the input had no room.
    excess: LinkBuffer,
    /// `rest` may hold whole records, which no event will announce: the input had no room.
    is_full: bool,
    /// How the peer's stream ends when what came before was delivered.
    end: Option<End>,
}

/// What threads other than the owner's ask, each in one load.
#[derive(Debug, Default)]
struct FilterStage {
    /// The handshake is over, or there is no filter after all.
    is_through: AtomicBool,
    /// The group counts the handshake as one that is under way.
    is_counted: AtomicBool,
    /// How many bytes are here of a record that is not complete.
    waiting: AtomicU64,
    /// A shutdown has begun in the handshake.
    is_hurried: AtomicBool,
}

/// What one receive through a filter brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Incoming {
    /// How many plain bytes.
    pub(super) plain: usize,
    /// How many bytes on the wire were received or opened.
    pub(super) wire: usize,
    /// More may be had at once, and no event will announce it.
    pub(super) more: bool,
}

impl Filtered {
    pub(crate) fn new(maker: Maker) -> Self {
        Self {
            maker,
            half: Mutex::default(),
            stage: FilterStage::default(),
            received: AtomicU64::new(0),
        }
    }

    /// The filter; `None` before the handshake begins, without one, and after the end.
    pub(super) fn filter(&self) -> Option<Arc<dyn Filter>> {
        lock(&self.half).filter.clone()
    }

    /// Whether the handshake is over, or there is no filter after all.
    pub(super) fn is_through(&self) -> bool {
        self.stage.is_through.load(Ordering::Acquire)
    }

    /// How many bytes have come on the wire.
    pub(super) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// How many bytes are here of a record that is not complete.
    pub(super) fn waiting(&self) -> u64 {
        self.stage.waiting.load(Ordering::Relaxed)
    }

    /// A shutdown has begun: the rest of the handshake and the first bytes behind it may take
    /// [`HURRY`] together, as if they were in the kernel by then.
    pub(super) fn hurry(&self, shared: &Arc<Shared>) {
        if !self.stage.is_hurried.swap(true, Ordering::Relaxed) {
            let at = later(clock::now(), HURRY);
            shared.rewatch(|watch| watch.hurry(at));
        }
    }

    /// Whether a shutdown has to wait: for the rest of a record, or for the first bytes after a
    /// handshake that it has met.
    pub(super) fn is_expecting(&self, shared: &Shared) -> bool {
        let is_hurried = self.stage.is_hurried.load(Ordering::Relaxed);
        self.waiting() > 0 || (is_hurried && shared.received() == 0)
    }

    /// Has another server make the filter; `false` if it is made already, or is a client's.
    pub(super) fn choose(&self, server: Arc<dyn FilterServer>) -> bool {
        let mut half = lock(&self.half);
        let is_due = matches!(self.maker, Maker::Server(_)) && half.filter.is_none();
        let is_due = is_due && !self.is_through() && !self.stage.is_counted.load(Ordering::Relaxed);
        if is_due {
            half.chosen = Some(server);
        }
        is_due
    }

    /// Begins with wire bytes that were received elsewhere.
    pub(super) fn begin_with(&self, wire: &LinkBuffer) {
        let mut half = lock(&self.half);
        half.rest = wire.chunks().flatten().copied().collect();
        half.is_full = true;
        self.received.fetch_add(half.rest.len() as u64, Ordering::Relaxed);
    }

    /// Counts the handshake of an accepted connection and sets its time. `false`: too many are
    /// under way.
    pub(super) fn admit(&self, shared: &Arc<Shared>) -> bool {
        let Some(server) = self.server() else { return true };
        if !shared.group.begin_handshake(server.max_handshakes()) {
            return false;
        }
        self.stage.is_counted.store(true, Ordering::Relaxed);
        if let Some(time) = server.handshake_timeout() {
            let at = later(clock::now(), time);
            shared.rewatch(|watch| watch.set_handshake(Some(at)));
        }
        true
    }

    /// What makes the filter of an accepted connection.
    fn server(&self) -> Option<Arc<dyn FilterServer>> {
        let Maker::Server(server) = &self.maker else { return None };
        Some(lock(&self.half).chosen.as_ref().unwrap_or(server).clone())
    }

    /// Makes the filter, unless that was done before. `false`: it is not known yet whether there is
    /// to be one.
    ///
    /// # Errors
    /// That of the maker.
    pub(super) fn begin(&self, shared: &Owner) -> Result<bool> {
        if self.is_through() || lock(&self.half).filter.is_some() {
            return Ok(true);
        }
        let filter = match (&self.maker, self.server()) {
            (Maker::Server(of_listener), chosen) => {
                let server = chosen.as_ref().unwrap_or(of_listener);
                let is_carried = !lock(&self.half).rest.is_empty();
                if let (Some(first), false) = (server.first_byte(), is_carried) {
                    match is_first_byte(shared, first)? {
                        None => return Ok(false),
                        Some(false) => {
                            self.go_on_without(shared);
                            return Ok(true);
                        }
                        Some(true) => {}
                    }
                }
                let local = shared.local_addr().ok();
                server.accept(shared.peer(), local.as_ref())?
            }
            (Maker::Client(client, address), _) => client.dial(address, shared.peer())?,
        };
        lock(&self.half).filter = Some(filter.clone());
        if !follow_up(shared, shared.output.set_filter(filter)) {
            return Err(shared.output.failure().map_or(Error::Closed, Error::from));
        }
        Ok(true)
    }

    fn go_on_without(&self, shared: &Owner) {
        self.end_handshake(shared);
        follow_up(shared, shared.output.unfilter());
    }

    /// The handshake is over, or the connection ends in it.
    pub(super) fn end_handshake(&self, shared: &Arc<Shared>) {
        if !self.stage.is_through.swap(true, Ordering::AcqRel)
            && self.stage.is_counted.swap(false, Ordering::Relaxed)
        {
            shared.group.end_handshake();
            shared.rewatch(|watch| watch.set_handshake(None));
        }
    }

    /// The connection has ended: drops the filter, though handles may stay.
    pub(super) fn close(&self, shared: &Shared) {
        if self.stage.is_counted.swap(false, Ordering::Relaxed) {
            shared.group.end_handshake();
        }
        let half = std::mem::take(&mut *lock(&self.half));
        drop(half);
    }

    /// One receive from the socket, unless records wait for room, and all that can be opened then.
    /// `account` counts the memory, if there is a budget. `None`: there is no filter after all.
    ///
    /// # Errors
    /// Those of the socket; `WouldBlock` if nothing has come. `Ok(Err(end))`: the stream has ended.
    pub(super) fn receive(
        &self,
        shared: &Owner,
        room: usize,
        plain: &mut LinkBuffer,
        account: Option<&Account>,
    ) -> Option<io::Result<Result<Incoming, End>>> {
        let mut half = lock(&self.half);
        let Some(filter) = half.filter.clone() else {
            // After the end, by force, of a connection that its caller still has.
            let is_closed = shared.output.is_filtered();
            return is_closed.then_some(Ok(Err(End::Failed(NOT_CONNECTED))));
        };
        if !half.excess.is_empty() {
            let moved = half.move_excess(room, plain);
            return Some(Ok(Ok(Incoming { plain: moved, wire: 0, more: true })));
        }
        if let Some(end) = half.end {
            return Some(Ok(Err(end)));
        }
        let mut desk = DESK.try_with(Cell::take).unwrap_or_default();
        let received = half.fetch(shared, room, &mut desk);
        let incoming = received.map(|fetched| {
            self.received.fetch_add(fetched.received as u64, Ordering::Relaxed);
            let before = plain.len();
            let opened = open_all(&*filter, &mut desk[..fetched.len], room, plain);
            half.cut_excess(before.saturating_add(room), plain, account);
            let incoming = Incoming {
                plain: plain.len() - before,
                wire: fetched.received.max(opened.used),
                more: !fetched.drained || opened.is_full || !half.excess.is_empty(),
            };
            half.is_full = opened.is_full;
            half.keep(&desk[opened.used..fetched.len], account);
            self.settle(&mut half, shared, opened, fetched.is_over, incoming)
        });
        drop(half);
        let _ = DESK.try_with(|place| place.set(desk));
        Some(incoming)
    }

    /// Does what has become due by what was opened.
    fn settle(
        &self,
        half: &mut ReceiveHalf,
        shared: &Owner,
        opened: OpenedAll,
        is_over: bool,
        incoming: Incoming,
    ) -> Result<Incoming, End> {
        let is_open = opened.state.is_some_and(|state| state != FilterState::Handshaking);
        let opens = is_open && !self.is_through();
        if opens {
            self.end_handshake(shared);
        }
        let mut failure = opened.failure;
        if failure.is_none() && half.rest.len() >= REST_AT_MOST && !half.is_full {
            let text = format!("the peer sent {} bytes that make no record", half.rest.len());
            failure = Some(FilterError::new(text));
        }
        if failure.is_none() && is_over && !self.is_through() {
            failure = Some(FilterError::new("the peer ended its stream in the handshake"));
        }
        if let Some(error) = failure {
            follow_up(shared, shared.output.refuse(error));
            half.end = Some(End::Refused);
        } else {
            let may_speak = opened.speaks || opens;
            if may_speak && !follow_up(shared, shared.output.speak(opens)) {
                half.end = Some(End::Refused);
            } else if opened.state == Some(FilterState::Finished) {
                half.end = Some(End::Finished);
            } else if is_over && !half.is_full {
                half.end = Some(End::Truncated);
            }
        }
        let waiting = if half.end.is_none() { half.rest.len() as u64 } else { 0 };
        self.stage.waiting.store(waiting, Ordering::Relaxed);
        match half.end {
            Some(end) => {
                half.keep(&[], None);
                if incoming.wire > 0 { Ok(Incoming { more: true, ..incoming }) } else { Err(end) }
            }
            None => Ok(incoming),
        }
    }
}

/// Whether the first byte is this one; `None` before it has come. At the end of the stream it is
/// not, and reads will meet the end.
fn is_first_byte(shared: &Owner, first: u8) -> io::Result<Option<bool>> {
    let mut byte = [0];
    match shared.stream().peek(&mut byte) {
        Ok(read) => Ok(Some(read == 1 && byte[0] == first)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// Does what is left to do after a send; `false` if it has failed.
fn follow_up(shared: &Shared, next: FollowUp) -> bool {
    let events = shared.go_on_later(next);
    shared.task.word.note(events);
    !events.has_any(Events::FAILED)
}

/// What a receive has put on the desk.
struct Fetched {
    /// The rest of before and what was received.
    len: usize,
    received: usize,
    drained: bool,
    /// The socket has no more, for good.
    is_over: bool,
}

impl ReceiveHalf {
    /// Puts what came before, and what the socket has, onto the desk.
    fn fetch(&mut self, shared: &Owner, room: usize, desk: &mut Vec<u8>) -> io::Result<Fetched> {
        let before = self.rest.len();
        let most = room.saturating_add(RECORD).min(RECEIVED_AT_MOST);
        if desk.len() < before + most {
            desk.resize((before + most).max(RECEIVED_AT_MOST + RECORD), 0);
        }
        let mut fetched = Fetched { len: before, received: 0, drained: false, is_over: false };
        if !self.is_full {
            let pulled = shared.stream().pull_into(&mut desk[before..before + most])?;
            fetched.received = pulled.read;
            fetched.drained = pulled.drained;
            fetched.is_over = pulled.read == 0;
            fetched.len += pulled.read;
        }
        desk[..before].copy_from_slice(&self.rest);
        Ok(fetched)
    }

    /// The last record may have had more than there was room for: `plain` keeps `full` bytes.
    fn cut_excess(&mut self, full: usize, plain: &mut LinkBuffer, account: Option<&Account>) {
        if plain.len() <= full {
            return;
        }
        if let Ok(kept) = plain.slice(full) {
            self.excess = std::mem::replace(plain, kept);
        }
        if let Some(account) = account {
            self.excess.charge(account);
        }
    }

    fn move_excess(&mut self, room: usize, plain: &mut LinkBuffer) -> usize {
        let moved = self.excess.len().min(room);
        if let Ok(first) = self.excess.slice(moved) {
            plain.append(first);
            plain.flush();
        }
        self.excess.release();
        moved
    }

    /// Keeps what is not opened.
    fn keep(&mut self, rest: &[u8], account: Option<&Account>) {
        self.rest = rest.to_vec(); // of nothing it allocates nothing
        let account = account.filter(|_| !rest.is_empty());
        self.rest_counts = account.map(|account| account.charge(rest.len()));
    }
}

/// What [`open_all`] did.
struct OpenedAll {
    used: usize,
    /// `None` if the first call failed.
    state: Option<FilterState>,
    speaks: bool,
    /// It ended for want of room.
    is_full: bool,
    failure: Option<FilterError>,
}

/// Opens what is complete in `wire`, while there is room.
fn open_all(
    filter: &dyn Filter,
    wire: &mut [u8],
    room: usize,
    plain: &mut LinkBuffer,
) -> OpenedAll {
    let full = plain.len().saturating_add(room);
    let mut all = OpenedAll { used: 0, state: None, speaks: false, is_full: false, failure: None };
    while all.used < wire.len() {
        let (before, wire) = (plain.len(), &mut wire[all.used..]);
        if before >= full {
            all.is_full = true;
            break;
        }
        let left = wire.len();
        let opened = guard_quietly(|| filter.open(wire, full - before, plain));
        plain.flush();
        match opened.unwrap_or_else(|text| Err(FilterError::panicked(&text))) {
            Ok(opened) => {
                all.used += opened.used.min(left);
                all.state = Some(opened.state);
                all.speaks |= opened.speaks;
                let is_stuck = opened.used == 0 && plain.len() == before;
                if is_stuck || opened.state == FilterState::Finished {
                    break;
                }
            }
            Err(error) => {
                all.failure = Some(error);
                break;
            }
        }
    }
    all
}

impl fmt::Debug for Filtered {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Filtered").field("stage", &self.stage).finish_non_exhaustive()
    }
}
