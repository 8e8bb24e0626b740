//! The system calls, and the ways to own a descriptor, that nix and socket2 do not offer safely, or
//! not at their price.

#![expect(unsafe_code, reason = "that is what this file is for")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::OnceLock;

use nix::libc;
use nix::sys::epoll::EpollEvent;

/// Receives into one slice.
///
/// Here, in [`send`] and in [`wait_for_events`] the kernel is called without libc's function in
/// between, which POSIX makes a point where the thread may be cancelled. glibc 2.36 says before
/// each such call that it may be, and takes that back after it: 45 instructions, two of them
/// locked. No thread of Rust's is ever cancelled.
pub(super) fn receive(fd: BorrowedFd<'_>, into: &mut [u8]) -> io::Result<usize> {
    let (number, flags) = (libc::c_long::from(fd.as_raw_fd()), libc::c_long::from(0));
    let none = ptr::null_mut::<libc::c_void>();
    // SAFETY: `fd` is open while it is borrowed; the kernel writes at most `into.len()` bytes at
    // the pointer, which `into` has there. The two null pointers say that no address is wanted.
    let outcome = unsafe {
        let (start, room) = (into.as_mut_ptr(), into.len());
        libc::syscall(libc::SYS_recvfrom, number, start, room, flags, none, none)
    };
    count(outcome)
}

/// Sends one slice, without a SIGPIPE. See [`receive`].
pub(super) fn send(fd: BorrowedFd<'_>, from: &[u8]) -> io::Result<usize> {
    let number = libc::c_long::from(fd.as_raw_fd());
    let flags = libc::c_long::from(libc::MSG_NOSIGNAL);
    let (none, no_length) = (ptr::null::<libc::c_void>(), libc::c_long::from(0));
    // SAFETY: `fd` is open while it is borrowed; the kernel reads `from.len()` bytes at the
    // pointer, which `from` has there, and an address of no bytes at none.
    let outcome = unsafe {
        let (start, length) = (from.as_ptr(), from.len());
        libc::syscall(libc::SYS_sendto, number, start, length, flags, none, no_length)
    };
    count(outcome)
}

/// Waits for the events of an epoll instance, up to so many milliseconds; below zero without end.
/// See [`receive`].
pub(super) fn wait_for_events(
    epoll: BorrowedFd<'_>,
    events: &mut [EpollEvent],
    milliseconds: i32,
) -> io::Result<usize> {
    let number = libc::c_long::from(epoll.as_raw_fd());
    let most = libc::c_long::from(i32::try_from(events.len()).unwrap_or(i32::MAX));
    let milliseconds = libc::c_long::from(milliseconds);
    let (start, no_mask) = (events.as_mut_ptr(), ptr::null::<libc::c_void>());
    let no_length = libc::c_long::from(0);
    // SAFETY: `epoll` is open while it is borrowed; the kernel writes at most `most` events at the
    // pointer, which `events` has there: an `EpollEvent` is the kernel's `struct epoll_event`, see
    // below. The null pointer says that the mask of signals stays.
    let outcome = unsafe {
        let call = libc::SYS_epoll_pwait; // which every architecture has
        libc::syscall(call, number, start, most, milliseconds, no_mask, no_length)
    };
    count(outcome)
}

// nix declares it transparent, and has only the size to be checked from here.
const _: () = assert!(size_of::<EpollEvent>() == size_of::<libc::epoll_event>());

/// What a system call has counted, bytes or events; below zero it has failed.
fn count(outcome: libc::c_long) -> io::Result<usize> {
    usize::try_from(outcome).map_err(|_| io::Error::last_os_error())
}

