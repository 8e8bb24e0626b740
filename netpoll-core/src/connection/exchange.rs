//! The exchange: whether an answer may still come on a dialled connection. For pools.

use super::input::Received;
use super::{Connection, scratch_of};
use crate::pure::task::Events;

/// Whether an answer may still come, as [`Connection::exchange`] finds it.
///
/// The next user of a pooled connection would read a late byte as the answer to another question. A
/// transport does not know which byte answers what, so without the protocol it can't see more than
/// this: it does not see that one of several requests is not answered, or that the rest of an
/// answer has not arrived and no read asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exchange {
    /// Nothing has failed, nothing is unread or unsent, and bytes have arrived since the last were
    /// sent, or nothing was sent.
    Complete,
    /// The connection is closed or has failed, on this side or on the peer's.
    Over,
    /// A read or a flush has failed, for instance by a timeout; or the last read asked for more
    /// bytes than have arrived.
    Failed,
    /// Not all that was written is sent.
    Unsent,
    /// Some bytes that have arrived are not read.
    Unread,
    /// Bytes were sent, here or by a handle, and none have arrived since.
    Unanswered,
}

/// After so many receives of bytes that are none for the reader, such as the tickets of TLS, there
/// is no end to them.
const SILENT_AT_MOST: usize = 8;

impl Connection {
    /// Whether an answer may still come, as far as this side can see. For a connection that its
    /// caller drives. Costs a lock and a receive, which looks for bytes and for the peer's end.
    /// Never waits.
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
        // Events say what the reactor has seen, and the socket may be ahead of it.
        let Self { shared, scratch } = self;
        let input = &mut scratch_of(scratch, shared).input;
        input.announced();
        let mut received = input.receive(shared, usize::MAX);
        for _ in 0..SILENT_AT_MOST {
            if received == Received::Silent {
                received = input.receive(shared, usize::MAX);
            }
        }
        match received {
            Received::Nothing => {}
            Received::Bytes | Received::Silent | Received::Full => return Exchange::Unread,
            Received::End(_) => return Exchange::Over,
        }
        if input.is_answered(shared) { Exchange::Complete } else { Exchange::Unanswered }
    }

    /// Declares that no answer is outstanding, whatever was sent or has failed until now: for a
    /// caller that knows the protocol. [`exchange`](Self::exchange) counts from here.
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
