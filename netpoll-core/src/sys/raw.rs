//! The system calls, and the ways to own a descriptor, that nix and socket2 do not offer safely, or
//! not at their price.

#![expect(unsafe_code, reason = "that is what this file is for")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::OnceLock;

use nix::libc;

/// Receives into one slice.
///
/// Here and in [`send`] the kernel is called without libc's function in between, which POSIX makes
/// a point where the thread may be cancelled. glibc 2.36 says before each such call that it may be,
/// and takes that back after it: 45 instructions, two of them locked. No thread of Rust's is ever
/// cancelled.
pub(super) fn receive(fd: BorrowedFd<'_>, into: &mut [u8]) -> io::Result<usize> {
    let (number, flags) = (libc::c_long::from(fd.as_raw_fd()), libc::c_long::from(0));
    let nobody = ptr::null_mut::<libc::c_void>();
    // SAFETY: `fd` is open while it is borrowed; the kernel writes at most `into.len()` bytes at
    // the pointer, which `into` has there, and of who sent them it is told that nobody asks.
    let outcome = unsafe {
        let (start, room) = (into.as_mut_ptr(), into.len());
        libc::syscall(libc::SYS_recvfrom, number, start, room, flags, nobody, nobody)
    };
    count(outcome)
}

/// Sends one slice, without a SIGPIPE. See [`receive`].
pub(super) fn send(fd: BorrowedFd<'_>, from: &[u8]) -> io::Result<usize> {
    let number = libc::c_long::from(fd.as_raw_fd());
    let flags = libc::c_long::from(libc::MSG_NOSIGNAL);
    let (nobody, no_length) = (ptr::null::<libc::c_void>(), libc::c_long::from(0));
    // SAFETY: `fd` is open while it is borrowed; the kernel reads `from.len()` bytes at the
    // pointer, which `from` has there, and an address of no bytes at none.
    let outcome = unsafe {
        let (start, length) = (from.as_ptr(), from.len());
        libc::syscall(libc::SYS_sendto, number, start, length, flags, nobody, no_length)
    };
    count(outcome)
}

/// How many bytes a system call has moved; below zero it has failed.
fn count(outcome: libc::c_long) -> io::Result<usize> {
    usize::try_from(outcome).map_err(|_| io::Error::last_os_error())
}

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
