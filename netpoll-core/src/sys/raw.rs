//! The system calls, and the ways to own a descriptor, that nix and socket2 do not offer safely.

#![expect(unsafe_code, reason = "that is what this file is for")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;

use nix::libc;

/// Sets an integer option of TCP.
pub(super) fn set_tcp_option(fd: BorrowedFd<'_>, option: i32, value: i32) -> io::Result<()> {
    let size = size_of::<i32>() as libc::socklen_t;
    // SAFETY: `fd` is open while it is borrowed; the kernel reads `size` bytes at the pointer,
    // which is a live `i32` of that size, and keeps neither.
    let outcome = unsafe {
        libc::setsockopt(fd.as_raw_fd(), libc::IPPROTO_TCP, option, (&raw const value).cast(), size)
    };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Owns the descriptors that the kernel has just put into this process with a message.
pub(super) fn own_received(numbers: &[RawFd]) -> Vec<OwnedFd> {
    let own = |&number| {
        // SAFETY: the kernel opened this number for the receiver of the message alone, which is our
        // caller, who has it from `recvmsg` and passes it on once.
        unsafe { OwnedFd::from_raw_fd(number) }
    };
    numbers.iter().map(own).collect()
}

/// Owns the `count` descriptors from number 3 on, which whoever started this process has opened for
/// it; from the second call on there are none. Numbers that are not open are left out.
pub(super) fn own_inherited(count: usize) -> Vec<(usize, OwnedFd)> {
    static TAKEN: OnceLock<()> = OnceLock::new();
    if TAKEN.set(()).is_err() {
        return Vec::new();
    }
    let own = |place: usize| {
        let number = RawFd::try_from(place).ok()?.checked_add(3)?;
        // SAFETY: asking a number for its flags touches no memory; a closed one is an error.
        let open = unsafe { libc::fcntl(number, libc::F_GETFD) } >= 0;
        // SAFETY: by the protocol of its caller the number was opened for this process before it
        // started, so nothing in it owns it; `TAKEN` sees to it that this is said once.
        open.then(|| (place, unsafe { OwnedFd::from_raw_fd(number) }))
    };
    (0..count).filter_map(own).collect()
}
