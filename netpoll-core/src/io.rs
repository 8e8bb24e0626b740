//! The seam between reactors and the system: drivers, and the streams and listeners behind them.
//!
//! ```text
//!   reactor ──► Driver    watch, connect, forget, listen, wait ──► events
//!   others  ──► Waker     ends the driver's wait
//!   owner   ──► Stream    pull, push, end, reset: on the caller's own thread
//!   server  ──► Listener  accept, close
//!                 │
//!          epoll, descriptors          memory: pipes of bytes, for tests
//! ```
//! Nothing above this floor knows which driver runs. Above it a descriptor is named only where it
//! is the user's, and a system call only where it is about a thread.

pub(crate) mod datagram;
pub(crate) mod driver;
pub(crate) mod driver_set;
mod epoll;
pub(crate) mod filter;
pub(crate) mod listener;
#[cfg(all(test, not(loom)))]
pub(crate) mod memory;
pub(crate) mod readiness;
pub mod socket;
pub(crate) mod stream;
pub(crate) mod waker;

use std::io;

use crate::sys::eventfd::EventFd;
use driver::Driver;
use epoll::Epoll;
use waker::Waker;

/// Opens the driver of this system, with what wakes it.
pub(crate) fn open() -> io::Result<(Box<dyn Driver>, Waker)> {
    let event = EventFd::new()?;
    let driver = Epoll::new(&event)?;
    Ok((Box::new(driver), Waker::new(event.into())))
}
