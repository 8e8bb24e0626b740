//! The send half of a filter in an output: what is sealed, and what of it the socket has taken.
//!
//! ```text
//!   plain   │ record │ record │ record │ not sealed yet ...     the bytes that the output counts
//!               │         │        │
//!   wire           [####   ][#########]                         sealed, not taken by the socket
//!            taken ──►
//! ```
//! The output goes on counting plain bytes. Those of a record count as taken when the socket has
//! taken the last byte of the record; until then they stay where they are queued. What the filter
//! says by itself stands between records, and counts as nothing.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use netpoll_buffer::LinkBuffer;

use crate::base::filter_error::FilterError;
use crate::base::memory::{Memory, Tally};
use crate::base::panic::guard_quietly;
use crate::io::filter::Filter;

/// Nothing more is sealed while so many bytes wait for the socket: several records leave in one
/// system call, and a peer that does not read makes an output hold no more than this beside its
/// queue.
const AHEAD: usize = 128 << 10;
/// What may wait for the socket in all. Only what the filter says by itself comes on top of
/// [`AHEAD`] and one record; the peer causes it.
const WAITING_AT_MOST: usize = 256 << 10;

/// The send half of a filter.
#[derive(Debug)]
pub(super) struct Sealing {
    /// `None` before the handshake begins.
    filter: Option<Arc<dyn Filter>>,
    stage: Stage,
    /// What the socket has not taken.
    wire: LinkBuffer,
    /// How many bytes at the front of the queue are sealed.
    sealed: usize,
    records: VecDeque<Record>,
    /// How many bytes were made for the wire, and how many of them the socket has taken.
    made: u64,
    taken: u64,
    /// How many of them come before what the filter says.
    begin: u64,
    /// Counts `wire`, if there is a budget.
    tally: Option<Tally>,
    /// Why the filter has failed.
    error: Option<FilterError>,
}

/// What may be sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nothing yet: what is sent waits for the end of the handshake.
    Handshaking,
    Open,
    /// Nothing more: our stream was ended, or the filter has failed.
    Over,
}

#[derive(Debug)]
struct Record {
    plain: usize,
    /// It was taken when so many bytes were.
    end: u64,
}

impl Sealing {
    pub(super) fn new(memory: &Memory) -> Self {
        Self {
            filter: None,
            stage: Stage::Handshaking,
            wire: LinkBuffer::new(),
            sealed: 0,
            records: VecDeque::new(),
            made: 0,
            taken: 0,
            begin: 0,
            tally: memory.open_tally(),
            error: None,
        }
    }

    pub(super) fn set_filter(&mut self, filter: Arc<dyn Filter>) {
        self.filter = Some(filter);
    }

    /// Puts bytes before all that the filter says; `false` once it may have said something. They
    /// are sent with the first of that.
    pub(super) fn begin_with(&mut self, bytes: Bytes) -> bool {
        if self.filter.is_some() {
            return false;
        }
        self.made += bytes.len() as u64;
        self.begin = self.made;
        self.wire.write_shared(bytes);
        self.wire.flush();
        true
    }

    pub(super) fn stage(&self) -> Stage {
        self.stage
    }

    /// The handshake is over: what was accepted may be sealed.
    pub(super) fn open(&mut self) {
        if self.stage == Stage::Handshaking {
            self.stage = Stage::Open;
        }
    }

    /// The socket has failed: nothing waits for it any more, and nothing more is sealed.
    pub(super) fn lose(&mut self) {
        self.forget_plain();
        self.wire.clear();
        self.count();
    }

    /// Drops what the filter has said and the socket has not taken, but not what comes before that.
    pub(super) fn drop_said(&mut self) {
        let kept = usize::try_from(self.begin.saturating_sub(self.taken)).unwrap_or(usize::MAX);
        if let Ok(before) = self.wire.slice(kept.min(self.wire.len())) {
            self.wire = before;
        }
        self.count();
    }

    /// Writes what the filter says by itself to the wire.
    pub(super) fn say(&mut self) -> Result<(), FilterError> {
        self.write(|filter, wire| {
            filter.say(wire);
            Ok(())
        })?;
        if self.wire.len() <= WAITING_AT_MOST {
            return Ok(());
        }
        Err(FilterError::new(
            "the peer asks for answers and takes none: too many bytes wait for it",
        ))
    }

    /// Ends our stream in order, if anything was sealed or could have been.
    pub(super) fn finish(&mut self) -> Result<(), FilterError> {
        if std::mem::replace(&mut self.stage, Stage::Over) != Stage::Open {
            return Ok(());
        }
        self.write(|filter, wire| {
            filter.finish(wire);
            Ok(())
        })
    }

    /// Fails with this error, unless it has failed before.
    pub(super) fn fail(&mut self, error: FilterError) {
        self.stage = Stage::Over;
        self.error.get_or_insert(error);
    }

    /// Seals what is queued and not sealed yet, up to what may wait for the socket.
    pub(super) fn seal_ahead(&mut self, queued: &LinkBuffer) -> Result<(), FilterError> {
        while self.stage == Stage::Open && self.sealed < queued.len() && self.wire.len() < AHEAD {
            let from = self.sealed;
            let taken = self.write(|filter, wire| filter.seal(queued, from, wire))?;
            if taken == 0 || taken > queued.len() - from {
                let left = queued.len() - from;
                let text = format!("the filter claims to have sealed {taken} of {left} bytes");
                return Err(FilterError::new(text));
            }
            self.sealed += taken;
            self.records.push_back(Record { plain: taken, end: self.made });
        }
        Ok(())
    }

    /// What is to be sent.
    pub(super) fn wire(&self) -> &LinkBuffer {
        &self.wire
    }

    /// The socket has taken `n` bytes; returns how many bytes at the front of the queue are sent by
    /// that.
    pub(super) fn took(&mut self, n: usize) -> usize {
        self.wire.consume(n);
        self.taken += n as u64;
        let mut plain = 0;
        while self.records.front().is_some_and(|record| record.end <= self.taken) {
            plain += self.records.pop_front().map_or(0, |record| record.plain);
        }
        self.sealed -= plain;
        if self.wire.is_empty() {
            self.wire.clear();
        }
        plain
    }

    /// After bytes were made or taken: counts what waits.
    pub(super) fn count(&mut self) {
        if let Some(tally) = &mut self.tally {
            tally.update(&mut self.wire);
        }
    }

    /// The memory of what waits, if there is a budget.
    pub(super) fn held(&self) -> usize {
        self.tally.as_ref().map_or(0, Tally::held)
    }

    /// The queue was given up.
    pub(super) fn forget_plain(&mut self) {
        self.stage = Stage::Over;
        self.sealed = 0;
        self.records.clear();
    }

    pub(super) fn is_drained(&self) -> bool {
        self.wire.is_empty()
    }

    pub(super) fn error(&self) -> Option<FilterError> {
        self.error.clone()
    }

    /// Has the filter write to the wire. It runs under the output's lock.
    fn write<R>(
        &mut self,
        write: impl FnOnce(&dyn Filter, &mut LinkBuffer) -> Result<R, FilterError>,
    ) -> Result<R, FilterError> {
        let Some(filter) = &self.filter else {
            return Err(FilterError::new("a connection has no filter before its handshake"));
        };
        let before = self.wire.len();
        let written = guard_quietly(|| write(&**filter, &mut self.wire));
        self.wire.flush();
        self.made += (self.wire.len() - before) as u64;
        written.unwrap_or_else(|text| Err(FilterError::panicked(&text)))
    }
}
