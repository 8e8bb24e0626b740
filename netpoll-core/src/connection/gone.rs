//! Watching for the going of a peer: what a callback does for it elsewhere can be given up.

use std::fmt;
use std::sync::Arc;

use super::extras::{Gone, OnClose};
use super::shared::Shared;
use super::{Connection, Handle};
use crate::base::blocking::Forbidden;
use crate::base::panic::guard;
use crate::pure::task::Events;

/// Keeps a closure of [`Handle::on_gone`]. Dropping it drops the closure, unless that was called.
///
/// The closure may be running on another thread when the drop returns, but does not begin after it.
#[must_use = "the closure is dropped with this"]
pub struct GoneWatch {
    shared: Arc<Shared>,
    /// `None` if the closure was called at once.
    number: Option<u64>,
}

impl Drop for GoneWatch {
    fn drop(&mut self) {
        let Some(number) = self.number else { return };
        if let Some(callback) = self.shared.extras.unwatch_peer(&self.shared.task.word, number) {
            release(callback);
        }
    }
}

impl Connection {
    /// Calls `callback` if the peer vanishes while a callback waits for something else; see
    /// [`Handle::on_gone`].
    pub fn on_gone(&self, callback: impl FnOnce() + Send + 'static) -> GoneWatch {
        self.handle().on_gone(callback)
    }

    /// As [`on_gone`](Self::on_gone), and also if the peer ends its stream; see
    /// [`Handle::on_gone_or_ended`].
    pub fn on_gone_or_ended(&self, callback: impl FnOnce() + Send + 'static) -> GoneWatch {
        self.handle().on_gone_or_ended(callback)
    }
}

impl Handle {
    /// Calls `callback` once when no answer can reach the peer any more, as
    /// [`is_gone`](Self::is_gone) says it: so what is done for it elsewhere, such as a call to
    /// another server, can be given up. If that is so already, it is called before this returns.
    /// Keep the [`GoneWatch`] for as long as you wait; its drop drops the closure.
    ///
    /// A FIN is not enough: the peer may wait for its answer. Many clients that vanish send no more
    /// than that, so see [`on_gone_or_ended`](Self::on_gone_or_ended). After a failure of its
    /// machine or network a peer sends nothing at all: the kernel finds it by keepalive probes, if
    /// they are set.
    ///
    /// The closure runs on the thread that learns of it: usually the connection's loop, else one
    /// that closes the connection, or this one. It must not block, and waits in it are refused. A
    /// panic in it is logged, and goes no further. Under `Dispatch::Inline` a callback that blocks
    /// holds its loop, which then sees nothing; wherever another thread waits it does.
    ///
    /// Costs nothing for a connection that is not watched.
    ///
    /// ```
    /// use netpoll_core::{Connection, Result};
    ///
    /// /// Asks another server, and stops asking when the client has gone.
    /// fn ask(client: &Connection, origin: &mut Connection) -> Result<u8> {
    ///     let asked = origin.handle();
    ///     let _watch = client.on_gone(move || asked.abort()); // ends the read below
    ///     origin.writer().write_bytes(b"?");
    ///     origin.writer().flush()?;
    ///     origin.reader().read_byte()
    /// }
    /// ```
    pub fn on_gone(&self, callback: impl FnOnce() + Send + 'static) -> GoneWatch {
        self.watch(Gone::Unreachable, Box::new(callback))
    }

    /// As [`on_gone`](Self::on_gone), and also if the peer has ended its stream (FIN): for
    /// protocols whose clients never half-close, so that a client that closes its socket has given
    /// up.
    pub fn on_gone_or_ended(&self, callback: impl FnOnce() + Send + 'static) -> GoneWatch {
        self.watch(Gone::OrEnded, Box::new(callback))
    }

    fn watch(&self, gone: Gone, callback: OnClose) -> GoneWatch {
        let shared = self.shared();
        let Shared { extras, task, .. } = &**shared;
        let mut callback = Some(callback);
        let number = extras.watch_peer(&task.word, gone, &mut callback);
        if let Some(callback) = callback {
            call(callback);
        }
        // An event that came before the bit was set has called nothing.
        shared.tell_if_gone();
        GoneWatch { shared: shared.clone(), number }
    }
}

impl Shared {
    /// Whether nothing more can be sent to the peer.
    pub(crate) fn is_gone(&self) -> bool {
        self.task.word.events().has_any(Events::OVER.or(Events::FAILED))
            || self.task.word.is_closed()
            || self.output.is_sealed()
    }

    /// Calls what is to be called now that the peer may be gone. For each event that may say so,
    /// after it was noted; costs one load if nothing is to be called.
    #[cold]
    pub(crate) fn tell_if_gone(&self) {
        let events = self.task.word.events();
        if !events.has_any(Events::WATCHED) {
            return;
        }
        let is_unreachable = self.is_gone();
        if is_unreachable || events.has_any(Events::PEER_GONE) {
            self.call_watches(is_unreachable);
        }
    }

    /// The connection ends: calls all that is to be called when the peer is gone.
    pub(crate) fn tell_gone(&self) {
        if self.task.word.events().has_any(Events::WATCHED) {
            self.call_watches(true);
        }
    }

    fn call_watches(&self, is_unreachable: bool) {
        for callback in self.extras.take_watches(&self.task.word, is_unreachable) {
            call(callback);
        }
    }
}

/// Calls a closure. This may be a reactor's thread, which must not stand still.
fn call(callback: OnClose) {
    let _forbidden = Forbidden::here();
    guard("on_gone", callback).ok();
}

/// Drops a closure that was not called. What it captured is the user's, and its drop may panic.
fn release(callback: OnClose) {
    guard("the release of an on_gone", || drop(callback)).ok();
}

impl fmt::Debug for GoneWatch {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("GoneWatch").field(&self.shared).finish()
    }
}
