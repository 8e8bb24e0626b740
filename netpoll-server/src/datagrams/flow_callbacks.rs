//! What a user implements for flows.

use std::fmt;

use netpoll_core::{Datagram, Error, Result};

use super::flow::FlowBatch;

/// Makes the session of a new flow; see
/// [`FlowSessions::on_datagrams`](super::FlowSessions::on_datagrams) for the rest.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an `OnFlow<{F}>`",
    note = "as a closure it is `|first: &Datagram<'_>| …`, types annotated, and returns a \
            `netpoll::Result<{F}>`"
)]
pub trait OnFlow<F>: Send + Sync + 'static {
    /// Called with the first datagram of a flow.
    ///
    /// # Errors
    /// Refuses the flow: the datagram, and those that follow it at once, are dropped and counted.
    fn on_flow(&self, first: &Datagram<'_>) -> Result<F>;
}

impl<F, C> OnFlow<F> for C
where
    C: Fn(&Datagram<'_>) -> Result<F> + Send + Sync + 'static,
{
    fn on_flow(&self, first: &Datagram<'_>) -> Result<F> {
        self(first)
    }
}

/// Takes datagrams of a flow.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an `OnFlowDatagrams<{F}>`",
    note = "as a closure it is `|session: &mut {F}, batch: &FlowBatch<'_>| …`, types annotated, \
            and returns a `netpoll::Result<()>`"
)]
pub trait OnFlowDatagrams<F>: Send + Sync + 'static {
    /// Called once for all datagrams of a flow that came one behind the other.
    ///
    /// # Errors
    /// Ends the flow.
    fn on_datagrams(&self, session: &mut F, batch: &FlowBatch<'_>) -> Result<()>;
}

impl<F, C> OnFlowDatagrams<F> for C
where
    C: Fn(&mut F, &FlowBatch<'_>) -> Result<()> + Send + Sync + 'static,
{
    fn on_datagrams(&self, session: &mut F, batch: &FlowBatch<'_>) -> Result<()> {
        self(session, batch)
    }
}

/// Why a flow ended.
#[derive(Debug)]
#[non_exhaustive]
pub enum FlowEnd {
    /// Nothing had come for [`idle`](super::FlowOptions::idle).
    Idle,
    /// It made room for another one.
    Evicted,
    /// A callback called [`FlowBatch::end`].
    Local,
    /// A callback returned this error.
    Callback(Error),
    /// A callback panicked. The panic ended this flow and nothing else.
    Panic,
    /// The socket was closed, or the event loop shut down.
    Closed,
}

/// Takes the session of a flow that has ended.
pub(super) type OnEnd<F> = Box<dyn Fn(F, &FlowEnd) + Send + Sync>;

impl fmt::Display for FlowEnd {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Idle => out.write_str("nothing came for too long"),
            Self::Evicted => out.write_str("it made room for another flow"),
            Self::Local => out.write_str("it was ended on this side"),
            Self::Callback(error) => write!(out, "a callback failed: {error}"),
            Self::Panic => out.write_str("a callback panicked"),
            Self::Closed => out.write_str("the socket was closed"),
        }
    }
}
