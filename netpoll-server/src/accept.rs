//! Accepting: from a listening socket to a connection on one of the loops.
//!
//! ```text
//!   OpenListeners ── the listeners of an event loop, each with its sockets
//!        │
//!   Assignment ───── which reactor accepts on one socket, now and when loops come and go
//!        │ makes
//!   Acceptor ─────── called by that reactor: how many, a stream, a failure
//!        │ with a permit of admission/; behind a proxy by way of Pending, which waits for the
//!        │ header (proxy/)
//!   AcceptContext ── admits the stream to a loop, or refuses it
//! ```
//! An assignment and its acceptor have a `ListeningSocket` in common, and all acceptors of an event
//! loop the `AcceptContext`.

pub(crate) mod acceptor;
pub(crate) mod assignment;
mod backoff;
pub(crate) mod context;
pub(crate) mod listening_socket;
pub(crate) mod open_listeners;
mod pending;
