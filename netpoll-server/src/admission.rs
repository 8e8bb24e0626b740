//! Admission: limits on how many connections are open and on how fast they come.
//!
//! ```text
//!   ListenerCount::room   how many sockets an acceptor may take out of the kernel's queue now
//!   Permit::obtain        a permit, held until the socket is a connection, or the limit it met
//!   Permit::redeem        gives the permit's place to the connection, until its socket has closed
//!   a drop of the permit, or that close: counts one less, and wakes acceptors that had no room
//! ```

mod limits;
mod permit;
mod policy;
mod rate;

pub(crate) use limits::Admission;
pub(crate) use permit::{ListenerCount, Permit};
pub use policy::{AcceptLimit, AtLimit, Incoming, OnAccept, OnRefuse, Refusal, Verdict};
pub(crate) use policy::{AdmissionOptions, Asked};
