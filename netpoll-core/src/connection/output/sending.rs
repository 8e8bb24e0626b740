//! How bytes leave an output: at once from the sender's blocks, or from the backlog, in bursts.

use std::io::ErrorKind;
use std::num::NonZeroI32;

use netpoll_buffer::LinkBuffer;

use super::queue::Queue;
use super::{BLOCKED, FollowUp, Output, errno_of};
use crate::base::error::{Error, Result};
use crate::base::sync::Ordering;
use crate::connection::backlog::{Backlog, Spent};
use crate::connection::policy::Policy;
use crate::connection::receipt::{Receipt, Settled};
use crate::pure::task::Events;

/// How many bytes are sent in one go before others get the loop and the lock: some 100 µs of work.
/// Without it a peer that reads as fast as we send would keep both until the queue is empty.
pub(super) const BURST: usize = 1 << 20;

/// How bytes leave: as they are, or through a filter.
type Transmit = fn(&Output, &mut Queue, &mut LinkBuffer, &mut Spent) -> Result<()>;

impl Output {
    #[inline]
    pub(super) fn push(
        &self,
        queue: &mut Queue,
        bytes: &mut LinkBuffer,
        receipt: &mut Option<Receipt>,
        policy: &Policy,
        spent: &mut Spent,
    ) -> Result<FollowUp> {
        let start = self.sent() + queue.pending() as u64;
        let len = bytes.len();
        let is_behind = queue.backlog.is_some() || self.flags.load(Ordering::SeqCst) != 0;
        // From the caller's own blocks: what the socket takes at once is never queued.
        let sent = if is_behind {
            self.send_behind(queue, bytes, spent)
        } else {
            self.send_burst(queue, bytes, spent)
        };
        if let Ok(unfinished) = sent
            && !(bytes.is_empty() && queue.backlog.is_none())
        {
            let backlog =
                queue.backlog.get_or_insert_with(|| Box::new(Backlog::new(&policy.memory)));
            backlog.append(bytes, &policy.memory, spent);
            if let Some(receipt) = receipt.take() {
                backlog.receipts.push(start, len, receipt);
            }
            let before = backlog.bytes.len() <= policy.limits.output.high
                || self.congested.swap(true, Ordering::AcqRel);
            let events = if before { Events::NONE } else { Events::HIGH_WATER };
            return Ok(FollowUp { events, ..unfinished });
        }
        if let Some(receipt) = receipt.take() {
            let written = (self.sent() - start) as usize;
            spent.settled().push(Settled::new(receipt, written, len, queue.errno()));
        }
        sent
    }

    /// Sends the backlog, up to a burst, and what a filter has ready.
    pub(super) fn send_backlog(&self, queue: &mut Queue, spent: &mut Spent) -> Result<FollowUp> {
        let is_filtered = self.is_filtered();
        let transmit = if is_filtered { Self::transmit_sealed } else { Self::transmit };
        let Some(mut backlog) = queue.backlog.take() else {
            if is_filtered {
                transmit(self, queue, &mut LinkBuffer::new(), spent)?;
            }
            return Ok(FollowUp::NONE);
        };
        let sent = self.send_burst_by(transmit, queue, &mut backlog.bytes, spent);
        backlog.receipts.settle_to(self.sent(), spent.settled());
        if sent.is_err() {
            backlog.release(self.sent());
            backlog.receipts.settle_all(self.sent(), queue.errno(), spent.settled());
            spent.take_all(&mut backlog.bytes);
        } else if !backlog.is_done() {
            backlog.count();
            queue.backlog = Some(backlog);
        }
        sent
    }

    /// Sends what the socket takes of `bytes`, but no more than a burst. After a whole burst it
    /// returns [`FollowUp::UNSENT`], since others have their turn first.
    #[inline]
    fn send_burst(
        &self,
        queue: &mut Queue,
        bytes: &mut LinkBuffer,
        spent: &mut Spent,
    ) -> Result<FollowUp> {
        if bytes.len() <= BURST {
            return self.transmit(queue, bytes, spent).map(|()| FollowUp::NONE);
        }
        self.send_first(Self::transmit, queue, bytes, spent)
    }

    /// The same, in this way.
    pub(super) fn send_burst_by(
        &self,
        transmit: Transmit,
        queue: &mut Queue,
        bytes: &mut LinkBuffer,
        spent: &mut Spent,
    ) -> Result<FollowUp> {
        if bytes.len() <= BURST {
            return transmit(self, queue, bytes, spent).map(|()| FollowUp::NONE);
        }
        self.send_first(transmit, queue, bytes, spent)
    }

    /// Sends the first burst of `bytes`, which are more than one.
    #[cold]
    fn send_first(
        &self,
        transmit: Transmit,
        queue: &mut Queue,
        bytes: &mut LinkBuffer,
        spent: &mut Spent,
    ) -> Result<FollowUp> {
        let mut first = bytes.slice(BURST)?;
        if let Err(error) = transmit(self, queue, &mut first, spent) {
            spent.take_all(bytes);
            return Err(error);
        }
        if first.is_empty() {
            // As after a full socket, except that no event follows.
            self.set_blocked(true);
            return Ok(FollowUp::UNSENT);
        }
        first.append(std::mem::take(bytes));
        first.flush();
        *bytes = first;
        Ok(FollowUp::NONE)
    }

    /// Sends until `bytes` is empty or the socket is full; then [`BLOCKED`] is set. Bytes that
    /// can't be sent at all go to `spent` as well.
    fn transmit(&self, queue: &mut Queue, bytes: &mut LinkBuffer, spent: &mut Spent) -> Result<()> {
        let Some(hold) = &queue.hold else { return Err(Error::Closed) };
        let stream = self.socket.stream(hold);
        let mut blocked = false;
        while !bytes.is_empty() {
            match stream.push(bytes) {
                Ok(pushed) => {
                    self.sent.store(self.sent() + pushed.taken as u64, Ordering::Relaxed);
                    spent.take(bytes, pushed.taken);
                    if pushed.wants {
                        continue;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => {
                    self.fail_socket(queue, errno_of(&error), bytes, spent);
                    return Err(error.into());
                }
            }
            if blocked {
                return Ok(());
            }
            self.flags.store(BLOCKED, Ordering::SeqCst);
            blocked = true;
        }
        if blocked {
            // The last try succeeded. An event that came before `blocked` was set is gone, and
            // perhaps no other follows: the next send must try the socket.
            self.flags.store(0, Ordering::SeqCst);
        }
        Ok(())
    }

    /// The socket has failed, and what is to be sent is lost.
    #[cold]
    #[inline(never)]
    pub(super) fn fail_socket(
        &self,
        queue: &mut Queue,
        errno: NonZeroI32,
        bytes: &mut LinkBuffer,
        spent: &mut Spent,
    ) {
        queue.failure = Some(errno);
        self.marks.set_cut();
        spent.take_all(bytes);
        self.congested.store(false, Ordering::Release);
        self.wake(queue);
    }
}
