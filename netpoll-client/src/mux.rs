//! Many threads share few connections: each request has an id, and its response has the same.
//!
//! ```text
//!   call ──id──► encode ──► queue ══one sendmsg══► connection ──► the server
//!   call ──id──► encode ──►   (of all threads)                       │
//!    ▲  ▲                                                            │
//!    │  └── pending, by id ◄── decode ◄── on the reactor ◄────────────┘
//!    └───── or an error: the deadline's, or the connection's, at once
//! ```

mod builder;
mod calling;
mod context;
mod link;
mod pending;
mod protocol;
mod queue;
mod silence;
mod stats;
mod until;
mod wire;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use netpoll_core::{Result, blocking, clock};

use crate::cancel::Cancel;
pub use builder::MuxBuilder;
pub use calling::MuxCall;
use context::MuxContext;
use link::Link;
pub use protocol::MuxProtocol;
pub use stats::MuxStats;
use until::Until;
use wire::Wire;

/// Calls of many threads over few connections, which all clones share.
///
/// Requests that many threads make at the same time leave in one system call. A thread keeps to one
/// connection while that connection lives. When a connection ends, every call on it returns its
/// error at once, and later calls dial again if [`reconnect`](MuxBuilder::reconnect) allows it. A
/// connection on which no more bytes come is [given up](MuxBuilder::give_up_after).
///
/// Dropping the last clone closes the connections.
pub struct Mux<P: MuxProtocol> {
    inner: Arc<MuxInner<P>>,
}

struct MuxInner<P: MuxProtocol> {
    context: Arc<MuxContext<P>>,
    links: Vec<Arc<Link<P>>>,
}

impl<P: MuxProtocol> Mux<P> {
    /// A builder, which sets the options.
    pub fn builder() -> MuxBuilder {
        MuxBuilder::default()
    }

    /// Dials all its connections now, and waits for them, `timeout` at most. Without this call each
    /// connection is dialled when it is first needed.
    ///
    /// # Errors
    /// The error of the first connection that can't be dialled. With
    /// [`reconnect`](MuxBuilder::reconnect), which is the default, a dial that fails is tried again
    /// while there is time for that.
    pub fn connect(&self, timeout: Duration) -> Result<()> {
        let MuxInner { context, links } = &*self.inner;
        blocking::enter(&format!("dial {} {}", context.network, context.address))?;
        let deadline = clock::now().checked_add(timeout);
        for link in links {
            link.ensure(context);
        }
        let until = Until { deadline, cancel: None };
        links.iter().try_for_each(|link| link.wait(context, until).map(drop))
    }

    /// Sends a request and waits for its response, on this thread, `timeout` at most; that includes
    /// dialling, and waiting for room in the output.
    ///
    /// # Errors
    /// `TimedOut` at the timeout; a response that comes later is dropped, and counted. If the
    /// connection ends, an error of the kind of that end: `UnexpectedEof`, `ConnectionReset`, … The
    /// error of the last dial, while the next one is not due.
    /// [`Error::Full`](netpoll_core::Error::Full) while as many calls wait on the connection as
    /// may. The error of `encode`. `NotConnected` once this is closed.
    /// [`Error::Config`](netpoll_core::Error::Config) in a callback that must not wait.
    pub fn call(&self, request: P::Request, timeout: Duration) -> Result<P::Response> {
        self.call_unless(request, timeout, None)
    }

    /// As [`call`](Self::call), until it is cancelled. A request that has been sent is not taken
    /// back: its response is dropped when it comes, and counted as
    /// [`late`](MuxStats::late). The connection and the other calls on it go on.
    ///
    /// # Errors
    /// As [`call`](Self::call), and of kind `Interrupted` when it was cancelled.
    pub fn call_with(
        &self,
        request: P::Request,
        timeout: Duration,
        cancel: &Cancel,
    ) -> Result<P::Response> {
        self.call_unless(request, timeout, Some(cancel))
    }

    fn call_unless(
        &self,
        request: P::Request,
        timeout: Duration,
        cancel: Option<&Cancel>,
    ) -> Result<P::Response> {
        let MuxInner { context, .. } = &*self.inner;
        blocking::enter(&format!("call {} {}", context.network, context.address))?;
        let deadline = clock::now().checked_add(timeout);
        let until = Until { deadline, cancel };
        self.wire(until)?.call(request, until)
    }

    /// Closes its connections: every call that waits returns at once, with an error of kind
    /// `NotConnected`, and so does every further one.
    pub fn close(&self) {
        self.inner.close();
    }

    /// What it has done.
    pub fn stats(&self) -> MuxStats {
        let MuxInner { context, links } = &*self.inner;
        let waiting = links.iter().filter_map(|link| link.up()).map(|wire| wire.waiting()).sum();
        MuxStats { waiting, ..context.counters.read() }
    }

    /// The connection of this thread; while that is not up, any connection that is; if none is,
    /// this waits for the thread's own.
    fn wire(&self, until: Until<'_>) -> Result<Arc<Wire<P>>> {
        let MuxInner { context, links } = &*self.inner;
        let ours = queue::thread_number() % links.len();
        if let Some(wire) = links[ours].ensure(context) {
            return Ok(wire);
        }
        let mut others = links[ours..].iter().chain(&links[..ours]);
        match others.find_map(|link| link.up()) {
            Some(wire) => Ok(wire),
            None => links[ours].wait(context, until),
        }
    }
}

impl<P: MuxProtocol> MuxInner<P> {
    fn close(&self) {
        self.context.cancel.cancel();
        for link in &self.links {
            link.close();
        }
    }
}

impl<P: MuxProtocol> Drop for MuxInner<P> {
    fn drop(&mut self) {
        self.close();
    }
}

impl<P: MuxProtocol> Clone for Mux<P> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<P: MuxProtocol> fmt::Debug for Mux<P> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Mux")
            .field("address", &self.inner.context.address)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
