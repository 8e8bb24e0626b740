//! What the callbacks of a connection do for its future: they feed its reads, poll it, send what it
//! has written, and end the connection after it.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use netpoll_core::{
    Callbacks, CloseReason, Connection, Error, Hold, InPlace, Moment, Place, Result,
};

use crate::body::BoxedBody;
use crate::connection::AsyncConnection;
use crate::failure::Failure;
use crate::shared::{AfterPoll, Shared};

/// The session of a connection that a future serves.
///
/// ```text
///     on_connect     makes the future, and polls it
///     on_request     feeds ─► polls, if it was woken ─► sends ─► holds, closes
///     on_drain       wakes the writer; as on_request
///     on_shutdown    tells the futures that have asked; as on_request
///     on_disconnect  fails all later reads and writes, polls a last time, and drops the future
/// ```
#[derive(Default)]
pub struct AsyncSession {
    driven: Option<Driven>,
}

struct Driven {
    shared: Arc<Shared>,
    /// That of `shared`.
    waker: Waker,
    /// Where tasks belong that the future spawns.
    place: Arc<Place>,
    /// `None` once it has ended.
    body: Option<BoxedBody>,
    /// A poll has panicked if this is set outside of one.
    is_polling: bool,
    /// While the future is at work: it waits for something else than bytes of the peer.
    hold: Option<Hold>,
    /// The stream object is gone, and this side's stream has ended.
    is_half_closed: bool,
}

/// The callbacks of connections whose futures `begin` makes.
pub(crate) fn callbacks(
    begin: impl Fn(AsyncConnection) -> BoxedBody + Send + Sync + 'static,
) -> Callbacks<AsyncSession> {
    let mut callbacks = callbacks_without_future();
    callbacks.set(Moment::Connect, move |session: &mut AsyncSession, connection| {
        let handle = connection.handle();
        let place = handle.task_place();
        let shared = Shared::new(handle);
        let driven = session.driven.insert(Driven::new(shared.clone(), place));
        driven.body = Some(begin(AsyncConnection::new(&shared)));
        driven.go_on(connection, false)
    });
    callbacks
}

/// Those of connections whose stream objects are used elsewhere alone.
pub(crate) fn callbacks_without_future() -> Callbacks<AsyncSession> {
    let mut callbacks =
        Callbacks::with(|_: &Connection| Ok(AsyncSession::default())).polling_futures();
    callbacks.set(Moment::Request, |session: &mut AsyncSession, connection| {
        session.driven.as_mut().map_or(Ok(()), |driven| driven.go_on(connection, true))
    });
    callbacks.set(Moment::Drain, |session, connection| session.hear(connection, Shared::drained));
    callbacks.set(Moment::Shutdown, |session, connection| {
        session.hear(connection, Shared::begin_shutdown)
    });
    callbacks.set_on_disconnect(|mut session: AsyncSession, reason: &CloseReason| {
        session.end_by(&Failure::of_reason(reason));
    });
    callbacks
}

impl AsyncSession {
    /// That of a connection whose stream object is used elsewhere.
    pub(crate) fn of(shared: Arc<Shared>, place: Arc<Place>) -> Self {
        Self { driven: Some(Driven::new(shared, place)) }
    }

    fn hear(&mut self, connection: &mut Connection, news: fn(&Shared)) -> Result<()> {
        let Some(driven) = &mut self.driven else { return Ok(()) };
        news(&driven.shared);
        driven.go_on(connection, false)
    }

    /// Ends it: the first thing that an `on_disconnect` of one's own does, which
    /// [`serve_async`](crate::serve_async) replaces. Later reads and writes fail with what `reason`
    /// says, and a future that is pending is polled a last time and dropped.
    pub fn end(mut self, reason: &CloseReason) {
        self.end_by(&Failure::of_reason(reason));
    }

    fn end_by(&mut self, why: &Failure) {
        if let Some(mut driven) = self.driven.take() {
            driven.end(why);
        }
    }
}

/// Also where a builder's `on_disconnect` was replaced.
impl Drop for AsyncSession {
    fn drop(&mut self) {
        self.end_by(&Failure::Closed);
    }
}

impl Driven {
    fn new(shared: Arc<Shared>, place: Arc<Place>) -> Self {
        Self {
            waker: shared.clone().into(),
            shared,
            place,
            body: None,
            is_polling: false,
            hold: None,
            is_half_closed: false,
        }
    }

    /// `has_looked`: the run has received what the socket had.
    fn go_on(&mut self, connection: &mut Connection, has_looked: bool) -> Result<()> {
        if connection.take_new_waits() {
            self.shared.tell_waits();
        }
        self.shared.feed(connection, has_looked);
        if self.shared.take_woken() && self.body.is_some() {
            if let Poll::Ready(Err(error)) = self.poll() {
                self.shared.drop_staged();
                return Err(error);
            }
            let after = self.shared.send_after_poll();
            return self.settle(connection, after);
        }
        self.settle(connection, self.shared.after_poll())
    }

    /// Polls the future, if there is one. Its drop belongs to its last poll.
    fn poll(&mut self) -> Poll<Result<()>> {
        let Self { shared, waker, body, place, .. } = self;
        if body.is_none() {
            return Poll::Pending;
        }
        let _in_place = InPlace::enter(place);
        self.is_polling = true;
        let outcome = shared.as_its_own(|| {
            let future = body.as_mut().map(|body| body.as_mut());
            let outcome =
                future.map_or(Poll::Pending, |it| it.poll(&mut Context::from_waker(waker)));
            if outcome.is_ready() {
                *body = None;
            }
            outcome
        });
        self.is_polling = false;
        outcome
    }

    /// Ends or holds the connection, after a poll.
    fn settle(&mut self, connection: &mut Connection, after: AfterPoll) -> Result<()> {
        if after.is_dropped {
            if self.body.is_none() {
                return self.finish(connection);
            }
            self.half_close(connection);
        }
        let is_unread = !connection.reader().is_empty();
        if after.may_end || (after.is_reading && is_unread) {
            // What was left, or the end of the input, goes to the reader in the next round.
            connection.wake();
        }
        let is_at_work = self.body.is_some() && !after.is_reading;
        if is_at_work != self.hold.is_some() {
            self.hold = if is_at_work { connection.hold().ok() } else { None };
        }
        Ok(())
    }

    /// The future and the stream object are gone: closes the connection in order.
    fn finish(&mut self, connection: &mut Connection) -> Result<()> {
        self.hold = None;
        if connection.reader().is_finished() {
            // With the peer's end as the reason.
            return Err(Error::EndOfStream);
        }
        connection.close();
        Ok(())
    }

    /// The stream object is gone, and the future goes on.
    fn half_close(&mut self, connection: &mut Connection) {
        if !self.is_half_closed {
            self.is_half_closed = true;
            connection.shutdown_write();
            connection.handle().stall();
        }
    }

    /// The connection has ended. A future that waits for it is polled once more, to see that.
    fn end(&mut self, why: &Failure) {
        self.hold = None;
        self.shared.end(why.clone());
        if self.is_polling {
            // It has panicked.
            return;
        }
        let polled = catch_unwind(AssertUnwindSafe(|| self.poll()));
        self.body = None;
        if let Err(panic) = polled {
            resume_unwind(panic);
        }
    }
}

impl fmt::Debug for AsyncSession {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("AsyncSession").finish_non_exhaustive()
    }
}
