//! The input of a connection: its buffer, and the owner's reads from the socket.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use netpoll_buffer::{Account, LinkBuffer};

use super::filtered::{Filtered, Incoming};
use super::owner::Owner;
use super::shared::Shared;
use crate::base::blocking;
use crate::base::clock;
use crate::base::error::{Error, Result, Wait};
use crate::base::memory::{Holding, Memory};
use crate::io::readiness::Pulled;
use crate::io::stream::NOT_CONNECTED;
use crate::pure::task::{Events, Word};

/// The reading side of a connection. Only the owner uses it.
#[derive(Debug, Default)]
pub(crate) struct Input {
    pub(crate) buffer: LinkBuffer,
    /// Counts the blocks that slices of this input keep alive; with a budget also those of the
    /// buffer. Opened with the first such block.
    account: Option<Account>,
    /// The socket may have bytes that no further event will announce.
    pub(super) undrained: bool,
    side: ReadSide,
    /// The number of bytes sent when bytes last arrived. For [`Exchange`](super::Exchange); valid
    /// from the last [`settle`](Self::settle), since a scratch comes from another connection.
    sent_before: u64,
    /// The number of bytes received when a read last found too few; valid as above.
    unmet_at: Option<u64>,
    /// The number of bytes that reads of the current callback have received.
    pulled_by_reads: u64,
    /// Since when a part of a request is here and memory for its rest is missing.
    short_since: Option<Instant>,
}

/// The read side of a connection.
///
/// ```text
///     Open ──────────────── its end was read ────────────────► Ended(Finished)
///      │ │                  a read has failed ───────────────► Ended(Failed)
///      │ └ the dial took an error out of the socket
///      └──────────────────► Failing ─── its end was read ────► Ended(Failed)
/// ```
/// The task's word has no copy of it: `PEER_CLOSED` and `FAILED` say what the system has announced,
/// which may be ahead of what was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum ReadSide {
    #[default]
    Open,
    /// The socket still has bytes; after them the stream ends with this errno.
    Failing(i32),
    Ended(End),
}

/// What bounds the receives of the owner's reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pull {
    /// The turn of its callback: further bytes are received in the next turn.
    OfTheTurn,
    /// Only what the read asks for: nothing calls this owner again, or it may wait for the rest.
    MayWait,
}

impl Pull {
    #[inline]
    pub(super) fn of(shared: &Shared, wait: bool) -> Self {
        let group = &shared.group;
        if group.is_dialled() || (wait && group.may_wait()) {
            Self::MayWait
        } else {
            Self::OfTheTurn
        }
    }
}

/// The events that end a wait for bytes. The end of the stream and a failure come together with
/// READABLE; they are not awaited themselves, since they stay set.
const AWAITED: Events = Events::READABLE.or(Events::OVER);

/// How long a connection that holds a part of a request may wait for memory for its rest.
const PAUSED_AT_MOST: Duration = Duration::from_secs(5);
/// The same for a read that holds a thread, and how often that thread looks for memory.
const PATIENCE: Duration = Duration::from_secs(1);
const NEXT_LOOK: Duration = Duration::from_millis(10);

/// How the peer's stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// In order.
    Finished,
    /// With this errno.
    Failed(i32),
    /// Without the message by which the filter's protocol ends it in order.
    Truncated,
    /// The filter has refused what came; the output keeps why.
    Refused,
}

/// The result of one receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Received {
    Bytes,
    /// Bytes came that make none for the reader: a filter has used or kept them. There may be more.
    Silent,
    /// The socket is empty: an event will announce the next bytes.
    Nothing,
    /// The buffer is at its limit.
    Full,
    End(End),
}

impl Input {
    /// Whether it equals a new one, except for an unused account, which may serve the next
    /// connection. A buffer that has learnt to expect much is not new.
    #[inline]
    pub(crate) fn is_new(&mut self) -> bool {
        self.buffer.release();
        let is_idle = self.buffer.is_new() && !self.undrained && self.short_since.is_none();
        is_idle && self.side == ReadSide::Open && self.is_account_clear()
    }

    /// Whether there is no account, or one that any connection may use. An account within a budget
    /// belongs to one event loop; if it is unused, this drops it.
    #[inline]
    fn is_account_clear(&mut self) -> bool {
        let Some(account) = &self.account else { return true };
        let is_unused = is_unused(account);
        if is_unused && account.is_within() {
            self.account = None;
        }
        is_unused
    }

