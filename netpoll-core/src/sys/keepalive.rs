//! When the kernel gives up a peer that is silent, or that acknowledges nothing.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

use crate::base::error::{Error, Result};

/// When the system asks a silent peer whether it is still there, by TCP's own probes.
///
/// It finds peers that are gone: cut cables, dead machines. It does not find peers that are there
/// and say nothing: they answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence before the first probe; whole seconds, 1 to 32 767, the most that the system counts.
    pub idle: Duration,
    /// Between probes; whole seconds, 1 to 32 767.
    pub interval: Duration,
    /// Unanswered probes after which the connection is dead; 1 to 127.
    pub count: u32,
}

impl Keepalive {
    /// Checks that the system can count these times.
    ///
    /// # Errors
    /// [`Error::Config`] where it can't.
    pub fn validate(self) -> Result<()> {
        let times = 1..=32_767;
        let fits = |time: Duration| times.contains(&time.as_secs());
        if !fits(self.idle) || !fits(self.interval) || !(1..=127).contains(&self.count) {
            return Err(Error::config(
                "keepalive needs an idle time and an interval of 1 to 32767 s, and 1 to 127 probes",
            ));
        }
        Ok(())
    }
}

/// Has the kernel probe a silent peer, or not.
pub(crate) fn set(fd: BorrowedFd<'_>, keepalive: Option<Keepalive>) -> io::Result<()> {
    let socket = SockRef::from(&fd);
    let Some(Keepalive { idle, interval, count }) = keepalive else {
        return socket.set_keepalive(false);
    };
    let probes = TcpKeepalive::new().with_time(idle).with_interval(interval).with_retries(count);
    socket.set_tcp_keepalive(&probes)
}

/// How long sent bytes may stay unacknowledged; `None` is as long as the system says. The kernel
/// counts milliseconds in an `int`, and takes 0 for none.
pub(crate) fn set_user_timeout(fd: BorrowedFd<'_>, timeout: Option<Duration>) -> io::Result<()> {
    let (least, most) = (Duration::from_millis(1), Duration::from_millis(i32::MAX as u64));
    SockRef::from(&fd).set_tcp_user_timeout(timeout.map(|time| time.clamp(least, most)))
}
