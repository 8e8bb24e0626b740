//! Calls in steps: for code that waits in its own way.
//!
//! ```text
//!     Connecting ─► Waiting (for room in the output) ─► Sent (for the response) ─► Over
//!         └── an error, the deadline, or the drop, at any time ──────────────────────┘
//! ```

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use netpoll_core::{Error, Notify, Result, Wait, clock};

use super::link::Look;
use super::protocol::MuxProtocol;
use super::wire::{SentCall, Wire};
use super::{Mux, MuxInner, queue};
use crate::dial::Step;
use crate::dialling::Advance;

/// A call under way. Its drop gives it up: a request that was sent is not taken back, and its
/// response is dropped when it comes.
pub struct MuxCall<P: MuxProtocol> {
    inner: Arc<MuxInner<P>>,
    deadline: Option<Instant>,
    notify: Arc<Notify>,
    stage: Stage<P>,
}

enum Stage<P: MuxProtocol> {
    Connecting(P::Request),
    Waiting(P::Request, Arc<Wire<P>>),
    Sent(SentCall<P>),
    Over,
}

/// Nothing of it is pinned.
impl<P: MuxProtocol> Unpin for MuxCall<P> {}

impl<P: MuxProtocol> Mux<P> {
    /// Begins a call; `notify` is told when there is a step to be taken. All errors end the steps.
    #[doc(hidden)]
    pub fn begin_call(
        &self,
        request: P::Request,
        timeout: Duration,
        notify: &Arc<Notify>,
    ) -> MuxCall<P> {
        MuxCall {
            inner: self.inner.clone(),
            deadline: clock::now().checked_add(timeout),
            notify: notify.clone(),
            stage: Stage::Connecting(request),
        }
    }
}

impl<P: MuxProtocol> MuxCall<P> {
    fn connect(&mut self, request: P::Request) -> Step<Result<P::Response>> {
        let MuxInner { context, links } = &*self.inner;
        let ours = &links[queue::thread_number() % links.len()];
        let mut up = ours.ensure(context);
        if up.is_none() {
            up = links.iter().find_map(|link| link.up());
        }
        let looked = up.map_or_else(
            || ours.look(context, self.deadline, &self.notify),
            |wire| Ok(Look::Up(wire)),
        );
        match looked {
            Ok(Look::Up(wire)) => self.send(request, wire),
            Ok(Look::Until(at)) => {
                self.stage = Stage::Connecting(request);
                Step::Until(at)
            }
            Err(error) => Step::Over(Err(error)),
        }
    }

    fn send(&mut self, request: P::Request, wire: Arc<Wire<P>>) -> Step<Result<P::Response>> {
        match wire.has_room(&self.notify) {
            Ok(true) => {}
            Ok(false) if self.deadline.is_some_and(|at| clock::now() >= at) => {
                return Step::Over(Err(Error::TimedOut(Wait::Write)));
            }
            Ok(false) => {
                self.stage = Stage::Waiting(request, wire);
                return Step::Until(self.deadline);
            }
            Err(error) => return Step::Over(Err(error)),
        }
        match wire.begin(request, &self.notify) {
            Ok(sent) => self.wait(sent),
            Err(error) => Step::Over(Err(error)),
        }
    }

    fn wait(&mut self, mut sent: SentCall<P>) -> Step<Result<P::Response>> {
        let step = sent.advance(self.deadline);
        if matches!(step, Step::Until(_)) {
            self.stage = Stage::Sent(sent);
        }
        step
    }
}

impl<P: MuxProtocol> Advance for MuxCall<P> {
    type Output = Result<P::Response>;

    fn advance(&mut self) -> Step<Self::Output> {
        match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Connecting(request) => self.connect(request),
            Stage::Waiting(request, wire) => self.send(request, wire),
            Stage::Sent(sent) => self.wait(sent),
            // `encode` has panicked.
            Stage::Over => Step::Over(Err(Error::Closed)),
        }
    }
}

impl<P: MuxProtocol> fmt::Debug for MuxCall<P> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("MuxCall").field("deadline", &self.deadline).finish_non_exhaustive()
    }
}
