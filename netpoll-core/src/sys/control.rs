//! The system calls of a hand-over: messages and descriptors over a Unix stream, with a deadline.
//! The stream may block or not.

use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use socket2::SockRef;

use super::{raw, repeat};
use crate::base::clock;

/// How many descriptors one message may carry: the kernel's `SCM_MAX_FD`.
const MAX_DESCRIPTORS: usize = 253;

/// The effective user of this process.
pub(crate) fn own_user() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// Sends all of `bytes`.
pub(crate) fn send_within(to: BorrowedFd<'_>, bytes: &[u8], deadline: Instant) -> io::Result<()> {
    let mut sent = 0;
    while sent < bytes.len() {
        sent += send_some(to, &bytes[sent..], &[], deadline)?;
    }
    Ok(())
}

/// Receives as many bytes as `into` has.
pub(crate) fn receive_within(
    from: BorrowedFd<'_>,
    into: &mut [u8],
    deadline: Instant,
) -> io::Result<()> {
    let mut received = 0;
    while received < into.len() {
        let rest = &mut into[received..];
        let some = once_ready(from, PollFlags::POLLIN, deadline, || {
            Ok(raw::receive_message(from, rest, 0, libc::MSG_DONTWAIT)?.bytes)
        })?;
        if some == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        received += some;
    }
    Ok(())
}

/// Sends descriptors, with one byte for each message that carries them.
pub(crate) fn send_descriptors(
    to: BorrowedFd<'_>,
    descriptors: &[BorrowedFd<'_>],
    deadline: Instant,
) -> io::Result<()> {
    for some in descriptors.chunks(MAX_DESCRIPTORS) {
        send_some(to, b"d", some, deadline)?;
    }
    Ok(())
}

/// Receives `count` descriptors that [`send_descriptors`] sent; they are closed on exec from birth.
/// All or none: if this process may not open so many, the ones that came are closed again.
pub(crate) fn receive_descriptors(
    from: BorrowedFd<'_>,
    count: usize,
    deadline: Instant,
) -> io::Result<Vec<OwnedFd>> {
    let mut all = Vec::new();
    while all.len() < count {
        let most = (count - all.len()).min(MAX_DESCRIPTORS);
        let received = once_ready(from, PollFlags::POLLIN, deadline, || {
            raw::receive_message(from, &mut [0], most, libc::MSG_DONTWAIT)
        })?;
        if received.cut {
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        if received.bytes == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if received.descriptors.is_empty() {
            return Err(ErrorKind::InvalidData.into());
        }
        all.extend(received.descriptors);
    }
    if all.len() == count { Ok(all) } else { Err(ErrorKind::InvalidData.into()) }
}

/// Ends both directions of a stream.
pub(crate) fn shut_down(stream: BorrowedFd<'_>) -> io::Result<()> {
    SockRef::from(&stream).shutdown(std::net::Shutdown::Both)
}

fn send_some(
    to: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
    deadline: Instant,
) -> io::Result<usize> {
    let numbers: Vec<_> = descriptors.iter().map(|it| it.as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    let rights = if numbers.is_empty() { &[][..] } else { &rights };
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    once_ready(to, PollFlags::POLLOUT, deadline, || {
        Ok(sendmsg::<()>(to.as_raw_fd(), &[IoSlice::new(bytes)], rights, flags, None)?)
    })
}

/// Calls until it would not block, for the last time at the deadline.
fn once_ready<T>(
    stream: BorrowedFd<'_>,
    ready: PollFlags,
    deadline: Instant,
    mut call: impl FnMut() -> io::Result<T>,
) -> io::Result<T> {
    loop {
        let left = deadline.saturating_duration_since(clock::now());
        match repeat(&mut call) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            other => return other,
        }
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        let mut polled = [PollFd::new(stream, ready)];
        // Rounded up, so that the last fraction of a millisecond is not a busy poll.
        let wait = left.as_millis().saturating_add(1);
        match poll(&mut polled, PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[test]
    fn descriptors_that_come_with_too_many_others_are_closed() {
        let (sender, receiver) = UnixStream::pair().expect("a pair");
        let (mut reader, writer) = io::pipe().expect("a pipe");
        send_descriptors(sender.as_fd(), &[writer.as_fd(); 9], soon()).expect("room");
        drop(writer);
        let error = receive_descriptors(receiver.as_fd(), 2, soon()).expect_err("others came");
        assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
        // Its end comes with the last descriptor's.
        assert_eq!(reader.read(&mut [0]).expect("the end"), 0);
    }

    #[test]
    fn more_descriptors_than_a_message_carries_come_in_several() {
        let (sender, receiver) = UnixStream::pair().expect("a pair");
        let (mut reader, writer) = io::pipe().expect("a pipe");
        let many = [writer.as_fd(); MAX_DESCRIPTORS + 2];
        send_within(sender.as_fd(), b"hello", soon()).expect("room");
        send_descriptors(sender.as_fd(), &many, soon()).expect("room");
        let mut bytes = [0; 5];
        receive_within(receiver.as_fd(), &mut bytes, soon()).expect("bytes");
        let received =
            receive_descriptors(receiver.as_fd(), many.len(), soon()).expect("a message");
        assert_eq!((&bytes, received.len()), (b"hello", MAX_DESCRIPTORS + 2));
        drop((writer, received));
        assert_eq!(reader.read(&mut [0]).expect("the end"), 0);
    }

    #[test]
    fn a_peer_that_neither_speaks_nor_reads_is_waited_for_until_the_deadline() {
        let (stream, _silent) = UnixStream::pair().expect("a pair");
        for nonblocking in [false, true] {
            stream.set_nonblocking(nonblocking).expect("an option");
            let begun = Instant::now();
            let deadline = begun + Duration::from_millis(30);
            let error = receive_within(stream.as_fd(), &mut [0], deadline).expect_err("silence");
            assert_eq!(error.kind(), ErrorKind::TimedOut);
            let error =
                send_within(stream.as_fd(), &vec![0; 8 << 20], deadline).expect_err("no room");
            assert_eq!(error.kind(), ErrorKind::TimedOut);
            assert!(begun.elapsed() >= Duration::from_millis(30));
        }
    }

    #[test]
    fn what_has_come_by_the_deadline_is_received_after_it() {
        let (sender, receiver) = UnixStream::pair().expect("a pair");
        send_within(sender.as_fd(), b"!", soon()).expect("room");
        let mut byte = [0];
        receive_within(receiver.as_fd(), &mut byte, Instant::now()).expect("it is there");
        drop(sender);
        let error = receive_within(receiver.as_fd(), &mut byte, soon()).expect_err("the end");
        assert_eq!((byte, error.kind()), (*b"!", ErrorKind::UnexpectedEof));
    }
}
