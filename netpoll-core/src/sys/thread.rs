//! What the system says of threads: their numbers, their time on a processor, their waits.

use std::io;
use std::time::Duration;

use nix::libc;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::time::ClockId;

use super::raw;

/// What the calling thread has done so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    /// Times that it gave up its processor because it had to wait.
    pub(crate) waits: libc::c_long,
    /// Time that it had a processor.
    pub(crate) computed: Duration,
}

/// What the calling thread has done so far.
pub(crate) fn usage() -> Usage {
    let usage = getrusage(UsageWho::RUSAGE_THREAD);
    usage.map_or(Usage { waits: 0, computed: Duration::ZERO }, |usage| Usage {
        waits: usage.voluntary_context_switches(),
        computed: duration(usage.user_time()) + duration(usage.system_time()),
    })
}

/// Time that the calling thread has had a processor so far, to the nanosecond.
pub(crate) fn own_time() -> Duration {
    ClockId::CLOCK_THREAD_CPUTIME_ID.now().map_or(Duration::ZERO, Duration::from)
}

/// Time that a thread of this process has had a processor so far; `None` when it has ended.
pub(crate) fn thread_time(number: i32) -> Option<Duration> {
    // The kernel's own encoding of a thread's clock: the number's complement, above the bits that
    // say "of a thread" and "what the scheduler counted".
    const OF_THREAD: libc::clockid_t = 4;
    const SCHEDULED: libc::clockid_t = 2;
    let clock = ClockId::from_raw((!number << 3) | OF_THREAD | SCHEDULED);
    clock.now().ok().map(Duration::from)
}

/// By how much the timed waits of a thread may end late, so that the kernel ends several of them
/// at once. A thread inherits that of the thread that starts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TimerSlack(Option<libc::c_ulong>);

impl TimerSlack {
    /// As little as there can be.
    pub(crate) const LEAST: Self = Self(Some(1));

    /// That of the calling thread: 50 µs, mostly.
    pub(crate) fn here() -> Self {
        let nanoseconds = nix::sys::prctl::get_timerslack().ok();
        Self(nanoseconds.and_then(|slack| libc::c_ulong::try_from(slack).ok()))
    }

    /// Makes it that of the calling thread.
    pub(crate) fn set(self) {
        let Some(nanoseconds) = self.0 else { return };
        if let Err(errno) = nix::sys::prctl::set_timerslack(nanoseconds) {
            log::debug!("cannot set the timer slack: {errno}");
        }
    }
}

/// How the system schedules a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    /// As it does by default.
    Default,
    /// As a thread that computes: when it wakes, it takes the processor from no other one.
    Batch,
    /// In another way, or with a flag.
    Other(i32),
}

/// How the calling thread is scheduled.
///
/// # Errors
/// The system's: a sandbox denies the call.
pub(crate) fn policy() -> io::Result<Policy> {
    Ok(match raw::policy()? {
        libc::SCHED_OTHER => Policy::Default,
        libc::SCHED_BATCH => Policy::Batch,
        other => Policy::Other(other),
    })
}

/// Has the calling thread scheduled in that way. Its nice value stays, and so does what else the
/// system knows of it.
///
/// # Errors
/// The system's: a sandbox denies the call, or the policy needs a privilege.
pub(crate) fn set_policy(policy: Policy) -> io::Result<()> {
    raw::set_policy(match policy {
        Policy::Default => libc::SCHED_OTHER,
        Policy::Batch => libc::SCHED_BATCH,
        Policy::Other(other) => other,
    })
}

/// The number under which the system knows the calling thread.
pub(crate) fn thread_number() -> i32 {
    nix::unistd::gettid().as_raw()
}

fn duration(time: TimeVal) -> Duration {
    Duration::from_micros(time.num_microseconds().cast_unsigned())
}