    /// Makes it new in the sense of [`is_new`](Self::is_new).
    pub(crate) fn clear(&mut self) {
        let account = self.account.take().filter(|it| is_unused(it) && !it.is_within());
        *self = Self { account, ..Self::default() };
    }

    /// Keeps the error of a failed stream until the bytes that the socket still has are read.
    pub(crate) fn fail_at_end(&mut self, error: &io::Error) {
        if let Some(errno) = error.raw_os_error() {
            self.side = ReadSide::Failing(errno);
        }
    }

    /// Whether nothing was sent since bytes last arrived.
    pub(crate) fn is_answered(&self, shared: &Shared) -> bool {
        self.sent_before == shared.output.sent()
    }

    /// Whether a read found too few bytes, and nothing has arrived since.
    pub(crate) fn is_unmet(&self, shared: &Shared) -> bool {
        self.unmet_at == Some(shared.received())
    }

    /// Counts all requests until now as answered.
    pub(crate) fn settle(&mut self, shared: &Shared) {
        (self.sent_before, self.unmet_at) = (shared.output.sent(), None);
    }

    /// An event has announced that the socket may have bytes.
    #[inline]
    pub(crate) fn announced(&mut self) {
        self.undrained = true;
    }

    #[inline]
    pub(crate) fn end(&self) -> Option<End> {
        match self.side {
            ReadSide::Ended(end) => Some(end),
            ReadSide::Open | ReadSide::Failing(_) => None,
        }
    }

    /// Gives the buffered bytes away. Later reads fail with `NotConnected`.
    pub(crate) fn detach(&mut self) -> LinkBuffer {
        self.undrained = false;
        self.side = ReadSide::Ended(End::Failed(NOT_CONNECTED));
        std::mem::take(&mut self.buffer)
    }

    /// Whether a receive may bring bytes or the end.
    #[inline]
    pub(crate) fn is_promising(&self, shared: &Shared, events: Events) -> bool {
        (self.undrained || events.has_any(Events::READABLE))
            && self.end().is_none()
            && self.buffer.len() < shared.input_limit()
    }

    /// Whether memory allows a receive that no read of a callback asked for; also `true` if there
    /// is nothing to receive. From a peer that is gone only the bytes that the kernel has can come,
    /// and the end is behind them.
    #[inline]
    pub(crate) fn may_receive(&self, shared: &Shared, events: Events) -> bool {
        let held = self.account.as_ref().map_or(0, Account::held);
        if shared.group.policy.memory.is_ample(held) || events.has_any(Events::PEER_GONE) {
            return true;
        }
        !self.is_promising(shared, events)
            || shared.group.policy.memory.allows(self.holding(shared), || shared.group.live())
    }

    fn holding(&self, shared: &Shared) -> Holding {
        let held = self.account.as_ref().map_or(0, Account::held);
        if !shared.group.policy.memory.has_budget() {
            return Holding { slices: held, all: held };
        }
        let slices = held.saturating_sub(self.buffer.held());
        // Blocks that were counted elsewhere, when written or for another connection, are not
        // counted here again.
        let (counted, queued) = shared.output.holds();
        Holding { slices, all: (held + counted).max(queued) }
    }

    /// Moves what is buffered and queued into less memory, since a receive lacks it. Returns
    /// whether a part of a request has waited for so long that other connections are to get its
    /// memory.
    pub(crate) fn wait_for_memory(&mut self, shared: &Shared) -> bool {
        let memory = &shared.group.policy.memory;
        if !memory.is_short() {
            return false;
        }
        self.buffer.compact();
        shared.output.compact();
        if self.buffer.is_empty() {
            return false;
        }
        let since = *self.short_since.get_or_insert_with(clock::now);
        memory.gives_up(since, PAUSED_AT_MOST)
    }

    /// Moves the next `n` bytes out, as a buffer with counted blocks.
    ///
    /// Not inlined: if the caller takes a `Result` of a whole buffer apart, the compiler copies it
    /// in overlapping pieces, each of which waits for the stores before it.
    #[inline(never)]
    pub(crate) fn slice(&mut self, shared: &Shared, n: usize) -> Result<LinkBuffer> {
        let mut slice = self.buffer.slice(n)?;
        if let Some(account) = self.account(shared) {
            slice.charge(account);
        }
        Ok(slice)
    }

