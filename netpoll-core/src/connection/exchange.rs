//! Whether an exchange on a dialled connection is over, so that the next may begin: for pools.

use super::input::Received;
use super::{Connection, scratch_of};
use crate::pure::task::Events;

/// What [`Connection::exchange`] finds: whether an answer may still come.
///
/// A byte that comes late is read by the next caller that is given the connection, as an answer to
/// another question. No transport knows which byte answers what, so this is as much as can be told
/// without the protocol: it does not see that of several requests one is not answered, or that the
/// rest of an answer has not arrived and was not asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exchange {
    /// Nothing failed, nothing is unread or unsent, and bytes have arrived since the last were
    /// sent; or nothing was sent at all.
    Complete,
    /// The connection is closed or failed, on this side or the peer's.
    Over,
    /// A read or a flush has failed, after a timeout for instance; or the last read wanted more
    /// than has arrived.
    Failed,
    /// What was written is not all sent.
    Unsent,
    /// Bytes have arrived that were not read.
    Unread,
    /// Bytes were sent, here or by a handle, and none has arrived since.
    Unanswered,
}

impl Connection {
    /// Whether an answer may still come, as far as this side can tell. For a connection that its
    /// caller drives. Costs a lock and a receive, which looks for bytes and for the peer's end.
    pub fn exchange(&mut self) -> Exchange {
        if !self.is_active() {
            return Exchange::Over;
        }
        if self.has_failed() {
            return Exchange::Failed;
        }
        if self.writer().malloc_len() > 0 || self.writer().pending() > 0 {
            return Exchange::Unsent;
        }
        if !self.reader().is_empty() {
            return Exchange::Unread;
        }
        // Edges say what the reactor has seen; the socket knows.
        let Self { shared, scratch } = self;
        let input = &mut scratch_of(scratch, shared).input;
        input.announced();
        match input.receive(shared) {
            Received::Nothing => {}
            Received::Bytes | Received::Full => return Exchange::Unread,
            Received::End(_) => return Exchange::Over,
        }
        if input.is_answered(shared) { Exchange::Complete } else { Exchange::Unanswered }
    }

    /// Says that no answer is outstanding, whatever was sent and whatever has failed until now: for
    /// a caller that knows the protocol. [`exchange`](Self::exchange) takes it from here.
    pub fn settle(&mut self) {
        let Self { shared, scratch } = self;
        shared.task.word.clear(Events::FALTERED);
        scratch_of(scratch, shared).input.settle(shared);
    }

    fn has_failed(&mut self) -> bool {
        let Self { shared, scratch } = self;
        let faltered = shared.task.word.events().has_any(Events::FALTERED);
        faltered || scratch_of(scratch, shared).input.is_unmet(shared)
    }
}
