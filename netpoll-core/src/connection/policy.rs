//! What all connections of a group have in common and never change: limits, memory, and whether
//! callers or callbacks drive them.

use crate::base::limits::Limits;
use crate::base::memory::Memory;
use crate::base::sync::{AtomicBool, Ordering};

/// So many times the high-water mark one callback may queue before its flushes wait.
const STREAMED: usize = 4;

/// The policy of a group's connections.
#[derive(Debug)]
pub(crate) struct Policy {
    pub(crate) limits: Limits,
    pub(crate) memory: Memory,
    /// Callers drive the connections, not callbacks.
    pub(crate) is_dialled: bool,
    /// The connections are read while their output is above its high-water mark.
    pub(crate) reads_when_congested: bool,
    /// The callbacks poll a future, which decides when a shutdown or the end of the peer's stream
    /// ends the connection.
    pub(crate) polls_futures: bool,
    /// A receive has more to ask than the socket: there is a memory budget, or some connection has
    /// a filter. One load tells that it has not.
    pub(super) detours: AtomicBool,
}

impl Policy {
    /// The policy of connections that callbacks drive.
    pub(crate) fn new(limits: Limits) -> Self {
        let memory = Memory::new(&limits);
        let detours = AtomicBool::new(memory.has_budget());
        Self {
            limits,
            memory,
            is_dialled: false,
            reads_when_congested: false,
            polls_futures: false,
            detours,
        }
    }

    #[inline]
    pub(crate) fn detours(&self) -> bool {
        self.detours.load(Ordering::Relaxed)
    }

    /// From here on receives ask whether their connection has a filter. To be called before such a
    /// connection is shown to other threads.
    pub(crate) fn expect_filters(&self) {
        self.detours.store(true, Ordering::Relaxed);
    }

    /// Above how many queued bytes a flush waits. Nothing else slows the caller of a dialled
    /// connection down. A callback is not called while the queue stands above its high-water mark,
    /// so its flush waits only if that one callback adds several times as much.
    pub(crate) fn waits_above(&self) -> usize {
        let high = self.limits.output.high;
        if self.is_dialled { high } else { high.saturating_mul(STREAMED) }
    }
}