    /// The next `n` bytes as a counted slice.
    pub(crate) fn read_bytes(&mut self, shared: &Shared, n: usize) -> Result<Bytes> {
        let Some(account) = self.account(shared).cloned() else {
            return Ok(self.buffer.read_bytes(n)?);
        };
        Ok(self.buffer.read_bytes_charged(n, &account)?)
    }

    #[inline]
    fn account(&mut self, shared: &Shared) -> Option<&Account> {
        if self.account.is_none() {
            self.account = shared.group.policy.memory.open_account();
        }
        self.account.as_ref()
    }

    /// One receive of at most `room` bytes, within a budget or through a filter.
    #[inline(never)]
    fn receive_by_detour(&mut self, shared: &Owner, room: usize) -> Received {
        if let Some(filtered) = shared.filtered()
            && let Some(received) = self.receive_filtered(shared, filtered, room)
        {
            return received;
        }
        let pulled = self.receive_within_budget(shared, room);
        self.note_pull(shared, pulled)
    }

    /// The same through the filter; `None` if there is none after all.
    fn receive_filtered(
        &mut self,
        shared: &Owner,
        filtered: &Filtered,
        room: usize,
    ) -> Option<Received> {
        let (memory, word) = (&shared.group.policy.memory, &shared.task.word);
        let (room, reserved) = memory.offer(room);
        let account = if memory.has_budget() { self.account_within(shared) } else { None };
        let incoming = filtered.receive(shared, room, &mut self.buffer, account.as_ref())?;
        if let Some(account) = &account {
            self.buffer.charge_added(account);
        }
        drop(reserved);
        Some(match incoming {
            Ok(Ok(Incoming { plain, wire, more })) => {
                self.undrained =
                    more || word.events().has_any(Events::PEER_GONE | Events::IN_PIECES);
                if plain == 0 {
                    self.pulled_by_reads += wire as u64;
                    return Some(Received::Silent);
                }
                self.note_memory(memory, plain);
                shared.count_received(plain);
                self.sent_before = shared.output.sent();
                Received::Bytes
            }
            Ok(Err(end)) => match self.side {
                ReadSide::Failing(errno) => self.ended(word, End::Failed(errno)),
                ReadSide::Open | ReadSide::Ended(_) => self.ended(word, end),
            },
            Err(error) => self.note_pull(shared, Err(error)),
        })
    }

    /// One pull, within what is left of the budget if there is one. Charges what has come.
    fn receive_within_budget(&mut self, shared: &Owner, room: usize) -> io::Result<Pulled> {
        let memory = &shared.group.policy.memory;
        let (room, reserved) = memory.offer(room);
        let pulled = shared.stream().pull(&mut self.buffer, room)?;
        if memory.has_budget()
            && let Some(account) = self.account_within(shared)
        {
            self.buffer.charge_added(&account);
        }
        drop(reserved);
        self.note_memory(memory, pulled.read);
        Ok(pulled)
    }

    /// The account, within the budget.
    pub(super) fn account_within(&mut self, shared: &Shared) -> Option<Account> {
        // An account that came with the scratch is within no budget.
        self.account.take_if(|account| !account.is_within());
        self.account(shared).cloned()
    }

    /// After a receive: no part of a request waits for memory, if it has just begun or there is
    /// enough.
    fn note_memory(&mut self, memory: &Memory, read: usize) {
        if self.buffer.len() == read || !memory.is_short() {
            self.short_since = None;
        }
    }

    /// One receive, if the socket may have something; of at most so many bytes (> 0).
    pub(crate) fn receive(&mut self, shared: &Owner, most: usize) -> Received {
        let word = &shared.task.word;
        if let Some(end) = self.end() {
            return Received::End(end);
        }
        let room = shared.input_limit().saturating_sub(self.buffer.len());
        if room == 0 {
            return Received::Full;
        }
        // Cleared before the read, so that an event that comes after the read stays.
        if word.clear(Events::READABLE) != Events::NONE {
            self.undrained = true;
        }
        if !self.undrained {
            return Received::Nothing;
        }
        let room = room.min(most);
        if shared.group.policy.detours() {
            return self.receive_by_detour(shared, room);
        }
        let pulled = shared.stream().pull(&mut self.buffer, room);
        self.note_pull(shared, pulled)
    }

