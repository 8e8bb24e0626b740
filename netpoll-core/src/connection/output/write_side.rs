//! The write side of a connection: whether it takes bytes, and whether our stream has ended.
//!
//! ```text
//!     Connecting ── connected ──► Open ── sealed: a close, or shutdown_write ──► Closing
//!         │                        │                                               │ all is sent:
//!         └──────── sealed ────────┼──────────────────────────────────────────────►┤ FIN
//!                                  │ detached                                      ▼
//!                                  └────────────► Detached                       Ended
//! ```
//! It changes under the lock of the queue, and is read without it: it has no copy anywhere.

use crate::base::sync::{AtomicU8, Ordering};

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WriteSide {
    /// Dialled, and not connected yet.
    Connecting,
    Open,
    /// Our stream is to end: what is queued goes out, nothing more comes in.
    Closing,
    /// Our stream has ended: the FIN is behind what was queued.
    Ended,
    /// The socket was given away: nothing here touches it any more, but to stop watching it.
    Detached,
}

/// A [`WriteSide`] that all may read.
#[derive(Debug)]
pub(super) struct SharedSide(AtomicU8);

impl SharedSide {
    pub(super) fn new(side: WriteSide) -> Self {
        Self(AtomicU8::new(side as u8))
    }

    /// For a holder of the queue's lock.
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

    /// Whether it takes no more bytes.
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
