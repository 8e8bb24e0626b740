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

/// Addresses without memory behind them. While this lives, nothing else in the process gets them.
#[derive(Debug)]
pub(crate) struct ReservedAddresses {
    start: *mut libc::c_void,
    bytes: usize,
}

impl ReservedAddresses {
    /// Reserves so many bytes of addresses.
    ///
    /// # Errors
    /// `ENOMEM` where the process has no such range left, by its limit or by the system's.
    pub(crate) fn new(bytes: usize) -> io::Result<Self> {
        let (anywhere, access) = (ptr::null_mut(), libc::PROT_NONE);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: the kernel picks addresses that nothing uses, so no mapping is replaced.
        let start = unsafe { libc::mmap(anywhere, bytes, access, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { start, bytes })
    }
}

impl Drop for ReservedAddresses {
    fn drop(&mut self) {
        // SAFETY: `new` has mapped exactly this, and no pointer into it was given away. It can't
        // fail: a whole mapping is taken away, and none is split.
        unsafe { libc::munmap(self.start, self.bytes) };
    }
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

/// The most messages of one `recvmmsg` or `sendmmsg`: their headers stand on the stack.
pub(crate) const MOST_MESSAGES: usize = 32;

/// Where a message is received to.
pub(super) struct Incoming<'a> {
    pub(super) name: &'a mut [u8],
    pub(super) control: &'a mut [u8],
    pub(super) room: &'a mut [u8],
}

/// How much of each a received message has filled, and its flags (`MSG_TRUNC`, …).
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Filled {
    pub(super) bytes: usize,
    pub(super) name: usize,
    pub(super) control: usize,
    pub(super) flags: i32,
}

/// A message that is to be sent. An empty name is none.
#[derive(Clone, Copy)]
pub(crate) struct Outgoing<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) slices: &'a [io::IoSlice<'a>],
    pub(crate) control: &'a [u8],
}

/// Receives as many messages as there are places in `filled` and in `incoming`, without a wait: one
/// `recvmmsg`. `flags` are those of `recvmsg`. There are no more than `N` messages, so many headers
/// are cleared first.
pub(super) fn receive_messages<'a, const N: usize>(
    fd: BorrowedFd<'_>,
    incoming: impl Iterator<Item = Incoming<'a>>,
    filled: &mut [Filled],
    flags: i32,
) -> io::Result<usize> {
    let mut slices = [NO_SLICE; N];
    let mut headers = no_messages::<N>();
    let mut wanted = 0;
    for ((mut place, slice), header) in
        incoming.zip(&mut slices).zip(&mut headers).take(filled.len())
    {
        header.msg_hdr = header_to_fill(&mut place, slice);
        wanted += 1;
    }
    let (number, flags) = (libc::c_long::from(fd.as_raw_fd()), receive_flags(flags));
    let (start, no_timeout) = (headers.as_mut_ptr(), ptr::null::<libc::timespec>());
    let call = libc::SYS_recvmmsg;
    // SAFETY: `fd` is open while it is borrowed. Of each of the `wanted` headers the name, the
    // slice and the control buffer are those of one of `incoming`, exclusive borrows that live
    // through the call, and the kernel writes no more to each than the length that stands beside
    // it.
    let outcome = unsafe { libc::syscall(call, number, start, wanted, flags, no_timeout) };
    let received = count(outcome)?;
    for (header, filled) in headers[..received].iter().zip(filled) {
        *filled = filled_by(header.msg_len as usize, &header.msg_hdr);
    }
    Ok(received)
}

/// Receives one message, without a wait: one `recvmsg`. See [`receive_messages`].
pub(super) fn receive_one(
    fd: BorrowedFd<'_>,
    mut incoming: Incoming<'_>,
    flags: i32,
) -> io::Result<Filled> {
    let mut slice = NO_SLICE;
    let mut header = header_to_fill(&mut incoming, &mut slice);
    let (number, flags) = (libc::c_long::from(fd.as_raw_fd()), receive_flags(flags));
    let start = &raw mut header;
    // SAFETY: as in `receive_messages`, for this header.
    let outcome = unsafe { libc::syscall(libc::SYS_recvmsg, number, start, flags) };
    Ok(filled_by(count(outcome)?, &header))
}

const NO_SLICE: libc::iovec = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };

fn receive_flags(flags: i32) -> libc::c_long {
    (flags | libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC).into()
}

/// The header of a message that is to be received to a place. It has pointers to that and to
/// `slice`, and must not outlive them.
fn header_to_fill(place: &mut Incoming<'_>, slice: &mut libc::iovec) -> libc::msghdr {
    let mut header = no_message();
    (slice.iov_base, slice.iov_len) = (place.room.as_mut_ptr().cast(), place.room.len());
    header.msg_name = place.name.as_mut_ptr().cast();
    header.msg_namelen = place.name.len() as _;
    (header.msg_iov, header.msg_iovlen) = (slice, 1);
    header.msg_control = place.control.as_mut_ptr().cast();
    header.msg_controllen = place.control.len() as _;
    header
}

