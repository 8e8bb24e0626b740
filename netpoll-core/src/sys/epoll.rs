//! The system calls of epoll.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::raw;

pub(crate) use nix::sys::epoll::{EpollEvent as RawEvent, EpollFlags as RawFlags};

/// An epoll instance.
#[derive(Debug)]
pub(crate) struct EpollFd(Epoll);

impl EpollFd {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?))
    }

    /// Registers `fd` for good: edge-triggered, for both directions.
    pub(crate) fn add(&self, fd: BorrowedFd<'_>, flags: EpollFlags, data: u64) -> io::Result<()> {
        Ok(self.0.add(fd, EpollEvent::new(flags | EpollFlags::EPOLLET, data))?)
    }

    /// Registers a listener: level-triggered. It is reported for as long as a connection waits in
    /// its queue, so no accept has to find the queue empty to know that it is.
    pub(crate) fn add_listener(&self, fd: BorrowedFd<'_>, data: u64) -> io::Result<()> {
        Ok(self.0.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, data))?)
    }

    /// Registers another instance: level-triggered, so one that was not emptied is reported again.
    pub(crate) fn add_instance(&self, other: &Self, data: u64) -> io::Result<()> {
        Ok(self.0.add(&other.0.0, EpollEvent::new(EpollFlags::EPOLLIN, data))?)
    }

    pub(crate) fn remove_instance(&self, other: &Self) -> io::Result<()> {
        Ok(self.0.delete(&other.0.0)?)
    }

    pub(crate) fn remove(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        Ok(self.0.delete(fd)?)
    }

    /// Waits for events; `None` waits for ever. An interrupted wait returns 0 events.
    #[expect(clippy::inline_always, reason = "each turn; a call costs it 13 instructions")]
    #[inline(always)]
    pub(crate) fn wait(
        &self,
        events: &mut [EpollEvent],
        timeout: Option<Duration>,
    ) -> io::Result<usize> {
        match raw::wait_for_events(self.0.0.as_fd(), events, milliseconds(timeout).into()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            outcome => outcome,
        }
    }
}

/// Rounded up, so that a timer of less than a millisecond sleeps instead of spinning through zeros.
fn milliseconds(timeout: Option<Duration>) -> EpollTimeout {
    let Some(timeout) = timeout else {
        return EpollTimeout::NONE;
    };
    let rounded = timeout.saturating_add(Duration::from_nanos(999_999)).as_millis();
    EpollTimeout::from(u16::try_from(rounded).unwrap_or(u16::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_of_a_fraction_of_a_millisecond_is_not_a_busy_poll() {
        assert_eq!(milliseconds(Some(Duration::from_micros(1))), EpollTimeout::from(1u8));
        assert_eq!(milliseconds(Some(Duration::ZERO)), EpollTimeout::ZERO);
        assert_eq!(milliseconds(Some(Duration::MAX)), EpollTimeout::from(u16::MAX));
        assert_eq!(milliseconds(None), EpollTimeout::NONE);
    }
}
