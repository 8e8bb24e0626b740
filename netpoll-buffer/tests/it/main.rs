//! What a user of the crate may rely on.
#![expect(clippy::unwrap_used, reason = "a test that can't go on says so by panicking")]

mod account;
mod alone;
mod memory;
mod misuse;
mod model;
mod queue;
mod returned;
mod search;
mod socket;
mod steady;
