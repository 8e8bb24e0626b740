//! Marks that few connections get, as bits of one byte, since a connection is to be small.

use crate::base::sync::{AtomicU8, Ordering};

/// A send failed, so accepted bytes are lost. Set and looked at under the lock of the output.
const CUT: u8 = 1;
/// A timeout or a deadline of its waits was set at some time; the others ask no lock for them.
const WAITS: u8 = 2;
/// One was set since the callbacks last asked.
const NEW_WAITS: u8 = 4;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Marks(AtomicU8);

impl Marks {
    pub(super) fn is_cut(&self) -> bool {
        self.0.load(Ordering::Relaxed) & CUT != 0
    }

    pub(super) fn set_cut(&self) {
        self.0.fetch_or(CUT, Ordering::Relaxed);
    }

    pub(super) fn has_waits(&self) -> bool {
        self.0.load(Ordering::Acquire) & WAITS != 0
    }

    /// What limits the waits has changed: a future that waits looks at it anew.
    pub(super) fn note_waits(&self) {
        self.0.fetch_or(WAITS | NEW_WAITS, Ordering::AcqRel);
    }

    /// For a callback that polls a future; one load if nothing has changed.
    #[inline]
    pub(super) fn take_new_waits(&self) -> bool {
        self.0.load(Ordering::Relaxed) & NEW_WAITS != 0
            && self.0.fetch_and(!NEW_WAITS, Ordering::AcqRel) & NEW_WAITS != 0
    }
}