fn filled_by(bytes: usize, header: &libc::msghdr) -> Filled {
    #[allow(clippy::unnecessary_cast, reason = "musl has it as 32 bits")]
    let control = header.msg_controllen as usize;
    Filled { bytes, name: header.msg_namelen as usize, control, flags: header.msg_flags }
}

/// Sends messages without a wait and without a SIGPIPE; returns how many were sent whole, up to the
/// first that failed: one `sendmmsg`.
pub(super) fn send_messages(fd: BorrowedFd<'_>, messages: &[Outgoing<'_>]) -> io::Result<usize> {
    let mut headers = no_messages::<MOST_MESSAGES>();
    for (message, header) in messages.iter().zip(&mut headers) {
        header.msg_hdr = header_to_send(message);
    }
    let (number, flags) = (libc::c_long::from(fd.as_raw_fd()), send_flags());
    let (start, most) = (headers.as_mut_ptr(), messages.len().min(MOST_MESSAGES));
    // SAFETY: `fd` is open while it is borrowed. The kernel reads what the headers name, each up to
    // the length beside it; all of that is borrowed by `messages` through the call. It writes to
    // their `msg_len` alone, in `headers` itself.
    count(unsafe { libc::syscall(libc::SYS_sendmmsg, number, start, most, flags) })
}

/// Sends one message: one `sendmsg`. See [`send_messages`].
pub(super) fn send_message(fd: BorrowedFd<'_>, message: &Outgoing<'_>) -> io::Result<()> {
    let header = header_to_send(message);
    let (number, flags) = (libc::c_long::from(fd.as_raw_fd()), send_flags());
    // SAFETY: as in `send_messages`, for this header.
    count(unsafe { libc::syscall(libc::SYS_sendmsg, number, &raw const header, flags) })?;
    Ok(())
}

fn send_flags() -> libc::c_long {
    (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL).into()
}

/// The header of a message that is to be sent. It has pointers to what the message borrows, and
/// must not outlive that.
fn header_to_send(message: &Outgoing<'_>) -> libc::msghdr {
    let mut header = no_message();
    if !message.name.is_empty() {
        header.msg_name = message.name.as_ptr().cast_mut().cast();
        header.msg_namelen = message.name.len() as _;
    }
    // An `IoSlice` is the system's `iovec`, as the standard library guarantees.
    header.msg_iov = message.slices.as_ptr().cast_mut().cast();
    header.msg_iovlen = message.slices.len() as _;
    if !message.control.is_empty() {
        header.msg_control = message.control.as_ptr().cast_mut().cast();
        header.msg_controllen = message.control.len() as _;
    }
    header
}

/// Sends one slice to a name, where that is not empty: one `sendto`. The rest is as of
/// [`send_messages`].
pub(super) fn send_to(fd: BorrowedFd<'_>, from: &[u8], name: &[u8]) -> io::Result<usize> {
    let number = libc::c_long::from(fd.as_raw_fd());
    let flags = send_flags();
    let name_start = if name.is_empty() { ptr::null() } else { name.as_ptr() };
    // SAFETY: `fd` is open while it is borrowed; the kernel reads `from.len()` bytes at the one
    // pointer and `name.len()` at the other, which both slices have there; none at a null pointer.
    let outcome = unsafe {
        let (start, length) = (from.as_ptr(), from.len());
        libc::syscall(libc::SYS_sendto, number, start, length, flags, name_start, name.len())
    };
    count(outcome)
}

fn no_message() -> libc::msghdr {
    // SAFETY: a header of zeros is one of a message without a name, bytes or control messages.
    unsafe { std::mem::zeroed() }
}

fn no_messages<const N: usize>() -> [libc::mmsghdr; N] {
    // SAFETY: as in `no_message`.
    unsafe { std::mem::zeroed() }
}

/// Sets an option that is an integer.
pub(super) fn set_int_option(
    fd: BorrowedFd<'_>,
    (level, option): (i32, i32),
    value: i32,
) -> io::Result<()> {
    set_option(fd, (level, option), &value.to_ne_bytes())
}

/// Reads an option that is an integer.
pub(super) fn int_option(fd: BorrowedFd<'_>, (level, option): (i32, i32)) -> io::Result<i32> {
    let mut value = 0_i32;
    let mut length = size_of::<i32>() as libc::socklen_t;
    // SAFETY: `fd` is open while it is borrowed; the kernel writes at most `length` bytes at the
    // pointer, a live `i32` of that size, and to `length`, which is alive.
    let outcome = unsafe {
        let (start, length) = ((&raw mut value).cast(), &raw mut length);
        libc::getsockopt(fd.as_raw_fd(), level, option, start, length)
    };
    if outcome == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}
