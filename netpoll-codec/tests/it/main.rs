//! What a user of the crate may rely on.
#![expect(clippy::unwrap_used, reason = "a test that can't go on says so by panicking")]

mod delimiters;
mod encode;
mod frames;
mod lengths;
mod model;
mod refused;
mod splits;
