//! Tasks without a connection: futures on the loops, the handles that join them, and the place that
//! a poll spawns into.

pub(crate) mod current;
pub(crate) mod future;
pub(crate) mod join_handle;
pub(crate) mod timer;
