//! An output whose connection has a filter: plain bytes are queued, and sealed on their way out.

use std::io::ErrorKind;
use std::num::NonZeroI32;
use std::sync::Arc;

use bytes::Bytes;
use netpoll_buffer::LinkBuffer;

use super::queue::Queue;
use super::sealing::{Sealing, Stage};
use super::{BLOCKED, FAILURE, FILTERED, FollowUp, Output, errno_of};
use crate::base::error::{Error, Result};
use crate::base::filter_error::FilterError;
use crate::base::memory::Memory;
use crate::base::sync::{Ordering, lock};
use crate::connection::backlog::Spent;
use crate::io::filter::Filter;
use crate::io::stream::PROTOCOL;

/// The errno that stands for the error of a filter.
const FILTER_FAILED: NonZeroI32 = PROTOCOL;

impl Output {
    /// The same output, for a connection that will have a filter: nothing is sent before that.
    pub(crate) fn filtered(self, memory: &Memory) -> Self {
        lock(&self.queue).rare.get_or_insert_default().sealing =
            Some(Box::new(Sealing::new(memory)));
        self.flags.store(FILTERED, Ordering::SeqCst);
        self
    }

    /// Sets the filter, and sends what it has to say first.
    pub(crate) fn set_filter(&self, filter: Arc<dyn Filter>) -> FollowUp {
        if let Some(sealing) = lock(&self.queue).sealing() {
            sealing.set_filter(filter);
        }
        self.speak(false)
    }

    /// Sends these bytes as they are, before what the filter says. Returns whether there will be a
    /// filter, and it has said nothing yet.
    pub(crate) fn begin_with(&self, bytes: Bytes) -> bool {
        lock(&self.queue).sealing().is_some_and(|sealing| sealing.begin_with(bytes))
    }

    /// The connection goes on without a filter: sends what has waited for that.
    pub(crate) fn unfilter(&self) -> FollowUp {
        let mut spent = Spent::default();
        let mut queue = lock(&self.queue);
        if let Some(rare) = &mut queue.rare {
            rare.sealing = None;
        }
        self.flags.fetch_and(!FILTERED, Ordering::SeqCst);
        self.go_on_filtered(&mut queue, &mut spent)
    }

    /// Sends what the filter has to say by itself; if the handshake `is_over`, also what has waited
    /// for that.
    pub(crate) fn speak(&self, is_over: bool) -> FollowUp {
        let mut spent = Spent::default();
        let mut queue = lock(&self.queue);
        let Some(sealing) = queue.sealing() else { return FollowUp::NONE };
        if let Err(error) = sealing.say() {
            self.fail_filtered(&mut queue, error, &mut spent);
            let next = self.go_on_filtered(&mut queue, &mut spent);
            return FollowUp { events: FAILURE, ..next };
        }
        if is_over {
            sealing.open();
        }
        self.go_on_filtered(&mut queue, &mut spent)
    }

    /// The receive half has failed: sends what the filter has to say to that, and nothing more.
    pub(crate) fn refuse(&self, error: FilterError) -> FollowUp {
        let mut spent = Spent::default();
        let mut queue = lock(&self.queue);
        if let Some(sealing) = queue.sealing() {
            // The error of the receive half is the cause, whatever this one says.
            let _ = sealing.say();
        }
        self.fail_filtered(&mut queue, error, &mut spent);
        self.go_on_filtered(&mut queue, &mut spent)
    }

    /// Sends what is queued and what is sealed, unless an event that the socket takes more will.
    fn go_on_filtered(&self, queue: &mut Queue, spent: &mut Spent) -> FollowUp {
        if self.is_blocked() {
            return FollowUp::NONE;
        }
        let Ok(unfinished) = self.send_backlog(queue, spent) else {
            return FollowUp { events: FAILURE, ..FollowUp::NONE };
        };
        let relieved = self.end(queue);
        FollowUp { relieved, ..unfinished }
    }

    /// As [`send_burst`](Self::send_burst) in `sending.rs`, for bytes that a filter seals, unless
    /// they have to wait behind others or for the end of the handshake.
    #[cold]
    #[inline(never)]
    pub(super) fn send_behind(
        &self,
        queue: &mut Queue,
        bytes: &mut LinkBuffer,
        spent: &mut Spent,
    ) -> Result<FollowUp> {
        if self.flags.load(Ordering::SeqCst) != FILTERED || queue.backlog.is_some() {
            return Ok(FollowUp::NONE);
        }
        self.send_burst_by(Self::transmit_sealed, queue, bytes, spent)
    }

