//! The seam between reactors and the system: the driver, the streams that it hands out, its waker.

pub(crate) mod driver;
mod epoll;
pub mod socket;
pub(crate) mod waker;
