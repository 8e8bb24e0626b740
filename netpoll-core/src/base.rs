//! The ground floor: what every other floor stands on. It has no descriptor, starts no
//! thread and imports no other floor.

pub(crate) mod address;
pub mod blocking;
#[cfg(all(test, not(loom)))]
pub(crate) mod chance;
pub mod clock;
pub(crate) mod error;
pub(crate) mod filter_error;
pub(crate) mod limits;
pub(crate) mod log_period;
pub(crate) mod memory;
pub(crate) mod notify;
pub(crate) mod panic;
pub mod proxy;
pub(crate) mod stats;
pub(crate) mod sync;
pub(crate) mod thread_number;
pub(crate) mod waits;
