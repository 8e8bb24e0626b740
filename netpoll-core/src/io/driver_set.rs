//! Several drivers that one thread waits for at once.
//!
//! An epoll instance can be watched by another one, so one `epoll_ctl` adds a loop with all of its
//! streams, listeners and its waker. An instance in the set is level-triggered: it is reported for
//! as long as it has an event that its own wait has not taken. Only one level is ever nested.

use std::io::{self, ErrorKind};
use std::time::Duration;

use super::driver::Driver;
use crate::sys::epoll::{EpollFd, RawEvent};

/// See the module.
#[derive(Debug)]
pub(crate) struct DriverSet {
    epoll: EpollFd,
    /// As long as the highest place that was ever watched.
    raw: Vec<RawEvent>,
}

impl DriverSet {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { epoll: EpollFd::new()?, raw: vec![RawEvent::empty()] })
    }

    /// Watches a driver, which is reported as `place`.
    ///
    /// # Errors
    /// The system's: too many watches, no memory; `Unsupported` for a driver of another kind.
    pub(crate) fn add(&mut self, driver: &dyn Driver, place: usize) -> io::Result<()> {
        let its = driver.epoll().ok_or(ErrorKind::Unsupported)?;
        self.epoll.add_instance(its, place as u64)?;
        if self.raw.len() <= place {
            self.raw.resize(place + 1, RawEvent::empty());
        }
        Ok(())
    }

    /// Stops watching a driver.
    ///
    /// # Errors
    /// As [`add`](Self::add), where it was not watched.
    pub(crate) fn remove(&mut self, driver: &dyn Driver) -> io::Result<()> {
        self.epoll.remove_instance(driver.epoll().ok_or(ErrorKind::Unsupported)?)
    }

    /// Waits, `timeout` at the most, until a driver has events; calls `ready` with the place of
    /// each that has some. An interrupted wait reports none.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn wait(
        &mut self,
        timeout: Option<Duration>,
        mut ready: impl FnMut(usize),
    ) -> io::Result<()> {
        let count = self.epoll.wait(&mut self.raw, timeout)?;
        for raw in &self.raw[..count] {
            if let Ok(place) = usize::try_from(raw.data()) {
                ready(place);
            }
        }
        Ok(())
    }
}
