//! A relay: two connections, and what arrives on each leaves on the other.
//!
//! ```text
//!   Runner of the first                                    Runner of the second
//!   ┌──────────────────┐         ┌──────────────┐          ┌──────────────────┐
//!   │ Role: Side ──────┼───────► │ Pair (Arc)   │ ◄────────┼────── Side: Role │
//!   │  receives, sends │         │ ends, counts │          │  receives, sends │
//!   │  to the second   │         │ reason       │          │  to the first    │
//!   └──────────────────┘         └──────────────┘          └──────────────────┘
//! ```
//! A side takes the place of a connection's callbacks (`relay/side.rs`). It receives only while the
//! other end's output is below its high-water mark; that end has it receive again when the output
//! has drained. No thread waits, so the two may be of different loops.

mod side;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::run::Runner;
use super::schedule::schedule;
use super::shared::Shared;
use super::{Connection, Handle};
use crate::base::error::{CloseReason, Error, Result};
use crate::base::panic::guard;
use crate::base::sync::{AtomicBool, Mutex, Ordering, lock};
use crate::pure::task::Events;

pub(crate) use side::{Flow, Side};

/// Joins two connections, with the options of [`Relay`] as they are by default.
///
/// # Errors
/// As [`Relay::join`].
pub fn relay<'a, 'b>(
    first: impl Into<RelayEnd<'a>>,
    second: impl Into<RelayEnd<'b>>,
) -> Result<()> {
    Relay::new().join(first, second)
}

/// Joins two connections: the bytes that come on one leave on the other, both ways.
///
/// Blocks are moved from input to output, and nothing is copied. The end of a stream is passed on
/// after its bytes, and the other direction goes on; when both streams have ended, both connections
/// close. If one end fails, or is closed before that, the other end is reset, so that a peer that
/// was cut off does not take the part that it has for the whole.
///
/// While the output of one end is above its high-water mark, nothing is received on the other: its
/// peer waits, and memory is bounded by the two marks and one receive. No thread waits. The two
/// ends may belong to different loops; on the same loop a byte costs least.
///
/// A graceful shutdown of the event loop of either end passes on what has arrived on both, and
/// closes both once it is sent. From the join on, the only callbacks that run are jobs and
/// `on_disconnect`. [`Handle::pause_reading`] stops the direction from that end.
///
/// ```
/// use std::time::Duration;
/// use netpoll_core::{Connection, Relay, Relayed, Result};
///
/// /// What `Dialer::dial_then` calls with the connection to the origin.
/// fn answer(conn: &mut Connection, origin: Result<Connection>) -> Result<()> {
///     Relay::new()
///         .idle_timeout(Duration::from_secs(300))
///         .on_end(|it: Relayed| println!("{} bytes up: {}", it.from_first, it.reason))
///         .join(conn, origin?)
/// }
/// ```
#[derive(Default)]
#[must_use = "a relay begins with `join`"]
pub struct Relay {
    idle_timeout: Option<Duration>,
    on_end: Option<OnEnd>,
}

type OnEnd = Box<dyn FnOnce(Relayed) + Send>;

/// What a relay has done, and why it ended.
#[derive(Debug)]
#[non_exhaustive]
pub struct Relayed {
    /// The number of bytes that the second end's socket has taken since the join. If the relay
    /// ended in order these are all that the first end's peer has sent.
    pub from_first: u64,
    /// The same in the other direction.
    pub from_second: u64,
    /// Why the end that ended first has ended; `Peer` where both streams have ended in order.
    pub reason: CloseReason,
    /// Whether that was the first end.
    pub first_ended: bool,
}

/// One of the two connections of a [`Relay`].
///
/// It is made from the `&mut Connection` of a callback that runs, from a [`Connection`] that was
/// dialled, or from the [`Handle`] of any connection that has callbacks.
pub struct RelayEnd<'a>(End<'a>);

enum End<'a> {
    /// Its callback runs on this thread.
    Here(&'a mut Connection),
    /// Its caller gives it up.
    Dialled(Connection),
    Elsewhere(Handle),
}