    /// Notes what a pull has done.
    #[inline]
    fn note_pull(&mut self, shared: &Owner, pulled: io::Result<Pulled>) -> Received {
        let word = &shared.task.word;
        match pulled {
            Ok(pulled) if pulled.read == 0 => {
                let end = match self.side {
                    ReadSide::Failing(errno) => End::Failed(errno),
                    ReadSide::Open | ReadSide::Ended(_) => End::Finished,
                };
                self.ended(word, end)
            }
            Ok(pulled) => {
                shared.count_received(pulled.read);
                self.sent_before = shared.output.sent();
                // The end may follow, which was reported together with the last bytes.
                self.undrained =
                    !pulled.drained || word.events().has_any(Events::PEER_GONE | Events::IN_PIECES);
                Received::Bytes
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.undrained = false;
                Received::Nothing
            }
            Err(error) => self.ended(word, End::Failed(error.raw_os_error().unwrap_or(0))),
        }
    }

    /// Reads until `n` bytes are buffered. Waits for them if `wait` is set and this group may wait.
    #[inline]
    pub(crate) fn ensure(&mut self, shared: &Owner, n: usize, wait: bool) -> Result<()> {
        if self.buffer.len() >= n {
            return Ok(());
        }
        self.ensure_by(shared, n, wait, &mut None)
    }

    /// Reads until `needle` is buffered; returns where it begins. All its waits together have the
    /// timeout of one read. The buffer remembers how far it has looked.
    pub(crate) fn ensure_found(
        &mut self,
        shared: &Owner,
        needle: &[u8],
        wait: bool,
    ) -> Result<usize> {
        let mut deadline = None;
        loop {
            if let Some(at) = self.buffer.find_bytes(needle) {
                return Ok(at);
            }
            self.ensure_by(shared, self.buffer.len() + 1, wait, &mut deadline)?;
        }
    }

    fn ensure_by(
        &mut self,
        shared: &Owner,
        n: usize,
        wait: bool,
        deadline: &mut Option<Instant>,
    ) -> Result<()> {
        let outcome = self.fill(shared, n, wait, deadline);
        match outcome {
            Ok(()) => {}
            Err(Error::WouldBlock) => self.unmet_at = Some(shared.received()),
            Err(_) => shared.task.word.note(Events::FALTERED),
        }
        outcome
    }

    fn fill(
        &mut self,
        shared: &Owner,
        n: usize,
        wait: bool,
        deadline: &mut Option<Instant>,
    ) -> Result<()> {
        let limit = shared.input_limit();
        if n > limit && n > self.buffer.len() {
            return Err(Error::InputLimit { requested: n, limit });
        }
        let pull = Pull::of(shared, wait);
        while self.buffer.len() < n {
            if pull == Pull::OfTheTurn && !self.may_pull(shared) {
                return Err(Error::WouldBlock);
            }
            if wait && shared.group.policy.memory.has_budget() && shared.group.may_wait() {
                self.await_memory(shared, deadline)?;
            }
            match self.pull(shared) {
                Received::Bytes => {}
                Received::Silent => check_late(shared, deadline)?,
                Received::End(end) => return Err(error_at(end, shared)),
                Received::Nothing | Received::Full => self.wait(shared, deadline, wait)?,
            }
        }
        Ok(())
    }

    /// A receive for a read of the owner.
    fn pull(&mut self, shared: &Owner) -> Received {
        let before = shared.received();
        let received = self.receive(shared, usize::MAX);
        self.pulled_by_reads += shared.received() - before;
        received
    }

    /// Whether a callback may receive more in this turn. What it leaves in the socket stays
    /// announced, and the run receives it next.
    fn may_pull(&self, shared: &Shared) -> bool {
        self.pulled_by_reads < shared.group.limits().turn.bytes as u64
            && self.may_receive(shared, shared.task.word.events())
    }

    /// A callback has returned: the next one may receive `turn.bytes` again.
    #[inline]
    pub(crate) fn end_pulls(&mut self) {
        self.pulled_by_reads = 0;
    }

