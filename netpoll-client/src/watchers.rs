//! Work that no thread waits for, and that is to be told of the next change.

use std::sync::{Arc, Mutex, Weak};

use netpoll_core::Notify;

use crate::sync::lock;

/// See the module. What is told is forgotten, and so is what was dropped.
#[derive(Debug, Default)]
pub(crate) struct Watchers(Mutex<Vec<Weak<Notify>>>);

impl Watchers {
    /// Tells `notify` of the next change. The caller looks after this.
    pub(crate) fn add(&self, notify: &Arc<Notify>) {
        let mut all = lock(&self.0);
        if all.len() == all.capacity() {
            // Before it grows, so that what was dropped takes half of it at the most.
            all.retain(|notify| notify.strong_count() > 0);
        }
        all.push(Arc::downgrade(notify));
    }

    /// Something has changed.
    pub(crate) fn tell(&self) {
        let all = std::mem::take(&mut *lock(&self.0));
        for notify in all.iter().filter_map(Weak::upgrade) {
            notify.notify();
        }
    }
}
