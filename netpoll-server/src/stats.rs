//! What an event loop has done so far.

use netpoll_core::{HandOffStats, LoopStats, PollManager, WorkerStats};

use crate::event_loop::EventLoop;

/// What an event loop has done so far. Each number is read by itself: they are of nearly the same
/// moment, and not of one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Connections that are open.
    pub connections: usize,
    /// Connections that were turned away: at a limit, by `on_prepare`, for want of a header or of
    /// descriptors.
    pub refused: u64,
    /// The main reactor, which accepts unless loops do, as a single one does; its connections are
    /// the loops'.
    pub main: LoopStats,
    /// The loops that connections are given to. Where several event loops share a manager, they
    /// share these.
    pub loops: Vec<LoopStats>,
    /// The threads that take loops over, those of the manager.
    pub hand_off: HandOffStats,
    /// The workers.
    pub workers: WorkerStats,
}

impl EventLoop {
    /// What it has done so far; all zero when it does not serve. Costs two locks that no hot path
    /// takes, and some loads per loop.
    pub fn stats(&self) -> Stats {
        let Some((group, main, manager)) = self.parts() else { return Stats::default() };
        let manager = manager.upgrade();
        let manager = manager.as_deref();
        Stats {
            connections: group.live(),
            refused: group.refused(),
            main: main.stats(),
            loops: manager.map(PollManager::stats).unwrap_or_default(),
            hand_off: manager.map(PollManager::hand_off_stats).unwrap_or_default(),
            workers: group.dispatcher().stats(),
        }
    }
}