impl Relay {
    /// A relay without an idle timeout of its own and without a callback.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the relay when one end has neither sent nor taken a byte for so long; both ends close
    /// then. An end from which nothing is received, because the other one takes too little, has no
    /// byte either: the peer of that one must take what is between its water marks in that time.
    /// Default: as the limits of each end say.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = Some(timeout);
        self
    }

    /// Calls `callback` once when both ends have ended, on the thread of the later one. It must not
    /// block.
    pub fn on_end(mut self, callback: impl FnOnce(Relayed) + Send + 'static) -> Self {
        self.on_end = Some(Box::new(callback));
        self
    }

    /// Joins the two ends. What was received on them and not read is passed on first; what was
    /// written to them is sent before what is passed on. Returns at once.
    ///
    /// # Errors
    /// [`Error::Closed`] if one end has ended, or sends no more. [`Error::Config`] if both are the
    /// same connection, if one is in a relay already, or if it is none that [`RelayEnd`] names: the
    /// handle of a dialled connection that a caller drives, for instance. A dialled connection is
    /// dropped then, which closes it; `on_end` is dropped without a call.
    pub fn join<'a, 'b>(
        self,
        first: impl Into<RelayEnd<'a>>,
        second: impl Into<RelayEnd<'b>>,
    ) -> Result<()> {
        let (mut first, mut second) = (first.into().0, second.into().0);
        if Arc::ptr_eq(first.shared(), second.shared()) {
            return Err(Error::config("cannot relay a connection to itself"));
        }
        first.check()?;
        second.check()?;
        first.send_staged();
        second.send_staged();
        let ends = [&first, &second].map(|end| Place::new(end.shared()));
        if let Some(timeout) = self.idle_timeout {
            for place in &ends {
                Handle::new(place.shared.clone()).set_idle_timeout(Some(timeout));
            }
        }
        let life = Mutex::new(PairLife { gone: [false; 2], reason: None, on_end: self.on_end });
        let pair = Arc::new(Pair { ends, stopping: AtomicBool::new(false), life });
        // The dialled one last: it may run at once, on another thread.
        let [one, two] = [0, 1].map(|index| Box::new(Side::new(&pair, index)));
        first.install(one)?;
        second.install(two)
    }
}

impl End<'_> {
    fn shared(&self) -> &Arc<Shared> {
        match self {
            Self::Here(connection) => &connection.shared,
            Self::Dialled(connection) => &connection.shared,
            Self::Elsewhere(handle) => handle.shared(),
        }
    }

    fn check(&self) -> Result<()> {
        let shared = self.shared();
        match self {
            Self::Here(connection) if connection.shared.is_the_callers() => {
                return Err(Error::config("a dialled connection is relayed by value"));
            }
            Self::Dialled(connection) if !connection.shared.is_the_callers() => {
                return Err(Error::config("a connection that has callbacks is relayed in one"));
            }
            Self::Elsewhere(handle) => drop(handle.shared_for_jobs()?),
            Self::Here(_) | Self::Dialled(_) => {}
        }
        if shared.task.word.events().has_any(Events::RELAYED) {
            return Err(Error::config("the connection is in a relay already"));
        }
        if let Some(error) = shared.output.failure() {
            return Err(error.into());
        }
        if shared.task.word.is_closed() || shared.output.is_sealed() {
            return Err(Error::Closed);
        }
        shared.check_over()
    }

    fn send_staged(&mut self) {
        match self {
            Self::Here(connection) => connection.send_staged(),
            Self::Dialled(connection) => connection.send_staged(),
            Self::Elsewhere(_) => {}
        }
    }

    /// Has the side take the place of what drives the connection. If that fails, the drop of the
    /// side ends the other end.
    fn install(self, side: Box<Side>) -> Result<()> {
        match self {
            Self::Here(connection) => {
                connection.shared.begin_relay(side);
                Ok(())
            }
            Self::Elsewhere(handle) => handle.run(move |connection| {
                connection.shared.begin_relay(side);
                Ok(())
            }),
            Self::Dialled(mut connection) => {
                let shared = connection.disown();
                shared.task.word.note(Events::RELAYED);
                shared.task.word.clear(Events::PAUSED);
                // Only a scheduled task is begun, and until here it was the caller's.
                shared.task.word.hand_over(Events::NONE);
                if let Some(mut run) = shared.task.begin() {
                    *run = Runner::relaying(connection, side);
                    run.reschedule();
                    schedule(&shared);
                }
                Ok(())
            }
        }
    }
}