    /// As [`transmit`](Self::transmit) in `sending.rs`, through the filter. Bytes leave `bytes`
    /// when the socket has taken their record.
    pub(super) fn transmit_sealed(
        &self,
        queue: &mut Queue,
        bytes: &mut LinkBuffer,
        spent: &mut Spent,
    ) -> Result<()> {
        let (mut blocked, mut failed) = (false, None);
        loop {
            let Queue { hold: Some(hold), rare: Some(rare), .. } = queue else {
                return Err(Error::Closed);
            };
            let Some(sealing) = rare.sealing.as_deref_mut() else { return Err(Error::Closed) };
            if let Err(error) = sealing.seal_ahead(bytes) {
                self.marks.set_cut();
                spent.take_all(bytes);
                self.fail_filtered(queue, error.clone(), spent);
                // What was sealed before is still sent.
                failed = Some(error);
                continue;
            }
            sealing.count();
            if sealing.is_drained() {
                break;
            }
            match self.socket.stream(hold).push(sealing.wire()) {
                Ok(pushed) => {
                    let plain = sealing.took(pushed.taken);
                    sealing.count();
                    self.sent.store(self.sent() + plain as u64, Ordering::Relaxed);
                    spent.take(bytes, plain);
                    if pushed.wants {
                        continue;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => {
                    sealing.lose();
                    self.fail_socket(queue, errno_of(&error), bytes, spent);
                    return Err(error.into());
                }
            }
            if blocked {
                return failed.map_or(Ok(()), |error| Err(error.into()));
            }
            self.set_blocked(true);
            blocked = true;
        }
        if blocked {
            // As in `transmit`.
            self.set_blocked(false);
        }
        failed.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Ends our stream in the filter's way, and sends that as far as the socket takes it. Does
    /// nothing the second time, without a filter, and before the end of the handshake.
    pub(super) fn finish_filter(&self, queue: &mut Queue) {
        if self.flags.load(Ordering::SeqCst) & FILTERED == 0 {
            return;
        }
        let mut spent = Spent::default();
        let Some(sealing) = queue.sealing() else { return };
        if sealing.stage() != Stage::Open {
            return;
        }
        if let Err(error) = sealing.finish() {
            self.fail_filtered(queue, error, &mut spent);
        }
        if !self.is_blocked() {
            // An error is kept as that of any send.
            drop(self.transmit_sealed(queue, &mut LinkBuffer::new(), &mut spent));
        }
    }

    /// Whether our stream may end now: the filter, if there is one, has said that it does.
    pub(super) fn is_filter_over(&self, queue: &mut Queue) -> bool {
        self.flags.load(Ordering::SeqCst) & FILTERED == 0
            || queue.sealing().is_none_or(|it| it.stage() == Stage::Over && it.is_drained())
    }

    /// If the handshake is not over yet, nothing that waits for its end will be sent: the
    /// connection closes. Nor is the rest of a message of the handshake worth a wait for a peer
    /// that may take nothing.
    pub(super) fn give_up_handshake(&self, queue: &mut Queue, spent: &mut Spent) {
        if queue.sealing().is_some_and(|it| it.stage() == Stage::Handshaking) {
            let mut unsent = queue.give_up(self.sent(), spent);
            spent.take_all(&mut unsent);
            if let Some(sealing) = queue.sealing() {
                sealing.drop_said();
            }
        }
    }

    /// Whether a filter stands between the queue and the socket, or will.
    pub(crate) fn is_filtered(&self) -> bool {
        self.flags.load(Ordering::SeqCst) & FILTERED != 0
    }

    /// The filter has failed: what is queued will not be sent. What is sealed still is.
    fn fail_filtered(&self, queue: &mut Queue, error: FilterError, spent: &mut Spent) {
        if let Some(sealing) = queue.sealing() {
            sealing.fail(error);
        }
        queue.failure.get_or_insert(FILTER_FAILED);
        let errno = queue.errno();
        if let Some(mut backlog) = queue.backlog.take() {
            backlog.release(self.sent());
            backlog.receipts.settle_all(self.sent(), errno, spent.settled());
            spent.take_all(&mut backlog.bytes);
        }
        self.congested.store(false, Ordering::Release);
        self.wake(queue);
    }

    pub(super) fn set_blocked(&self, blocked: bool) {
        if blocked {
            self.flags.fetch_or(BLOCKED, Ordering::SeqCst);
        } else {
            self.flags.fetch_and(!BLOCKED, Ordering::SeqCst);
        }
    }
}

#[cfg(all(test, not(loom)))]
#[path = "filtered_tests.rs"]
mod tests;
