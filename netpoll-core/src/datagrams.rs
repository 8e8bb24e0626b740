//! Datagram sockets on the loops of connections: batches in, gathered answers out.
//!
//! ```text
//!   kernel ── recvmmsg ──► places ──► on_datagrams ──► staged ── sendmmsg ──► kernel
//!                          (this thread's)               │ no room
//!   other threads ── Handle::send_to ────────────────► Outbox ── when it has room ──► kernel
//! ```
//! A socket is a task (`task.rs`): its word says which thread owns it, and the owner receives,
//! calls back and sends (`run.rs`). So it runs where connections run, in all modes, and is handed
//! off when a callback blocks. What the kernel does not take at once waits in the outbox
//! (`outbox.rs`), from which the reactor sends on while a callback is busy.

mod batch;
mod callbacks;
mod client;
mod handle;
mod limits;
mod outbox;
mod run;
mod scratch;
mod staged;
mod stats;
mod task;

pub use batch::{Datagram, DatagramBatch, Iter as DatagramIter};
pub use callbacks::{DatagramCallbacks, DatagramService, OnDatagrams, OnOpen, PrepareDatagrams};
pub use client::{DatagramClient, Payloads};
pub use handle::DatagramHandle;
pub use limits::{DatagramLimits, WhenFull};
pub use stats::DatagramStats;
pub use task::{DatagramStart, OnWatched, serve_datagrams, serve_datagrams_from};

#[cfg(all(test, not(loom)))]
mod tests;
