//! What other threads hold of a connection.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use netpoll_buffer::LinkBuffer;

use super::mailbox::Command;
use crate::base::address::Address;
use crate::base::blocking;
use crate::base::clock::{self, later};
use crate::base::error::{Error, Result};
use crate::base::limits::ReceiveRate;
use crate::base::origin::ListenerInfo;
use crate::pure::task::Events;

use super::Connection;
use super::job::{Call, Job, Timer};
use super::output::FollowUp;
use super::receipt::{Delivery, Receipt};
use super::schedule::schedule;
use super::shared::Shared;

/// A connection as other threads see it: `Clone + Send + Sync`, and harmless when it outlives the
/// connection, since every operation then fails with [`Error::Closed`](crate::Error::Closed) and
/// none can reach the next owner of its descriptor. It keeps some hundred bytes and its
/// loop's eventfd alive, not the socket; a loop that `PollManager::set_loops` retired ends with the
/// last handle to one of its connections.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl Handle {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Whether it is a handle of this connection.
    pub fn is_of(&self, connection: &Connection) -> bool {
        Arc::ptr_eq(&self.shared, &connection.shared)
    }

    /// Sends a message behind all that was accepted before, in one piece. It tries the socket at
    /// once on this thread; what the socket does not take is sent by the reactor. Never blocks
    /// on the network.
    ///
    /// # Errors
    /// [`Error::Full`](crate::Error::Full) while the queue is above its high-water mark,
    /// [`Error::Closed`](crate::Error::Closed) once a close has begun, the socket's error once it
    /// has failed. In each case nothing of the message was accepted by this call, except that a
    /// socket which fails in the middle of it may have sent a part.
    pub fn send(&self, message: impl Into<Bytes>) -> Result<()> {
        self.offer(message.into(), &mut None)
    }

    /// [`send`](Self::send), and has `receipt` told once what became of the message: the socket has
    /// taken all of it, or why it won't, and how much it has. Taken by the socket is not received
    /// by the peer; only an answer says that.
    ///
    /// The receipt runs on the thread that comes to know: this one, another sender's, the
    /// reactor's. It must not block. Receipts of different messages may run at the same time, but
    /// those that become due on a thread while one runs there are told after it.
    ///
    /// # Errors
    /// As [`send`](Self::send): then nothing was accepted, and the receipt is dropped. A socket
    /// that fails in the middle of the message is no error here: the receipt tells.
    pub fn send_with(
        &self,
        message: impl Into<Bytes>,
        receipt: impl FnOnce(Delivery) + Send + 'static,
    ) -> Result<()> {
        let mut receipt: Option<Receipt> = Some(Box::new(receipt));
        match self.offer(message.into(), &mut receipt) {
            Err(_) if receipt.is_none() => Ok(()),
            outcome => outcome,
        }
    }

    /// Sends all that was written to `buffer`, as [`send`](Self::send) does, but also above the
    /// high-water mark: for those who bound what they send by other means, such as
    /// [`wait_for_room`](Self::wait_for_room). It moves blocks and copies little.
    ///
    /// # Errors
    /// Those of `send` but `Full`.
    pub fn send_buffer(&self, mut buffer: LinkBuffer) -> Result<()> {
        buffer.flush();
        self.shared.check_over()?;
        self.tell(self.shared.output.send(&mut buffer, &self.shared.group.policy))
    }

    /// Waits until `send` is not refused: at once below the high-water mark, and above it until the
    /// queue has fallen below the low-water mark. Costs one load where it needn't wait.
    ///
    /// # Errors
    /// [`Error::TimedOut`](crate::Error::TimedOut) at `deadline`, or at the write deadline;
    /// [`Error::Closed`](crate::Error::Closed) and the socket's error as `send`;
    /// [`Error::Config`](crate::Error::Config) in a callback or a receipt that must not wait.
    pub fn wait_for_room(&self, deadline: Option<Instant>) -> Result<()> {
        if !self.shared.output.is_congested() {
            return Ok(());
        }
        blocking::check("wait for room in the output queue")?;
        self.shared.wait_below(deadline)
    }

    /// [`send`](Self::send) that [waits for room](Self::wait_for_room) instead of being refused.
    ///
    /// # Errors
    /// As both.
    pub fn send_wait(&self, message: impl Into<Bytes>, deadline: Option<Instant>) -> Result<()> {
        let message = message.into();
        loop {
            match self.send(message.clone()) {
                Err(Error::Full) => self.wait_for_room(deadline)?,
                outcome => return outcome,
            }
        }
    }

    fn offer(&self, message: Bytes, receipt: &mut Option<Receipt>) -> Result<()> {
        self.shared.check_over()?;
        self.tell(self.shared.output.offer(message, receipt, &self.shared.group.policy))
    }

    /// Tells the connection's owner what a send came to.
    fn tell(&self, sent: Result<FollowUp>) -> Result<()> {
        let events = match &sent {
            Ok(next) if next.is_none() => Events::NONE,
            Ok(next) => self.shared.go_on_later(*next),
            // No edge need follow an error that only a send meets.
            Err(Error::Io(_)) => Events::FAILED | Events::READABLE,
            Err(_) => Events::NONE,
        };
        if events != Events::NONE && self.shared.task.word.notify(events) {
            schedule(&self.shared);
        }
        sent.map(drop)
    }

    /// Has `on_request` called once more, even if no byte arrives. Calls coalesce. A dialled
    /// connection has no callbacks, and nothing happens.
    pub fn wake(&self) {
        if self.shared.task.word.notify(Events::WAKE) {
            schedule(&self.shared);
        }
    }

    /// Runs `job` as a callback of this connection: not while another one runs, where the dispatch
    /// mode says, and never after `on_disconnect`. An error that it returns closes the connection,
    /// as `on_request`'s does. Jobs run in the order of their coming. Never blocks.
    ///
    /// # Errors
    /// [`Error::Closed`] when the connection has ended; [`Error::Config`] for a dialled one, which
    /// has no callbacks. Then the job is dropped; it is also dropped, unrun, by a close.
    pub fn run(
        &self,
        job: impl FnOnce(&mut Connection) -> Result<()> + Send + 'static,
    ) -> Result<()> {
        let job = self.job(None, once(job))?;
        if !self.shared.enqueue(job) {
            return Err(Error::Closed);
        }
        if self.shared.task.word.notify(Events::JOBS) {
            schedule(&self.shared);
        }
        Ok(())
    }

    /// [`run`](Self::run), but `delay` later, by the clock of the connection's loop: up to 1 ms
    /// and what it is busy with late, never early.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_after(
        &self,
        delay: Duration,
        job: impl FnOnce(&mut Connection) -> Result<()> + Send + 'static,
    ) -> Result<Timer> {
        self.schedule(delay, self.job(None, once(job))?)
    }

    /// [`run_after`](Self::run_after) again and again, until it is cancelled or the connection
    /// ends. A job that takes longer than its period, or waits for a thread, skips what it missed.
    ///
    /// # Errors
    /// As [`run`](Self::run), and [`Error::Config`] for a period under 1 ms.
    pub fn run_every(
        &self,
        period: Duration,
        job: impl FnMut(&mut Connection) -> Result<()> + Send + 'static,
    ) -> Result<Timer> {
        if period < Duration::from_millis(1) {
            return Err(Error::config(format!("cannot run every {period:?}: the least is 1 ms")));
        }
        self.schedule(period, self.job(Some(period), Box::new(job))?)
    }

    fn job(&self, period: Option<Duration>, call: Call) -> Result<Arc<Job>> {
        if self.shared.group.is_dialled() {
            return Err(Error::config("a dialled connection has no callbacks to run a job among"));
        }
        Ok(Job::new(period, call))
    }

    fn schedule(&self, delay: Duration, job: Arc<Job>) -> Result<Timer> {
        if self.shared.task.word.is_closed() {
            return Err(Error::Closed);
        }
        let at = later(clock::now(), delay);
        let command = Command::Later(self.shared.clone(), at, job.clone());
        self.shared.reactor.post(command).map_err(|_| Error::Closed)?;
        Ok(Timer { shared: self.shared.clone(), job })
    }

    /// Runs `callback` once when the connection has ended, after `on_disconnect`, on the thread
    /// that ran that; at once, here, if it has ended. The last added runs first. It must not
    /// block.
    pub fn add_close_callback(&self, callback: impl FnOnce() + Send + 'static) {
        self.shared.extras.on_close(Box::new(callback));
    }

    /// Until when reads may wait; `None`, as at the start: as long as the read timeout says. One
    /// that waits already follows the change; one in the past ends it at once. What is there is
    /// still read without waiting.
    pub fn set_read_deadline(&self, at: Option<Instant>) {
        self.shared.extras.set_read_deadline(at);
        self.shared.task.word.nudge();
    }

    /// Until when flushes may wait; as [`set_read_deadline`](Self::set_read_deadline).
    pub fn set_write_deadline(&self, at: Option<Instant>) {
        self.shared.extras.set_write_deadline(at);
        self.shared.output.interrupt();
    }

    /// Closes the connection at that time, with
    /// [`CloseReason::Timeout`](crate::CloseReason::Timeout): for a handshake, a request, a life.
    /// `None` takes it back.
    pub fn close_at(&self, at: Option<Instant>) {
        self.shared.rewatch(|watch| watch.set_deadline(at));
    }

    /// The idle timeout of this connection from now on; see [`Limits`](crate::Limits).
    pub fn set_idle_timeout(&self, timeout: Option<Duration>) {
        let timeout = timeout.map(|timeout| timeout.max(Duration::from_millis(1)));
        self.shared.rewatch(|watch| watch.set_idle(timeout, clock::now()));
    }

    /// The minimum receive rate of this connection from now on; see [`Limits`](crate::Limits).
    pub fn set_min_receive_rate(&self, rate: Option<ReceiveRate>) {
        self.shared.rewatch(|watch| watch.set_rate(rate));
    }

    /// Stops receiving, so that the kernel's receive window fills and the peer waits. `on_request`
    /// runs no more until [`resume_reading`](Self::resume_reading), but for
    /// [`wake`](Self::wake) and what was received before. A read that a callback asks for goes on.
    /// The end of the peer's stream isn't served meanwhile either; `is_active` knows of it.
    pub fn pause_reading(&self) {
        self.shared.task.word.note(Events::PAUSED);
    }

    /// Receives again, and serves what has come meanwhile, and what the last callback left unread.
    pub fn resume_reading(&self) {
        let word = &self.shared.task.word;
        if word.clear(Events::PAUSED) != Events::NONE
            && word.notify(Events::READABLE | Events::RESUMED)
        {
            schedule(&self.shared);
        }
    }

    /// Ends our stream (FIN) when all that was accepted is sent; reading goes on. Nothing can be
    /// sent after it.
    pub fn shutdown_write(&self) {
        let failed = self.shared.output.close();
        // Told even where that is nothing: a connection whose peer has ended its stream closes now.
        if self.shared.task.word.notify(failed) {
            schedule(&self.shared);
        }
    }

    /// Closes by a reset, at once, dropping what was accepted and not sent; ends a wait that a
    /// callback is in. The peer of a dialled connection is told when its owner drops it.
    pub fn abort(&self) {
        self.shared.request_reset();
    }

    /// Closes in order, as [`Connection::close`](crate::Connection::close) does, and ends a wait
    /// that a callback is in. Calling it again does nothing.
    pub fn close(&self) {
        self.shared.request_close();
    }

    /// Whether the connection is fit for another exchange: not closed here, and neither FIN nor
    /// failure seen from the peer. Costs one load, no system call.
    pub fn is_active(&self) -> bool {
        self.shared.is_active()
    }

    /// Bytes accepted that the socket has not taken yet.
    pub fn pending(&self) -> usize {
        self.shared.output.pending()
    }

    /// Whether more is queued than the high-water mark allows, and not yet less than the low one.
    pub fn is_congested(&self) -> bool {
        self.shared.output.is_congested()
    }

    /// How many bytes the socket has taken in all: after an error, how much of what was sent is on
    /// its way.
    pub fn bytes_sent(&self) -> u64 {
        self.shared.output.sent()
    }

    /// How many bytes were received in all.
    pub fn bytes_received(&self) -> u64 {
        self.shared.received()
    }

    /// The peer's address, also after the close.
    pub fn peer_addr(&self) -> Address {
        self.shared.peer().clone()
    }

    /// Whether a shutdown of its event loop has begun: say goodbye when it suits. One load.
    pub fn is_shutting_down(&self) -> bool {
        self.shared.group.is_shutting_down()
    }

    /// The listener that it came by; `None` for one that was dialled.
    pub fn listener(&self) -> Option<&ListenerInfo> {
        self.shared.listener.as_ref().map(|listener| listener.info())
    }

    /// The address of this end. One system call.
    ///
    /// # Errors
    /// The system's, and [`Error::Closed`](crate::Error::Closed).
    pub fn local_addr(&self) -> Result<Address> {
        self.shared.local_addr()
    }
}

fn once(job: impl FnOnce(&mut Connection) -> Result<()> + Send + 'static) -> Call {
    let mut job = Some(job);
    Box::new(move |connection| job.take().map_or(Ok(()), |job| job(connection)))
}

impl fmt::Debug for Handle {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("Handle").field(&self.shared).finish()
    }
}
