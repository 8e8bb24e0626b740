//! The scratch: what the owner of a datagram socket works with during a run.
//!
//! A thread has one, and lends it to one socket after another, so the memory of places is for
//! threads, not for sockets. What is left of it between runs is what the last receive needed.

use std::cell::{Cell, RefCell};

use super::staged::Staged;
use crate::io::datagram::{Envelopes, Places};

/// The places, the answers and the envelopes of one run.
#[derive(Default)]
pub(super) struct Scratch {
    pub(super) places: Places,
    pub(super) staged: RefCell<Staged>,
}

thread_local! {
    /// The scratch of this thread, while no socket has it.
    static FREE: Cell<Option<Scratch>> = const { Cell::new(None) };
    static ENVELOPES: Cell<Option<Box<Envelopes>>> = const { Cell::new(None) };
}

impl Scratch {
    /// Takes this thread's scratch, or makes a new one.
    pub(super) fn take() -> Self {
        FREE.try_with(Cell::take).ok().flatten().unwrap_or_default()
    }

    /// Gives it back to the thread, with so many places at the most.
    pub(super) fn leave(mut self, places: usize) {
        self.places.clear();
        self.places.keep(places);
        self.staged.get_mut().clear();
        // A thread that ends has no place for it.
        if let Ok(Some(second)) = FREE.try_with(|free| free.replace(Some(self))) {
            drop(second);
        }
    }
}

/// Sends with this thread's envelopes.
pub(super) fn with_envelopes<R>(send: impl FnOnce(&mut Envelopes) -> R) -> R {
    let mut envelopes = ENVELOPES.try_with(Cell::take).ok().flatten().unwrap_or_default();
    let sent = send(&mut envelopes);
    let _ = ENVELOPES.try_with(|free| free.set(Some(envelopes)));
    sent
}
