//! The write side of a connection: whether it accepts bytes, and whether our stream has ended.
//!
//! ```text
//!     Connecting ── connected ──► Open ── sealed: a close, or shutdown_write ──► Closing
//!         │                        │                                               │ all is sent:
//!         └──────── sealed ────────┼──────────────────────────────────────────────►┤ FIN
//!                                  │ detached                                      ▼
//!                                  └────────────► Detached                       Ended
//! ```
//! It changes under the lock of the queue and is read without it. Nothing else keeps a copy.

use crate::base::sync::{AtomicU8, Ordering};

/// The state of the write side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WriteSide {
    /// Dialled and not connected yet.
    Connecting,
    Open,
    /// Sealed: what is queued is still sent, and nothing more is accepted.
    Closing,
    /// Our stream has ended: the FIN was sent after what was queued.
    Ended,
    /// The socket was given away. Nothing here uses it any more, except to stop watching it.
    Detached,
}

/// A [`WriteSide`] that all threads may read.
#[derive(Debug)]
pub(super) struct SharedSide(AtomicU8);

impl SharedSide {
    pub(super) fn new(side: WriteSide) -> Self {
        Self(AtomicU8::new(side as u8))
    }

    /// Changes the state. For a holder of the queue's lock.
    pub(super) fn set(&self, side: WriteSide) {
        self.0.store(side as u8, Ordering::Release);
    }

    #[inline]
    pub(super) fn now(&self) -> WriteSide {
        const ALL: [WriteSide; 5] = [
            WriteSide::Connecting,
            WriteSide::Open,
            WriteSide::Closing,
            WriteSide::Ended,
            WriteSide::Detached,
        ];
        ALL[usize::from(self.0.load(Ordering::Acquire))]
    }

    /// Whether no more bytes are accepted.
    #[inline]
    pub(super) fn is_sealed(&self) -> bool {
        self.0.load(Ordering::Acquire) >= WriteSide::Closing as u8
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn each_side_is_read_as_it_was_set() {
        use WriteSide::{Closing, Connecting, Detached, Ended, Open};
        for side in [Connecting, Open, Closing, Ended, Detached] {
            let shared = SharedSide::new(Open);
            shared.set(side);
            assert_eq!(shared.now(), side);
            assert_eq!(shared.is_sealed(), !matches!(side, Connecting | Open));
        }
    }
}
