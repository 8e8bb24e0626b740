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

    /// Registers `fd` for good, edge-triggered.
    pub(crate) fn add(&self, fd: BorrowedFd<'_>, flags: EpollFlags, data: u64) -> io::Result<()> {
        Ok(self.0.add(fd, EpollEvent::new(flags | EpollFlags::EPOLLET, data))?)
    }

    /// Changes what `fd` is registered for. What it is ready for is reported again.
    pub(crate) fn modify(
        &self,
        fd: BorrowedFd<'_>,
        flags: EpollFlags,
        data: u64,
    ) -> io::Result<()> {
        Ok(self.0.modify(fd, &mut EpollEvent::new(flags | EpollFlags::EPOLLET, data))?)
    }

    /// Registers a listener: level-triggered. It is reported for as long as a connection waits in
    /// its queue, so no accept has to find the queue empty to know that it is.
    ///
    /// `exclusive`: of the instances that have it in this way, a new connection wakes one that
    /// waits, and is reported by those that do not wait when they do. The kernel refuses
    /// `EPOLL_CTL_MOD` for it. An instance that another one watches counts as one that does not
    /// wait.
    pub(crate) fn add_listener(
        &self,
        fd: BorrowedFd<'_>,
        data: u64,
        exclusive: bool,
    ) -> io::Result<()> {
        let flag = if exclusive { EpollFlags::EPOLLEXCLUSIVE } else { EpollFlags::empty() };
        Ok(self.0.add(fd, EpollEvent::new(EpollFlags::EPOLLIN | flag, data))?)
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

#[cfg(all(test, not(loom)))]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::thread;

    use super::*;
    use crate::base::sync::{AtomicU64, Ordering};
    use crate::sys::StateFile;
    use crate::sys::eventfd::EventFd;
    use crate::sys::thread::thread_number;

    const LISTENER: u64 = 1;
    const STOP: u64 = 2;

    fn is_asleep(number: &AtomicU64) -> bool {
        let number = number.load(Ordering::SeqCst) as i32;
        number != 0 && StateFile::open(number).and_then(|it| it.is_asleep()).unwrap_or(false)
    }

    /// Several instances watch one listener, and a thread waits on each; a client comes. Returns
    /// how many of the threads are told of it.
    fn told_of_one_client(exclusive: bool) -> usize {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let numbers = [0; 3].map(AtomicU64::new);
        let instances = [(); 3].map(|()| {
            let (epoll, stop) = (EpollFd::new().expect("epoll"), EventFd::new().expect("eventfd"));
            epoll.add_listener(listener.as_fd(), LISTENER, exclusive).expect("a descriptor");
            epoll.add(stop.as_fd(), EpollFlags::EPOLLIN, STOP).expect("a descriptor");
            (epoll, stop)
        });
        thread::scope(|scope| {
            let waits = |((epoll, _), number): (&(EpollFd, EventFd), &AtomicU64)| {
                number.store(thread_number().cast_unsigned().into(), Ordering::SeqCst);
                let mut events = [EpollEvent::empty(); 4];
                let count = epoll.wait(&mut events, None).expect("a wait");
                events[..count].iter().any(|it| it.data() == LISTENER)
            };
            let threads: Vec<_> =
                instances.iter().zip(&numbers).map(|it| scope.spawn(move || waits(it))).collect();
            while !numbers.iter().all(is_asleep) {
                thread::yield_now();
            }
            let _client = TcpStream::connect(listener.local_addr().expect("an address"));
            // A thread that was woken reports the client, since nothing accepts it.
            for (_, stop) in &instances {
                stop.signal().expect("an eventfd");
            }
            threads.into_iter().filter_map(|it| it.join().ok()).filter(|told| *told).count()
        })
    }

    #[test]
    fn a_client_of_an_exclusive_listener_wakes_one_that_waits() {
        assert_eq!((told_of_one_client(true), told_of_one_client(false)), (1, 3));
    }

    #[test]
    fn a_wait_of_a_fraction_of_a_millisecond_is_not_a_busy_poll() {
        assert_eq!(milliseconds(Some(Duration::from_micros(1))), EpollTimeout::from(1u8));
        assert_eq!(milliseconds(Some(Duration::ZERO)), EpollTimeout::ZERO);
        assert_eq!(milliseconds(Some(Duration::MAX)), EpollTimeout::from(u16::MAX));
        assert_eq!(milliseconds(None), EpollTimeout::NONE);
    }
}
