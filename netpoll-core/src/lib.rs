//! The reactors, connections, callbacks and workers of netpoll, on which its server and its client
//! are built. Users depend on the crate `netpoll`, which re-exports what they need.
//!
//! Start at [`PollManager`] for the threads, at [`Connection`] for what a callback works with, and
//! at [`OnRequest`] for what users implement. `ARCHITECTURE.md` draws how the parts fit together.

mod base;
#[doc(hidden)]
pub mod bench;
mod connection;
mod datagrams;
#[cfg(all(test, not(loom)))]
mod driver_suite;
mod io;
mod pure;
mod reactor;
mod sys;
mod tasks;
mod threads;

pub use base::address::{Address, parse_port};
pub use base::blocking;
pub use base::clock::{self, later};
pub use base::error::{CloseReason, Error, LimitReached, Result, Wait};
pub use base::filter_error::FilterError;
pub use base::limits::{LimitRow, Limits, MaxAge, OutputLimits, ReceiveRate, TurnLimits};
#[doc(hidden)]
pub use base::log_period::OncePer;
pub use base::memory::MemoryStats;
pub use base::notify::Notify;
pub use base::panic::{Panicked, guard};
pub use base::proxy;
pub use base::stats::{HandOffStats, LoopStats, WorkerStats};
#[doc(hidden)]
pub use connection::HandleSource;
pub use connection::accepted::admit;
pub use connection::broadcast;
pub use connection::callbacks::*;
pub use connection::dialled::{Attempt, AttemptOutcome, Handshake};
pub use connection::group::ConnectionGroup;
pub use connection::incoming::{Accept, Preamble, Room};
pub use connection::mailbox::Remote;
pub use connection::origin::{ListenerInfo, Origin, Release};
#[doc(hidden)]
pub use connection::pursuit::Pursuit;
pub use connection::relay::{Relay, RelayEnd, Relayed, relay};
pub use connection::schedule::Dispatcher;
pub use connection::spawned::{Place, TaskGroup};
pub use connection::{
    Carried, Connection, Delivery, Detached, Exchange, GoneWatch, Handle, Hold, NonBlocking,
    ReadHalf, ReadLimits, Reader, Timer, Undelivered, WriteHalf, Writer,
};
pub use datagrams::*;
pub use io::datagram::DatagramSocket;
pub use io::filter::{Filter, FilterClient, FilterServer, FilterState, Opened};
pub use io::socket::{self, TcpInfo};
pub use io::stream::Stream;
pub use pure::balance::{Balance, LoadBalance, LoopLoad};
pub use pure::join::JoinError;
pub use pure::spin::Spin;
#[doc(hidden)]
pub use pure::woken::Woken;
#[doc(hidden)]
pub use sys::ancillary::{Ancillary, Fault};
#[doc(hidden)]
pub use sys::datagram::address_of as peer_of;
pub use tasks::current::{InPlace, current_place, poll_budget};
pub use tasks::future::{refuse, spawn_at};
pub use tasks::join_handle::{AbortHandle, JoinHandle};
pub use tasks::timer::{Expiry, LoopTimer};
pub use threads::hand_off::{block_in_place, current_loop};
pub use threads::manager::{OnLoop, PollManager, default_loops};
pub use threads::options::{Dispatch, Gather, HandOffOptions, PoolOptions};
#[doc(hidden)]
pub use threads::pool::{Next, ThreadPool, ThreadPoolOptions};
#[doc(hidden)]
pub use threads::start::start_thread;
pub use threads::ticks::Ticks;
pub use threads::turn::Reactor;

#[cfg(test)]
mod tests {
    use super::*;

    fn crosses_threads<T: Send + Sync>() {}
    fn moves_between_threads<T: Send>() {}

    #[test]
    fn what_threads_share_may_be_shared() {
        crosses_threads::<Handle>();
        crosses_threads::<Remote>();
        crosses_threads::<ConnectionGroup>();
        crosses_threads::<PollManager>();
        moves_between_threads::<Connection>();
        moves_between_threads::<Reactor>();
        moves_between_threads::<reactor::Core>();
    }
}
