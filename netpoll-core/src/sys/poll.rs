//! The system call by which a thread waits for one socket, which no reactor watches.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// What a thread waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ready {
    ToReceive,
    ToSend,
}

/// How a wait has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Readied {
    /// A call would not block, if only since it would fail.
    pub(crate) is_ready: bool,
    /// There is an error, or an entry in the error queue.
    pub(crate) has_faults: bool,
}

/// Waits for a socket, at most for `timeout`. A signal may end it early.
pub(crate) fn wait(
    fd: BorrowedFd<'_>,
    ready: Ready,
    timeout: Option<Duration>,
) -> io::Result<Readied> {
    let flags = match ready {
        Ready::ToReceive => PollFlags::POLLIN,
        Ready::ToSend => PollFlags::POLLOUT,
    };
    let mut polled = [PollFd::new(fd, flags)];
    // Rounded up, so that the last fraction of a millisecond is not a busy poll.
    let milliseconds = |it: Duration| it.as_millis().saturating_add(1);
    let timeout = timeout.map_or(PollTimeout::NONE, |it| {
        PollTimeout::try_from(milliseconds(it)).unwrap_or(PollTimeout::MAX)
    });
    match poll(&mut polled, timeout) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(error) => return Err(error.into()),
    }
    let seen = polled[0].revents().unwrap_or(PollFlags::empty());
    let has_faults = seen.intersects(PollFlags::POLLERR);
    let failed = PollFlags::POLLERR | PollFlags::POLLHUP | PollFlags::POLLNVAL;
    Ok(Readied { is_ready: seen.intersects(flags | failed), has_faults })
}
