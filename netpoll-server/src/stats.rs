//! What an event loop has done so far.

use netpoll_core::{DatagramStats, HandOffStats, LoopStats, PollManager, WorkerStats};

use crate::datagrams::FlowStats;
use crate::event_loop::EventLoop;

/// What an event loop has done so far. Each number is read by itself: the numbers are of nearly the
/// same moment, not of exactly one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct EventLoopStats {
    /// Connections that are open.
    pub connections: usize,
    /// Connections that were refused: by `on_accept`, at a limit, by `on_prepare`, without a PROXY
    /// header where one is expected, or because descriptors had run out.
    pub refused: u64,
    /// Connections of these that `on_accept` refused.
    pub refused_on_accept: u64,
    /// The main reactor, which accepts unless loops accept for themselves, as a single loop does.
    /// Connections that it accepts are counted by their loops.
    pub main: LoopStats,
    /// The loops that connections are given to. Event loops that share a manager share these.
    pub loops: Vec<LoopStats>,
    /// The manager's threads that take loops over.
    pub hand_off: HandOffStats,
    /// The workers.
    pub workers: WorkerStats,
    /// The sockets of datagrams, all together.
    pub datagrams: DatagramStats,
    /// The flows of sockets of datagrams that have flows.
    pub flows: FlowStats,
}

impl EventLoop {
    /// What it has done so far; all zero when it does not serve. Costs two locks that no hot path
    /// takes, and some loads per loop.
    pub fn stats(&self) -> EventLoopStats {
        let Some((context, manager)) = self.parts() else { return EventLoopStats::default() };
        let (group, main) = (&context.group, &context.main);
        let manager = manager.upgrade();
        let manager = manager.as_deref();
        let listeners = self.listeners();
        EventLoopStats {
            connections: group.live(),
            refused: group.refused(),
            refused_on_accept: context.admission.unwanted(),
            main: main.stats(),
            loops: manager.map(PollManager::stats).unwrap_or_default(),
            hand_off: manager.map(PollManager::hand_off_stats).unwrap_or_default(),
            workers: group.dispatcher().stats(),
            datagrams: listeners.as_ref().map(|it| it.datagrams.stats()).unwrap_or_default(),
            flows: listeners.map(|it| it.datagrams.flow_stats()).unwrap_or_default(),
        }
    }
}