    fn wait(&self, shared: &Owner, deadline: &mut Option<Instant>, wait: bool) -> Result<()> {
        shared.check_over()?;
        if !wait || !shared.group.may_wait() {
            return Err(Error::WouldBlock);
        }
        if shared.task.word.events().has_any(AWAITED) {
            return Ok(());
        }
        let waiting =
            blocking::begin("read", shared.waits_for(), Some(Arc::<Shared>::clone(shared)))?;
        let timeout = begin_timeout(shared, deadline);
        self.note_partial(shared);
        let ends = || [timeout, shared.extras.read_deadline(), waiting.deadline()];
        let deadline = || ends().into_iter().flatten().min();
        match shared.task.word.wait(AWAITED, deadline) {
            Events::NONE => Err(Error::TimedOut(Wait::Read)),
            _ => Ok(()),
        }
    }

    /// Waits while memory for more bytes is missing, within the read timeout and for [`PATIENCE`]
    /// at the most, since the connections that hold memory may wait for memory too. A peer that is
    /// gone sends no more than the kernel has, so its bytes need no wait.
    fn await_memory(&mut self, shared: &Owner, deadline: &mut Option<Instant>) -> Result<()> {
        let (memory, word) = (&shared.group.policy.memory, &shared.task.word);
        if memory.allows_waiting(self.holding(shared)) {
            return Ok(());
        }
        self.buffer.compact();
        let waiting =
            blocking::begin("read", shared.waits_for(), Some(Arc::<Shared>::clone(shared)))?;
        let (timeout, begun) = (begin_timeout(shared, deadline), clock::now());
        while !memory.allows_waiting(self.holding(shared))
            && !word.events().has_any(Events::PEER_GONE)
        {
            shared.check_over()?;
            let ends = [timeout, shared.extras.read_deadline(), waiting.deadline()];
            let late = ends.into_iter().flatten().min();
            if late.is_some_and(|late| clock::now() >= late) {
                return Err(Error::TimedOut(Wait::Read));
            }
            if memory.gives_up(begun, PATIENCE) {
                return Err(Error::NoMemory);
            }
            let next_look = clock::now() + NEXT_LOOK;
            word.wait(Events::OVER, || Some(late.map_or(next_look, |late| late.min(next_look))));
        }
        Ok(())
    }

    /// Tells the time watch whether a part of a request is here. For the owner, before it waits or
    /// releases the connection. It costs one load while nothing changes. Where callbacks poll a
    /// future, which takes what has come, that future tells it.
    #[inline]
    pub(crate) fn note_partial(&self, shared: &Shared) {
        let word = &shared.task.word;
        match (word.events().has_any(Events::PARTIAL), self.buffer.is_empty()) {
            (true, true) if !shared.group.polls_futures() => _ = word.clear(Events::PARTIAL),
            (false, false) if !shared.group.polls_futures() => word.note(Events::PARTIAL),
            _ => {}
        }
    }

    fn ended(&mut self, word: &Word, end: End) -> Received {
        self.undrained = false;
        self.side = ReadSide::Ended(end);
        // The event may still be on its way, and `is_active` must not lag behind.
        word.note(Events::PEER_CLOSED);
        Received::End(end)
    }
}

/// The error of a read at the end of the stream.
#[cold]
pub(super) fn error_at(end: End, shared: &Shared) -> Error {
    match end {
        End::Finished => Error::EndOfStream,
        End::Truncated => Error::Truncated,
        End::Failed(errno) => io::Error::from_raw_os_error(errno).into(),
        End::Refused => shared.output.failure().map_or(Error::Closed, Error::from),
    }
}

/// A read goes on without a wait, though nothing came for it: a peer that sends such bytes without
/// end must not keep the read beyond its time.
fn check_late(shared: &Shared, deadline: &mut Option<Instant>) -> Result<()> {
    shared.check_over()?;
    let ends = [begin_timeout(shared, deadline), shared.extras.read_deadline()];
    if ends.into_iter().flatten().any(|end| end <= clock::now()) {
        return Err(Error::TimedOut(Wait::Read));
    }
    Ok(())
}

/// When a read that waits times out; the first wait of the read sets it.
fn begin_timeout(shared: &Shared, deadline: &mut Option<Instant>) -> Option<Instant> {
    if deadline.is_none() {
        let timeout = shared.timeouts().read;
        *deadline = timeout.and_then(|timeout| clock::now().checked_add(timeout));
    }
    *deadline
}

/// Whether no block is charged to an account.
#[inline]
fn is_unused(account: &Account) -> bool {
    account.held() == 0
}
