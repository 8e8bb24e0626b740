//! The system calls of eventfds: one wakes a reactor, others are descriptors in reserve.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::eventfd::{EfdFlags, EventFd as RawEventFd};

/// An eventfd, registered edge-triggered and never read: each write is an edge.
#[derive(Debug)]
pub(crate) struct EventFd {
    event: RawEventFd,
    /// So many writes fail from now on.
    #[cfg(all(test, not(loom)))]
    pub(crate) failures: crate::base::sync::AtomicUsize,
}

impl EventFd {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            event: RawEventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
            #[cfg(all(test, not(loom)))]
            failures: crate::base::sync::AtomicUsize::new(0),
        })
    }

    /// Signals. A full counter means that it has signalled; reading it makes room for another edge.
    pub(crate) fn signal(&self) -> io::Result<()> {
        #[cfg(all(test, not(loom)))]
        if self.fails() {
            return Err(io::Error::from_raw_os_error(nix::libc::EIO));
        }
        while let Err(errno) = self.event.write(1) {
            match errno {
                nix::errno::Errno::EINTR => {}
                nix::errno::Errno::EAGAIN => drop(self.event.read()),
                _ => return Err(errno.into()),
            }
        }
        Ok(())
    }

    #[cfg(all(test, not(loom)))]
    fn fails(&self) -> bool {
        use crate::base::sync::Ordering::Relaxed;
        self.failures.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok()
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

/// A descriptor in reserve: it does nothing, and is closed when another one is needed.
pub(crate) fn reserve() -> io::Result<OwnedFd> {
    Ok(RawEventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?.into())
}