/// What the two sides share.
pub(crate) struct Pair {
    ends: [Place; 2],
    /// A shutdown has begun on either end: both close when nothing is on the way.
    stopping: AtomicBool,
    life: Mutex<PairLife>,
}

/// One end, as the other one uses it.
struct Place {
    shared: Arc<Shared>,
    /// How many bytes its socket will have taken of those that were sent before the join.
    before: u64,
    /// The end of its peer's stream was read.
    finished: AtomicBool,
    /// During a shutdown: a receive has found nothing.
    quiet: AtomicBool,
}

struct PairLife {
    gone: [bool; 2],
    /// Of the end that ended first.
    reason: Option<(usize, CloseReason)>,
    on_end: Option<OnEnd>,
}

impl Place {
    fn new(shared: &Arc<Shared>) -> Self {
        let before = shared.output.accepted();
        let (finished, quiet) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { shared: shared.clone(), before, finished, quiet }
    }

    fn is_finished(&self) -> bool {
        self.finished.load(Ordering::SeqCst)
    }

    /// Has this end look for what has changed, and receive.
    fn wake(&self) {
        if self.shared.task.word.notify(Events::READABLE | Events::RESUMED) {
            schedule(&self.shared);
        }
    }

    /// Ends the stream towards this end's peer when all is sent.
    fn end_stream(&self) {
        let failed = self.shared.close_output();
        if self.shared.task.word.notify(failed) {
            schedule(&self.shared);
        }
    }
}

impl Pair {
    fn is_gone(&self, index: usize) -> bool {
        lock(&self.life).gone[index]
    }

    /// One end has ended. The later one reports what the relay has done.
    fn ended(&self, index: usize, reason: CloseReason, by_force: bool) {
        let in_order = matches!(reason, CloseReason::Shutdown) && !by_force
            || self.ends.iter().all(Place::is_finished);
        let mut life = lock(&self.life);
        if std::mem::replace(&mut life.gone[index], true) {
            return;
        }
        life.reason.get_or_insert((index, reason));
        let is_last = life.gone == [true; 2];
        let told = if is_last { life.on_end.take().zip(life.reason.take()) } else { None };
        drop(life);
        let other = &self.ends[1 - index];
        match told {
            Some((on_end, (first, reason))) => {
                let relayed = self.relayed(first, reason);
                guard("the callback of a relay", || on_end(relayed)).ok();
            }
            None if is_last => {}
            None if in_order => other.wake(),
            None => other.shared.request_reset(),
        }
    }

    fn relayed(&self, ended: usize, reason: CloseReason) -> Relayed {
        let taken = |to: &Place| to.shared.output.sent().saturating_sub(to.before);
        let [first, second] = &self.ends;
        let (from_first, from_second) = (taken(second), taken(first));
        Relayed { from_first, from_second, reason, first_ended: ended == 0 }
    }
}

impl<'a> From<&'a mut Connection> for RelayEnd<'a> {
    fn from(connection: &'a mut Connection) -> Self {
        Self(End::Here(connection))
    }
}

impl From<Connection> for RelayEnd<'_> {
    fn from(connection: Connection) -> Self {
        Self(End::Dialled(connection))
    }
}

impl From<Handle> for RelayEnd<'_> {
    fn from(handle: Handle) -> Self {
        Self(End::Elsewhere(handle))
    }
}

impl fmt::Debug for Relay {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Relay").field("idle_timeout", &self.idle_timeout).finish_non_exhaustive()
    }
}

impl fmt::Debug for RelayEnd<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("RelayEnd").field(self.0.shared()).finish()
    }
}
