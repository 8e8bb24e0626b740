//! TLS as a filter, without a socket: two ends in memory, of which one may be rustls's own.
#![expect(clippy::unwrap_used, reason = "a test that can't go on says so by panicking")]

mod adopted;
mod certificates;
mod computing;
mod dialled;
mod ends;
mod errors;
mod handshake;
mod hostile;
mod identities;
mod interrupted;
mod mutated;
mod records;
mod reload;
mod served;
mod stopping;
