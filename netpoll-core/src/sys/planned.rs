//! For tests: answers that the kernel is planned to give to calls of datagram sockets. Without a
//! test nothing is planned, and nothing costs anything.

use std::io;
use std::os::fd::BorrowedFd;

/// The calls that are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Receive,
    Send,
    /// A loop begins to watch it, or changes what it watches it for.
    Watch,
}

/// The next answer to a call on `fd`: how many messages it may take at the most.
///
/// # Errors
/// The planned one; the call is not to be made.
#[cfg(not(all(test, not(loom))))]
#[inline]
#[expect(clippy::unnecessary_wraps, reason = "a test plans errors")]
pub(crate) fn next(_: BorrowedFd<'_>, _: Call) -> io::Result<usize> {
    Ok(usize::MAX)
}

#[cfg(all(test, not(loom)))]
pub(crate) use tests::next;
#[cfg(all(test, not(loom)))]
pub(crate) use tests::{Answer, Plan};

#[cfg(all(test, not(loom)))]
mod tests {
    use std::collections::VecDeque;
    use std::os::fd::{AsFd, AsRawFd, RawFd};

    use super::*;
    use crate::base::sync::{Mutex, lock};

    /// One answer.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) enum Answer {
        /// This errno.
        Errno(i32),
        /// The kernel's own, which takes so many messages at the most.
        AtMost(usize),
    }

    static PLANS: Mutex<Vec<Entry>> = Mutex::new(Vec::new());

    struct Entry {
        fd: RawFd,
        call: Call,
        answers: VecDeque<Answer>,
    }

    /// The answers that are planned for a descriptor, which must stay open until the drop.
    pub(crate) struct Plan {
        fd: RawFd,
        call: Call,
    }

    impl Plan {
        pub(crate) fn new(
            fd: impl AsFd,
            call: Call,
            answers: impl IntoIterator<Item = Answer>,
        ) -> Self {
            let fd = fd.as_fd().as_raw_fd();
            let answers = answers.into_iter().collect();
            lock(&PLANS).push(Entry { fd, call, answers });
            Self { fd, call }
        }

        /// How many answers were not given yet.
        pub(crate) fn left(&self) -> usize {
            lock(&PLANS)
                .iter()
                .find(|it| it.is_for(self.fd, self.call))
                .map_or(0, |it| it.answers.len())
        }
    }

    impl Drop for Plan {
        fn drop(&mut self) {
            lock(&PLANS).retain(|it| !it.is_for(self.fd, self.call));
        }
    }

    impl Entry {
        fn is_for(&self, fd: RawFd, call: Call) -> bool {
            (self.fd, self.call) == (fd, call)
        }
    }

    pub(crate) fn next(fd: BorrowedFd<'_>, call: Call) -> io::Result<usize> {
        let mut plans = lock(&PLANS);
        let planned = plans.iter_mut().find(|it| it.is_for(fd.as_raw_fd(), call));
        match planned.and_then(|it| it.answers.pop_front()) {
            Some(Answer::Errno(errno)) => Err(io::Error::from_raw_os_error(errno)),
            Some(Answer::AtMost(messages)) => Ok(messages),
            None => Ok(usize::MAX),
        }
    }
}
