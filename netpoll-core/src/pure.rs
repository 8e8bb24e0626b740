//! State machines without a descriptor and without a clock: the caller passes the time in, and
//! each is tested alone.

pub(crate) mod balance;
pub(crate) mod batching;
pub(crate) mod baton;
pub(crate) mod deadlines;
pub(crate) mod future_task;
pub(crate) mod gather;
pub(crate) mod join;
pub(crate) mod placement;
pub(crate) mod slab;
pub(crate) mod spin;
pub(crate) mod streak;
pub(crate) mod task;
pub(crate) mod tick;
pub(crate) mod timer;
pub(crate) mod timer_entry;
pub(crate) mod woken;
