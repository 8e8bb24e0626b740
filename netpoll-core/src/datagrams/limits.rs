//! The limits of a datagram socket.

use crate::base::error::{Error, Result};
use crate::base::limits::TurnLimits;
use crate::io::datagram::MOST_PLACES;

/// The limits of one datagram socket.
///
/// ```
/// use netpoll_core::{DatagramLimits, WhenFull};
/// let limits = DatagramLimits { when_full: WhenFull::DropOldest, ..DatagramLimits::default() };
/// assert!(limits.validate().is_ok());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DatagramLimits {
    /// Bytes of datagrams that wait because the kernel takes no more. Default 1 MiB; with 0 none
    /// wait.
    pub queued_bytes: usize,
    /// How many datagrams wait so. Default 4 096; with 0 none wait.
    pub queued_datagrams: usize,
    /// Which datagrams are dropped where more would wait. Each is counted.
    pub when_full: WhenFull,
    /// Bytes of the longest datagram that is received whole; a longer one is
    /// [cut](crate::Datagram::is_truncated). Where the kernel joins what it receives, 65 536 at the
    /// least. Default 65 536, which is more than any datagram of UDP has.
    pub longest: usize,
    /// How many places one receive has: 1 to 16, the default. Each has a block for one datagram, or
    /// for up to 64 KiB that the kernel has joined.
    pub places: usize,
    /// The work of one socket in one turn, before connections and other sockets of the loop have
    /// theirs: rounds of one receive and one callback, and bytes received. The default is that of
    /// connections: 16 rounds, 256 KiB.
    pub turn: TurnLimits,
}

/// Which datagrams are dropped where the queue of a socket is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum WhenFull {
    /// The one that would be queued; [`DatagramHandle::send_to`](crate::DatagramHandle::send_to)
    /// returns [`Error::Full`](crate::Error::Full).
    #[default]
    DropNewest,
    /// Those that have waited longest, for peers that need only the newest state.
    DropOldest,
}

impl Default for DatagramLimits {
    fn default() -> Self {
        Self {
            queued_bytes: 1 << 20,
            queued_datagrams: 4096,
            when_full: WhenFull::DropNewest,
            longest: 64 << 10,
            places: MOST_PLACES,
            turn: TurnLimits { rounds: 16, bytes: 256 << 10 },
        }
    }
}

impl DatagramLimits {
    /// Checks them.
    ///
    /// # Errors
    /// [`Error::Config`] names the limit that can't be used, and why.
    pub fn validate(&self) -> Result<()> {
        const LONGEST: usize = 1 << 20;
        let Self { longest, places, turn, .. } = self;
        if *longest == 0 || *longest > LONGEST {
            return Err(Error::config(format!(
                "longest is {longest} bytes, but must be 1 to {LONGEST}"
            )));
        }
        if *places == 0 || *places > MOST_PLACES {
            return Err(Error::config(format!(
                "places is {places}, but must be 1 to {MOST_PLACES}"
            )));
        }
        if turn.rounds == 0 || turn.bytes == 0 {
            return Err(Error::config(
                "turn has 0 rounds or 0 bytes, so nothing would be received",
            ));
        }
        Ok(())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn limits_with_which_nothing_would_arrive_are_refused_by_name() {
        let usual = DatagramLimits::default();
        let turn = |rounds, bytes| DatagramLimits { turn: TurnLimits { rounds, bytes }, ..usual };
        for (limits, name) in [
            (DatagramLimits { longest: 0, ..usual }, "longest"),
            (DatagramLimits { longest: usize::MAX, ..usual }, "longest"),
            (DatagramLimits { places: 0, ..usual }, "places"),
            (DatagramLimits { places: 17, ..usual }, "places"),
            (turn(0, 1), "turn"),
            (turn(1, 0), "turn"),
        ] {
            let error = limits.validate().expect_err("it is refused").to_string();
            assert!(error.contains(name), "{error}");
        }
        assert!(turn(usize::MAX, usize::MAX).validate().is_ok());
    }
}