/// Sets an option of a protocol: an integer, or the bytes of one of the kernel's structs.
pub(super) fn set_option(
    fd: BorrowedFd<'_>,
    (level, option): (i32, i32),
    value: &[u8],
) -> io::Result<()> {
    let size = libc::socklen_t::try_from(value.len()).unwrap_or(libc::socklen_t::MAX);
    // SAFETY: `fd` is open while it is borrowed; the kernel reads at most `size` bytes at the
    // pointer, which `value` has there, and keeps neither.
    let outcome =
        unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, value.as_ptr().cast(), size) };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Reads an option of a protocol into `into`; returns how many bytes the kernel has written.
pub(super) fn option(
    fd: BorrowedFd<'_>,
    (level, option): (i32, i32),
    into: &mut [u8],
) -> io::Result<usize> {
    let mut length = libc::socklen_t::try_from(into.len()).unwrap_or(libc::socklen_t::MAX);
    // SAFETY: `fd` is open while it is borrowed; the kernel writes at most `length` bytes at the
    // pointer, which `into` has there, and to `length`, which is alive, how many they are.
    let outcome = unsafe {
        let (start, length) = (into.as_mut_ptr().cast(), &raw mut length);
        libc::getsockopt(fd.as_raw_fd(), level, option, start, length)
    };
    if outcome == 0 { Ok(length as usize) } else { Err(io::Error::last_os_error()) }
}

/// How the calling thread is scheduled: a `SCHED_` constant, perhaps with a flag.
///
/// Here and in [`set_policy`] the kernel is called without libc's function, since that of musl only
/// fails: what POSIX means by it is a process.
pub(super) fn policy() -> io::Result<i32> {
    let this_thread = libc::c_long::from(0);
    // SAFETY: the call has one argument, a number, and touches no memory.
    let outcome = unsafe { libc::syscall(libc::SYS_sched_getscheduler, this_thread) };
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(outcome as i32) }
}

/// Has the calling thread scheduled in that way, with the priority 0, the only one of those ways in
/// which threads share processors.
pub(super) fn set_policy(policy: i32) -> io::Result<()> {
    let (this_thread, policy) = (libc::c_long::from(0), libc::c_long::from(policy));
    let priority = 0_i32; // `struct sched_param` of the kernel, on all architectures
    // SAFETY: the kernel reads an `i32` at the pointer, which is alive, and keeps nothing.
    let outcome = unsafe {
        libc::syscall(libc::SYS_sched_setscheduler, this_thread, policy, &raw const priority)
    };
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// What a message brought.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) bytes: usize,
    pub(super) descriptors: Vec<OwnedFd>,
    /// It carried more descriptors than this process may open, or than were asked for. The kernel
    /// has closed the others.
    pub(super) cut: bool,
}

/// Receives bytes, and up to `most` descriptors that come with them; those are closed on exec from
/// birth. `flags` are those of `recvmsg`.
pub(super) fn receive_message(
    from: BorrowedFd<'_>,
    into: &mut [u8],
    most: usize,
    flags: i32,
) -> io::Result<Received> {
    let size = (most * size_of::<RawFd>()) as u32;
    // SAFETY: it computes a size from a size, which is far below the end of its type.
    let space = unsafe { libc::CMSG_SPACE(size) } as usize;
    // Of words, since the headers in it have the alignment of words.
    let mut control = vec![0_usize; space.div_ceil(size_of::<usize>())];
    let mut slice = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    // SAFETY: a header of zeros is one without an address, without bytes and without descriptors.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    (message.msg_iov, message.msg_iovlen) = (&raw mut slice, 1);
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = space as _;
    let flags = flags | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: `from` is open while it is borrowed; the kernel writes at most `into.len()` bytes at
    // the one slice and at most `space` at the control buffer, and both live until it returns.
    let outcome = unsafe { libc::recvmsg(from.as_raw_fd(), &raw mut message, flags) };
    let bytes = usize::try_from(outcome).map_err(|_| io::Error::last_os_error())?;
    // SAFETY: the kernel has filled the header, and its control buffer is alive.
    let numbers = unsafe { numbers_in(&message) };
    // SAFETY: the kernel has just opened these for the receiver of this message, and each is there
    // once.
    let descriptors = unsafe { own_received(&numbers) };
    Ok(Received { bytes, descriptors, cut: message.msg_flags & libc::MSG_CTRUNC != 0 })
}

