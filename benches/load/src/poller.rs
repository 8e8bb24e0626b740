//! Waiting: an epoll instance, and a timer that is finer than its timeout.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::connection::{Connection, Interest};

/// Events that one wait reports at most.
const EVENTS_MAX: usize = 1024;
/// The token of the timer; the token of a connection is its index.
const TIMER: u64 = u64::MAX;

#[derive(Debug)]
pub(crate) struct Poller {
    epoll: Epoll,
    timer: TimerFd,
    events: Box<[EpollEvent]>,
}

/// What happened on a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Event {
    pub(crate) index: usize,
    /// Whether there is something to read: bytes, an end or an error.
    pub(crate) answers: bool,
}

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC)?;
        // Never read: each time that it runs out is an edge.
        let edge = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
        epoll.add(timer.as_fd(), EpollEvent::new(edge, TIMER))?;
        Ok(Self { epoll, timer, events: vec![EpollEvent::empty(); EVENTS_MAX].into() })
    }

    /// Registers a connection, unless it is. A closed socket leaves the set by itself.
    pub(crate) fn hear_of(
        &self,
        connection: &mut Connection,
        index: usize,
        interest: Interest,
    ) -> io::Result<()> {
        let Some(fd) = connection.fd() else {
            return Ok(());
        };
        match connection.interest {
            Some(known) if known == interest => return Ok(()),
            Some(_) => self.epoll.modify(fd, &mut event(index, interest))?,
            None => self.add(fd, index, interest)?,
        }
        connection.interest = Some(interest);
        Ok(())
    }

    /// Registers a socket for as long as it is open.
    pub(crate) fn add(
        &self,
        fd: BorrowedFd<'_>,
        index: usize,
        interest: Interest,
    ) -> io::Result<()> {
        Ok(self.epoll.add(fd, event(index, interest))?)
    }

    /// Waits for events until `until`, to the millisecond above, or until `due`, to the
    /// microsecond or so. Returns how many there are.
    pub(crate) fn wait(&mut self, until: Instant, due: Option<Instant>) -> io::Result<usize> {
        let now = Instant::now();
        let mut timeout = milliseconds(until.saturating_duration_since(now));
        if let Some(due) = due {
            let left = due.saturating_duration_since(now);
            if left.is_zero() {
                timeout = EpollTimeout::ZERO;
            } else {
                let once = Expiration::OneShot(TimeSpec::from_duration(left));
                self.timer.set(once, TimerSetTimeFlags::empty())?;
            }
        }
        match self.epoll.wait(&mut self.events, timeout) {
            Err(Errno::EINTR) => Ok(0), // a signal that is ignored, such as of a resized window
            other => Ok(other?),
        }
    }

    /// Event `at` of those that the last wait returned, unless it is the timer's.
    pub(crate) fn event(&self, at: usize) -> Option<Event> {
        let event = self.events[at];
        let answers = event.events() != EpollFlags::EPOLLOUT;
        (event.data() != TIMER).then(|| Event { index: event.data() as usize, answers })
    }
}

fn event(index: usize, interest: Interest) -> EpollEvent {
    let mut flags = EpollFlags::EPOLLIN;
    flags.set(EpollFlags::EPOLLOUT, interest == Interest::AnswersAndRoom);
    EpollEvent::new(flags, index as u64)
}

/// Rounded up: the last millisecond is slept through, and not spun through.
fn milliseconds(left: Duration) -> EpollTimeout {
    let rounded = left.saturating_add(Duration::from_nanos(999_999)).as_millis();
    EpollTimeout::from(u16::try_from(rounded).unwrap_or(u16::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_is_finer_than_a_millisecond() {
        let mut poller = Poller::new().unwrap();
        let after = Duration::from_micros(300);
        // Again and again, although the timer is never read.
        let waits = (0..50).map(|_| {
            let start = Instant::now();
            assert_eq!(
                poller.wait(start + Duration::from_secs(9), Some(start + after)).unwrap(),
                1
            );
            assert!(poller.event(0).is_none());
            start.elapsed()
        });
        let shortest = waits.min().unwrap();
        assert!((after..Duration::from_millis(1)).contains(&shortest), "{shortest:?}");
    }

    #[test]
    fn what_is_due_is_not_waited_for() {
        let mut poller = Poller::new().unwrap();
        let now = Instant::now();
        assert_eq!(poller.wait(now + Duration::from_secs(9), Some(now)).unwrap(), 0);
        assert!(now.elapsed() < Duration::from_secs(5));
    }
}
