//! The top floor: the threads that turn reactors and run callbacks, and what decides which does.

mod asleep;
pub(crate) mod gather;
pub(crate) mod hand_off;
pub(crate) mod manager;
mod monitor;
pub(crate) mod options;
pub(crate) mod pool;
mod regroup;
mod scheduling;
pub(crate) mod start;
pub(crate) mod station;
pub(crate) mod takeover;
#[cfg(all(test, not(loom)))]
mod tasks_tests;
pub(crate) mod ticks;
pub(crate) mod turn;
mod waiting_jobs;
mod workers;