/// The numbers of all descriptors that came with a message.
///
/// # Safety
/// `recvmsg` has filled `message`, and its control buffer is alive.
unsafe fn numbers_in(message: &libc::msghdr) -> Vec<RawFd> {
    let mut numbers = Vec::new();
    // SAFETY: the buffer is alive, and holds as many bytes as the kernel says.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(message) };
    // SAFETY: it is null, or a header that the kernel has written whole.
    while let Some(header) = unsafe { next.as_ref() } {
        if (header.cmsg_level, header.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            // SAFETY: it computes the size of a header with nothing behind it.
            let head = unsafe { libc::CMSG_LEN(0) } as usize;
            #[allow(clippy::unnecessary_cast, reason = "musl has it as 32 bits")]
            let size = (header.cmsg_len as usize).saturating_sub(head);
            // SAFETY: the data stand right behind their header.
            let data = unsafe { libc::CMSG_DATA(header) };
            // SAFETY: the header's length says that so many bytes stand there, which the kernel has
            // written and nothing changes while they are read.
            let data = unsafe { std::slice::from_raw_parts(data, size) };
            let (numbers_there, _) = data.as_chunks();
            numbers.extend(numbers_there.iter().map(|it| RawFd::from_ne_bytes(*it)));
        }
        // SAFETY: both are as they were when the kernel had written them.
        next = unsafe { libc::CMSG_NXTHDR(message, header) };
    }
    numbers
}

/// Owns the descriptors that the kernel has just put into this process with a message.
///
/// # Safety
/// Each number is of a descriptor that the kernel has opened for the caller, and is there once.
unsafe fn own_received(numbers: &[RawFd]) -> Vec<OwnedFd> {
    let own = |&number| {
        // SAFETY: nothing else has this number, as our caller promises.
        unsafe { OwnedFd::from_raw_fd(number) }
    };
    numbers.iter().map(own).collect()
}

/// Owns those descriptors that the launcher of this process opened for it, of the `count` from
/// number 3 on; from the second call on there are none.
///
/// A process that executes itself keeps its number and its environment, and finds others there. So
/// only what came through an exec is taken, which has no close-on-exec flag, while all that Rust
/// opens has it; and only what `is_meant` accepts.
pub(super) fn take_inherited(
    count: usize,
    is_meant: impl Fn(BorrowedFd<'_>) -> bool,
) -> Vec<(usize, OwnedFd)> {
    static TAKEN: OnceLock<()> = OnceLock::new();
    if TAKEN.set(()).is_err() {
        return Vec::new();
    }
    let take = |place: usize| {
        let number = RawFd::try_from(place).ok()?.checked_add(3)?;
        // SAFETY: asking a number for its flags touches no memory; a closed one is an error.
        let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
        if flags < 0 || flags & libc::FD_CLOEXEC != 0 {
            return None;
        }
        // SAFETY: it is open, and closed by none: it was there when this program began, so nothing
        // in it owns it.
        let is_meant = is_meant(unsafe { BorrowedFd::borrow_raw(number) });
        // SAFETY: the launcher opened it for this process, and `TAKEN` sees to it that it is owned
        // once.
        is_meant.then(|| (place, unsafe { own_inherited(number) }))
    };
    // The system's own bound of descriptors is 2^20 where it was not raised.
    (0..count.min(1 << 20)).filter_map(take).collect()
}

/// Owns a descriptor that was open when this program began.
///
/// # Safety
/// Nothing in this process owns it, or will.
unsafe fn own_inherited(number: RawFd) -> OwnedFd {
    // SAFETY: it is open, and our caller is its only owner.
    unsafe { OwnedFd::from_raw_fd(number) }
}
