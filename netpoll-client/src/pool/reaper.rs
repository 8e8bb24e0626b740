//! A thread that closes what has been idle for too long. It runs while something is idle.

use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::shelf::{Shelf, lock};

/// How long a connection that its peer has closed may stay: its socket is held meanwhile, here and
/// there.
const LOOK: Duration = Duration::from_secs(1);

/// Starts it, unless it runs. Without it idle connections are still not handed out too late.
pub(super) fn ensure(shelf: &Arc<Shelf>) {
    let mut life = lock(&shelf.life);
    if life.is_reaped || life.is_closed {
        return;
    }
    let reaped = shelf.clone();
    let started = thread::Builder::new().name("netpoll-pool".into()).spawn(move || reap(&reaped));
    life.is_reaped = started.is_ok();
    drop(life);
    if let Err(error) = started {
        log::warn!("cannot start a thread that closes idle connections: {error}");
    }
}

fn reap(shelf: &Shelf) {
    loop {
        // Before the look: what becomes idle after it is in its own hands.
        let mut life = lock(&shelf.life);
        let now = Instant::now();
        let left: Vec<_> = shelf.sweep().iter().map(|slot| slot.reap(now)).collect();
        if life.is_closed || !left.iter().any(|(idle, _)| *idle) {
            life.is_reaped = false;
            return;
        }
        let next = left.into_iter().filter_map(|(_, end)| end).min();
        let left = next.map_or(LOOK, |next| next.saturating_duration_since(now).min(LOOK));
        let waited = shelf.closing.wait_timeout(life, left.max(Duration::from_millis(1)));
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}
