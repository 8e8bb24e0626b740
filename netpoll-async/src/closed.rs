//! What tells a future that its peer is gone.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use netpoll_core::{GoneWatch, Handle};

use crate::signal::{Signal, Signalled};

/// See [`AsyncConnection::closed`](crate::AsyncConnection::closed).
pub struct Closed {
    told: Signalled,
    /// Its drop ends the watch.
    _watch: GoneWatch,
}

impl Closed {
    pub(crate) fn new(handle: &Handle) -> Self {
        let signal = Signal::default();
        let told = signal.wait();
        Self { told, _watch: handle.on_gone(move || signal.raise()) }
    }
}

impl Future for Closed {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.told).poll(context)
    }
}

impl fmt::Debug for Closed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Closed").finish_non_exhaustive()
    }
}
