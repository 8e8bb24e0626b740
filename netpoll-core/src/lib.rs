//! The reactors, connections, callbacks and workers of netpoll: what its server and its client
//! stand on. Users depend on the crate `netpoll`, which re-exports what they need.
//!
//! Start at [`PollManager`] for the threads, at [`Connection`] for what a callback holds, and at
//! [`OnRequest`] for what users implement. `ARCHITECTURE.md` draws how they hang together.

mod address;
mod admit;
mod balance;
mod baton;
#[doc(hidden)]
pub mod bench;
mod berths;
pub mod blocking;
mod callbacks;
#[cfg(all(test, not(loom)))]
mod chance;
mod connection;
mod dial;
mod dispatch;
mod error;
mod forecast;
mod group;
mod hand_off;
mod limits;
mod manager;
mod memory;
mod monitor;
mod operator;
mod origin;
mod poll;
mod reactor;
mod runner;
mod slab;
pub mod socket;
mod spares;
mod spin;
mod starter;
mod stats;
mod sync;
mod sys;
mod task;
mod ticks;
mod timer;
mod waits;
mod waker;
mod watchdog;
mod workers;

pub use address::{Address, parse_port};
pub use admit::admit;
pub use balance::{Balance, LoadBalance, LoopLoad};
pub use callbacks::{
    Callbacks, OnConnect, OnDisconnect, OnDrain, OnHighWater, OnPrepare, OnRequest, OnShutdown,
    Panicked, Prepare, guard,
};
pub use connection::{
    Connection, Delivery, Detached, Exchange, Handle, ReadHalf, Reader, Timer, Undelivered,
    WriteHalf, Writer,
};
pub use dial::{Attempt, Doorbell, Outcome};
pub use dispatch::{Dispatch, Dispatcher, HandOffOptions, PoolOptions};
pub use error::{CloseReason, Error, Exceeded, Result, Wait};
pub use group::Group;
pub use hand_off::block_in_place;
pub use limits::{LimitRow, Limits, OutputLimits, ReceiveRate, TurnLimits};
pub use manager::{OnLoop, PollManager, default_loops};
pub use memory::MemoryStats;
pub use operator::{Accept, Preamble, Room};
pub use origin::{Entrance, ListenerInfo, Origin};
pub use reactor::{Reactor, Remote, later};
pub use spin::Spin;
pub use stats::{HandOffStats, LoopStats, WorkerStats};
pub use ticks::Ticks;

#[cfg(test)]
mod tests {
    use super::*;

    fn crosses_threads<T: Send + Sync>() {}
    fn moves_between_threads<T: Send>() {}

    #[test]
    fn what_threads_share_may_be_shared() {
        crosses_threads::<Handle>();
        crosses_threads::<Remote>();
        crosses_threads::<Group>();
        crosses_threads::<PollManager>();
        moves_between_threads::<Connection>();
        moves_between_threads::<Reactor>();
        moves_between_threads::<reactor::Core>();
    }
}
