//! Starting a thread: it is scheduled as the system's default says, and it leaves addresses for
//! what it will allocate.
//!
//! Where a limit of addresses is met, stacks could take the last of them. Then the next allocation
//! fails, of whatever size, and ends the process. So a thread is started only where addresses are
//! left beside its stack, and is refused otherwise.

use std::io;
use std::thread::{self, JoinHandle};

use super::scheduling::for_new_thread;
use crate::sys::ReservedAddresses;

/// So many bytes of addresses are left when a thread has its stack. Where no further arena fits, of
/// 64 MiB, glibc maps a page for each allocation of a thread: a worker has taken 32 to 50 pages by
/// its first callback. So this is enough for some 20 that start at once.
const ADDRESSES_LEFT: usize = 4 << 20;

/// Starts a thread. It does not inherit what that of a loop has changed for itself.
///
/// # Errors
/// The system's, where it has no more threads, or no memory or no addresses for one.
pub fn start_thread<T: Send + 'static>(
    name: impl Into<String>,
    body: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    start_leaving(ADDRESSES_LEFT, name.into(), body)
}

fn start_leaving<T: Send + 'static>(
    addresses: usize,
    name: String,
    body: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    let begin = for_new_thread();
    // They are free again once the thread has its stack.
    let reserved = ReservedAddresses::new(addresses)?;
    let started = thread::Builder::new().name(name).spawn(move || {
        begin();
        body()
    });
    drop(reserved);
    started
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_refused_where_it_would_leave_no_addresses() {
        let more_than_a_process_has = 1 << (usize::BITS - 2);
        let refused = start_leaving(more_than_a_process_has, "refused".into(), || ());
        assert_eq!(refused.expect_err("it starts").kind(), io::ErrorKind::OutOfMemory);
        let granted = start_thread("granted", || 7).expect("a thread");
        assert_eq!(granted.join().expect("it returns"), 7);
    }
}
