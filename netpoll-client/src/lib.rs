//! The client side of netpoll: dialling.
//!
//! Users depend on the crate `netpoll`, which re-exports this one.

#![forbid(unsafe_code)]

mod dialer;

pub use dialer::{DialConnection, Dialer, dial_connection};
