//! Every system call of this project, by topic. Each function has the name of what its call does
//! here.
//!
//! Nothing else calls the kernel, but through the standard library: for locks, threads, the time
//! and the process's number, and in the client for `/etc/hosts`. So faults are injected here, and
//! `strace` is read beside these files. `EINTR` repeats here, and no caller sees it.

pub(crate) mod ancillary;
pub(crate) mod binding;
pub(crate) mod connect;
pub(crate) mod control;
pub(crate) mod datagram;
pub(crate) mod datagram_features;
pub(crate) mod datagram_open;
pub(crate) mod epoll;
pub(crate) mod eventfd;
pub(crate) mod inherited;
pub(crate) mod keepalive;
pub(crate) mod listener;
pub(crate) mod notify;
pub(crate) mod planned;
pub(crate) mod poll;
mod queueing;
mod raw;
pub(crate) mod resolve;
pub(crate) mod sock_diag;
mod state_file;
pub(crate) mod stream;
pub(crate) mod tcp_info;
mod thread;

use std::io::{self, ErrorKind};

pub(crate) use queueing::QueueFile;
pub(crate) use raw::ReservedAddresses;
pub(crate) use state_file::StateFile;
pub(crate) use thread::{
    Policy, TimerSlack, Usage, own_time, policy, set_policy, thread_number, thread_time, usage,
};

/// Calls again for as long as a signal interrupts the call.
#[inline]
fn repeat<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}
