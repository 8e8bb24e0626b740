//! A request that was sent. No thread waits for its response.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use netpoll_core::{Error, Notify, Result, Wait, clock};

use super::{PendingCall, Wire};
use crate::dial::Step;
use crate::mux::protocol::MuxProtocol;
use crate::sync::lock;

/// See the module. Its drop gives the request up: its response is dropped when it comes.
pub(in crate::mux) struct SentCall<P: MuxProtocol> {
    wire: Arc<Wire<P>>,
    waiter: Arc<PendingCall<P::Response>>,
    /// `None` once nothing is to be given up.
    id: Option<u32>,
    /// When it was sent, and how many bytes had come by then.
    began: (Instant, u64),
}

impl<P: MuxProtocol> Wire<P> {
    /// Sends a request now. `notify` is told when the response has come, or the connection ends.
    ///
    /// # Errors
    /// As [`call`](Self::call), without those of a wait.
    pub(in crate::mux) fn begin(
        self: &Arc<Self>,
        request: P::Request,
        notify: &Arc<Notify>,
    ) -> Result<SentCall<P>> {
        let began = (clock::now(), self.heard.load(Ordering::Relaxed));
        let handle = self.handle.get().ok_or(Error::Closed)?;
        let waiter = Arc::new(PendingCall::new(Some(notify.clone())));
        let (id, must_send, _) = self.queue_request(request, &waiter)?;
        if must_send {
            self.send_queued(handle);
        }
        Ok(SentCall { wire: self.clone(), waiter, id: Some(id), began })
    }

    /// Whether its output has room; if not, `notify` is told when that has changed.
    ///
    /// # Errors
    /// How the connection has ended.
    pub(in crate::mux) fn has_room(&self, notify: &Arc<Notify>) -> Result<bool> {
        let handle = self.handle.get().ok_or(Error::Closed)?;
        // Asked again once it is noted: the output may have drained in between, and told none.
        let has_room = !handle.is_congested() || {
            self.for_room.add(notify);
            !handle.is_congested()
        };
        match self.failure() {
            Some(failure) => Err(failure.error()),
            None => Ok(has_room),
        }
    }
}

impl<P: MuxProtocol> SentCall<P> {
    /// The response, if it is there; `Until` the deadline if not.
    pub(in crate::mux) fn advance(
        &mut self,
        deadline: Option<Instant>,
    ) -> Step<Result<P::Response>> {
        if let Some(outcome) = self.waiter.take() {
            self.id = None;
            return Step::Over(outcome.map_err(|failure| failure.error()));
        }
        let is_late = deadline.is_some_and(|deadline| clock::now() >= deadline);
        let Some(id) = self.id.filter(|_| is_late) else {
            return Step::Until(deadline.filter(|_| !is_late));
        };
        self.id = None;
        if lock(&self.wire.state).pending.give_up(id).is_none() {
            // It comes at the last moment, and `notify` is told.
            return self.advance(deadline);
        }
        let (began, heard) = self.began;
        self.wire.timed_out(began, heard);
        Step::Over(Err(Error::TimedOut(Wait::Read)))
    }
}

impl<P: MuxProtocol> Drop for SentCall<P> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            let given_up = lock(&self.wire.state).pending.give_up(id);
            drop(given_up);
        }
    }
}

impl<P: MuxProtocol> fmt::Debug for SentCall<P> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("SentCall").field("id", &self.id).finish_non_exhaustive()
    }
}
