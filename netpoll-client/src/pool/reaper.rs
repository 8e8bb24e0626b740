//! A thread that closes connections which were idle for too long. It runs while one is idle.

use std::sync::Arc;
use std::time::Duration;

use netpoll_core::{clock, start_thread};

use super::addresses::Addresses;
use crate::sync::{lock, wait_until};

/// How long a connection that its peer has closed may stay: its socket is held meanwhile, on both
/// sides.
const LOOK: Duration = Duration::from_secs(1);

/// Starts the thread, unless it runs. Without it a checkout still refuses a connection that is too
/// old.
pub(super) fn ensure(addresses: &Arc<Addresses>) {
    let mut life = lock(&addresses.life);
    if life.is_reaped || life.is_closed {
        return;
    }
    let reaped = addresses.clone();
    let started = start_thread("netpoll-pool", move || reap(&reaped));
    life.is_reaped = started.is_ok();
    drop(life);
    if let Err(error) = started {
        log::warn!("cannot start a thread that closes idle connections: {error}");
    }
}

fn reap(addresses: &Addresses) {
    loop {
        // Locked from before the look until this thread waits or ends: so `ensure`, called for a
        // connection that becomes idle after the look, sees whether the thread goes on.
        let mut life = lock(&addresses.life);
        let now = clock::now();
        let left: Vec<_> = addresses.sweep().iter().map(|pool| pool.reap(now)).collect();
        if life.is_closed || !left.iter().any(|(idle, _)| *idle) {
            life.is_reaped = false;
            return;
        }
        let next = left.into_iter().filter_map(|(_, end)| end).min();
        let left = next.map_or(LOOK, |next| next.saturating_duration_since(now).min(LOOK));
        let until = now + left.max(Duration::from_millis(1));
        drop(wait_until(&addresses.closing, life, Some(until)));
    }
}
