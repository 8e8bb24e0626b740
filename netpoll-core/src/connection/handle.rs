//! The handle: how other threads use a connection.

mod jobs;
mod waits;
mod waker;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use netpoll_buffer::LinkBuffer;

use super::Connection;
use super::mailbox::Remote;
use super::output::FollowUp;
use super::receipt::{Delivery, Receipt};
use super::schedule::schedule;
use super::shared::Shared;
use crate::base::address::Address;
use crate::base::blocking;
use crate::base::clock;
use crate::base::error::{Error, Result};
use crate::base::limits::ReceiveRate;
use crate::connection::origin::ListenerInfo;
use crate::io::socket::TcpInfo;
use crate::pure::task::Events;

pub use waits::ReadLimits;

/// A connection as other threads use it: `Clone + Send + Sync`.
///
/// A clone costs one atomic increment. No method blocks on the network, except
/// [`wait_for_room`](Self::wait_for_room) and [`send_wait`](Self::send_wait). A handle may outlive
/// its connection: every operation then fails with [`Error::Closed`](crate::Error::Closed), and
/// none can reach the next owner of the descriptor. It keeps some hundred bytes and the waker of
/// its loop alive, but not the socket. A loop that `PollManager::set_loops` has retired ends with
/// the last handle to one of its connections.
///
/// Two handles are equal if they are of the same connection, and hash as its
/// [`id`](Self::id): so handles may be the keys of a map. (clippy's `mutable_key_type` can't see
/// that neither changes; the id itself is a key without that lint.)
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl Handle {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The number of the connection; see [`Connection::id`]. No system call, also after a close.
    pub fn id(&self) -> u64 {
        self.shared.id
    }

    /// Whether this is a handle of `connection`.
    pub fn is_of(&self, connection: &Connection) -> bool {
        Arc::ptr_eq(&self.shared, &connection.shared)
    }

    /// Sends a message in one piece, behind all that was accepted before. Tries the socket at once,
    /// on this thread; the reactor sends what the socket does not take. Never blocks on the
    /// network.
    ///
    /// What one thread does leaves in its order. If this thread has written to the connection by a
    /// [`Writer`](crate::Writer) and has not flushed, the message is accepted here and stands
    /// behind those bytes. Both leave with the next flush, with the next write or
    /// [`reader`](Connection::reader) of the connection, or when the callback returns. What is sent
    /// to this connection meanwhile, by any thread, waits behind the message. So flush before you
    /// send and then block. If the callback fails, the written bytes are dropped as ever, and the
    /// message is sent.
    ///
    /// # Errors
    /// [`Error::Full`](crate::Error::Full) while the queue is above its high-water mark,
    /// [`Error::Closed`](crate::Error::Closed) after a close has begun, and the socket's error
    /// after it has failed. In each case this call accepted no byte, except that a socket that
    /// fails in the middle of the message may have sent a part.
    pub fn send(&self, message: impl Into<Bytes>) -> Result<()> {
        self.offer(message.into(), &mut None)
    }

    /// As [`send`](Self::send), and calls `receipt` once with the result: the socket has taken the
    /// whole message, or why it won't and how much it has taken. This does not mean that the peer
    /// has received it; only an answer shows that.
    ///
    /// The receipt runs on the thread that finds the result: this one, another sender's, or the
    /// reactor's. It must not block. Receipts of different messages may run at the same time; one
    /// that becomes due on a thread while another runs there is called after it.
    ///
    /// # Errors
    /// As [`send`](Self::send): then nothing was accepted, and the receipt is dropped. A socket
    /// that fails in the middle of the message is no error here; the receipt reports it.
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
    /// high-water mark: for callers that bound what they send by other means, such as
    /// [`wait_for_room`](Self::wait_for_room). It moves blocks and copies little.
    ///
    /// # Errors
    /// Those of `send`, without `Full`.
    pub fn send_buffer(&self, mut buffer: LinkBuffer) -> Result<()> {
        buffer.flush();
        self.shared.check_before_send()?;
        let Shared { output, group, unflushed, .. } = &*self.shared;
        self.tell(output.send(&mut buffer, &group.policy, unflushed))
    }

    /// As [`send_buffer`](Self::send_buffer), but does not wait behind what this thread has written
    /// and not flushed: for a caller that knows that those bytes come later.
    ///
    /// # Errors
    /// Those of `send_buffer`.
    #[doc(hidden)]
    pub fn send_ahead(&self, mut buffer: LinkBuffer) -> Result<()> {
        buffer.flush();
        self.shared.check_before_send()?;
        let Shared { output, group, .. } = &*self.shared;
        self.tell(output.send_ahead(&mut buffer, &group.policy))
    }

    /// Waits until `send` is not refused. Above the high-water mark it blocks this thread until the
    /// queue has fallen below the low-water mark; otherwise it costs one load.
    ///
    /// # Errors
    /// [`Error::TimedOut`](crate::Error::TimedOut) at `deadline` or at the write deadline;
    /// [`Error::Closed`](crate::Error::Closed) and the socket's error, as in `send`;
    /// [`Error::Config`](crate::Error::Config) in a callback or a receipt that must not wait, and
    /// where messages stand behind bytes that this thread has written and not flushed.
    pub fn wait_for_room(&self, deadline: Option<Instant>) -> Result<()> {
        self.wait_for_room_while(deadline, || Ok(()))
    }

    /// As [`wait_for_room`](Self::wait_for_room), as long as `still` succeeds. It is asked again
    /// after each [`recheck_waits`](Self::recheck_waits).
    #[doc(hidden)]
    pub fn wait_for_room_while(
        &self,
        deadline: Option<Instant>,
        still: impl Fn() -> Result<()>,
    ) -> Result<()> {
        if !self.shared.output.is_congested() {
            return Ok(());
        }
        if self.shared.output.defers_here() {
            return Err(Error::config(
                "cannot wait for room in the output queue: it is full of messages behind bytes \
                 that this thread has written and not flushed; flush them first",
            ));
        }
        blocking::check("wait for room in the output queue")?;
        self.shared.wait_below(deadline, still)
    }

    /// Has waits for room ask again whether to go on.
    #[doc(hidden)]
    pub fn recheck_waits(&self) {
        self.shared.output.interrupt();
    }

    /// As [`send`](Self::send), but [waits for room](Self::wait_for_room) instead of being refused.
    ///
    /// # Errors
    /// Those of both.
    pub fn send_wait(&self, message: impl Into<Bytes>, deadline: Option<Instant>) -> Result<()> {
        let message = message.into();
        loop {
            match self.send(message.clone()) {
                Err(Error::Full) => self.wait_for_room(deadline)?,
                outcome => return outcome,
            }
        }
    }

    /// Calls `on_request` once more, even if no byte arrives; several calls of this count as one.
    /// Does nothing on a dialled connection, which has no callbacks.
    pub fn wake(&self) {
        if self.shared.task.word.notify(Events::WAKE) {
            schedule(&self.shared);
        }
    }

    /// Runs `callback` once when the connection has ended, after `on_disconnect` and on its thread;
    /// if the connection has ended already, at once and on this thread. The last added runs first.
    /// It must not block.
    pub fn add_close_callback(&self, callback: impl FnOnce() + Send + 'static) {
        self.shared.extras.on_close(&self.shared.task.word, Box::new(callback));
    }

    /// Sets until when reads may wait. With `None`, the default, only the read timeout limits them.
    /// It also applies to a read that waits now; a deadline in the past ends that wait at once.
    /// Bytes that have come are read without a wait all the same.
    pub fn set_read_deadline(&self, at: Option<Instant>) {
        self.shared.extras.set_read_deadline(&self.shared.task.word, at);
        self.shared.task.word.nudge();
        self.tell_waits();
    }

    /// Sets until when flushes may wait, as [`set_read_deadline`](Self::set_read_deadline) does for
    /// reads.
    pub fn set_write_deadline(&self, at: Option<Instant>) {
        self.shared.extras.set_write_deadline(&self.shared.task.word, at);
        self.shared.output.interrupt();
        self.tell_waits();
    }

    /// Closes the connection at that time, with
    /// [`CloseReason::Timeout`](crate::CloseReason::Timeout): to limit a handshake, a request or
    /// the whole connection. `None` removes the deadline.
    pub fn close_at(&self, at: Option<Instant>) {
        self.shared.rewatch(|watch| watch.set_deadline(at));
    }

    /// Sets the idle timeout of this connection from now on; see [`Limits`](crate::Limits).
    pub fn set_idle_timeout(&self, timeout: Option<Duration>) {
        let timeout = timeout.map(|timeout| timeout.max(Duration::from_millis(1)));
        self.shared.rewatch(|watch| watch.set_idle(timeout, clock::now()));
    }

    /// Sets the minimum receive rate of this connection from now on; see
    /// [`Limits`](crate::Limits).
    pub fn set_min_receive_rate(&self, rate: Option<ReceiveRate>) {
        self.shared.rewatch(|watch| watch.set_rate(rate));
    }

    /// Stops receiving, so that the kernel's receive window fills and the peer waits. Until
    /// [`resume_reading`](Self::resume_reading), `on_request` runs only for [`wake`](Self::wake)
    /// and for what was received before. A read inside a callback still receives. The end of the
    /// peer's stream is not served meanwhile; `is_active` reports it.
    pub fn pause_reading(&self) {
        self.shared.task.word.note(Events::PAUSED);
    }

    /// Receives again; what has come meanwhile and what the last callback left unread is served.
    pub fn resume_reading(&self) {
        let word = &self.shared.task.word;
        if word.clear(Events::PAUSED) != Events::NONE
            && word.notify(Events::READABLE | Events::RESUMED)
        {
            schedule(&self.shared);
        }
    }

    /// Ends this side's stream (FIN) when all that was accepted is sent. Reads go on; sends fail
    /// from here on. What a callback has written and not flushed is dropped;
    /// [`Connection::shutdown_write`] flushes it.
    pub fn shutdown_write(&self) {
        self.shared.catch_up();
        let failed = self.shared.close_output();
        // Notified even without an event: if the peer has ended its stream, the connection closes.
        if self.shared.task.word.notify(failed) {
            schedule(&self.shared);
        }
        self.shared.tell_if_gone();
    }

    /// Closes at once by a reset, and drops what was accepted and not sent. A callback that waits
    /// stops waiting. On a dialled connection the reset is sent when its owner drops it.
    pub fn abort(&self) {
        self.shared.request_reset();
    }

    /// Closes in order, as [`Connection::close`](crate::Connection::close) does. A callback that
    /// waits stops waiting. A second call does nothing. What a callback has written and not flushed
    /// is dropped, unless it is this thread that wrote it before, in the callback that it runs.
    pub fn close(&self) {
        if self.shared.unflushed.is_mine() {
            self.shared.unflushed.defer();
        }
        self.shared.request_close();
    }

    /// Whether the connection can serve another exchange: it is not closed on this side, and
    /// neither a FIN nor a failure of the peer was seen. No system call.
    pub fn is_active(&self) -> bool {
        self.shared.is_active()
    }

    /// Whether nothing that is sent from here on can reach the peer: it has reset, the connection
    /// has failed, or this side has closed it or ended its stream. A peer that has only ended its
    /// own stream (FIN) is not gone: it may wait for an answer. No system call.
    pub fn is_gone(&self) -> bool {
        self.shared.is_gone()
    }

    /// The number of bytes that are accepted and that the socket has not taken yet.
    pub fn pending(&self) -> usize {
        self.shared.output.pending()
    }

    /// Whether the queue went above its high-water mark and is not below its low one yet.
    pub fn is_congested(&self) -> bool {
        self.shared.output.is_congested()
    }

    /// The number of bytes that the socket has taken in all. After an error, it tells how much of
    /// what was sent is on its way.
    pub fn bytes_sent(&self) -> u64 {
        self.shared.output.sent()
    }

    /// The number of bytes received in all.
    pub fn bytes_received(&self) -> u64 {
        self.shared.received()
    }

    /// The address of the peer; also after a close.
    pub fn peer_addr(&self) -> Address {
        self.shared.peer().clone()
    }

    /// Whether a shutdown of its event loop has begun, or it has reached its
    /// [`MaxAge`](crate::MaxAge), so that a protocol may end its exchange. Two loads.
    pub fn is_shutting_down(&self) -> bool {
        self.shared.is_shutting_down()
    }

    /// The listener that accepted it; `None` for a dialled connection.
    pub fn listener(&self) -> Option<&ListenerInfo> {
        self.shared.listener.as_ref().map(|listener| listener.info())
    }

    /// The address of this end. One system call, unless a proxy named the address.
    ///
    /// # Errors
    /// [`Error::Closed`](crate::Error::Closed), or the system's error.
    pub fn local_addr(&self) -> Result<Address> {
        self.shared.local_addr()
    }

    /// What the kernel measures on this TCP connection: round trip time, congestion window,
    /// retransmissions, the rate of delivery. One system call, for which sends of other threads
    /// wait: ask for it now and then, not per message.
    ///
    /// ```
    /// use netpoll_core::{Handle, Result};
    ///
    /// fn report(handle: &Handle) -> Result<()> {
    ///     let info = handle.tcp_info()?;
    ///     println!("{}: {:?}, {} sent again", handle.id(), info.rtt, info.retransmits);
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// [`Error::Closed`](crate::Error::Closed); [`Error::Io`](crate::Error::Io) of kind
    /// `Unsupported` on a Unix socket, or on a kernel before Linux 4.9.
    pub fn tcp_info(&self) -> Result<TcpInfo> {
        self.shared.tcp_info()
    }

    fn offer(&self, message: Bytes, receipt: &mut Option<Receipt>) -> Result<()> {
        self.shared.check_before_send()?;
        let Shared { output, group, unflushed, .. } = &*self.shared;
        self.tell(output.offer(message, receipt, &group.policy, unflushed))
    }

    /// Tells the connection's owner what is left to do after a send.
    pub(super) fn tell(&self, sent: Result<FollowUp>) -> Result<()> {
        let events = match &sent {
            Ok(next) if next.is_none() => Events::NONE,
            Ok(next) => self.shared.go_on_later(*next),
            // Perhaps no event follows an error that only a send meets.
            Err(Error::Io(_)) => Events::FAILED | Events::READABLE,
            Err(_) => Events::NONE,
        };
        if events != Events::NONE {
            if self.shared.task.word.notify(events) {
                schedule(&self.shared);
            }
            self.shared.tell_if_gone();
        }
        sent.map(drop)
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The connection, if it has callbacks.
    pub(crate) fn shared_for_jobs(&self) -> Result<&Arc<Shared>> {
        if self.shared.group.is_dialled() {
            return Err(Error::config("a dialled connection has no callbacks to run a job among"));
        }
        Ok(&self.shared)
    }

    /// The loop that watches the connection.
    #[doc(hidden)]
    pub fn remote(&self) -> &Arc<Remote> {
        &self.shared.reactor
    }
}

impl PartialEq for Handle {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }
}

impl Eq for Handle {}

impl Hash for Handle {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.shared.id.hash(state);
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("Handle").field(&self.shared).finish()
    }
}
