//! Many threads on few connections: each request has an id, and its response finds it.
//!
//! ```text
//!   call ──id──► encode ──► queue ══one sendmsg══► connection ──► the server
//!   call ──id──► encode ──►   (of all threads)                       │
//!    ▲  ▲                                                            │
//!    │  └── pending, by id ◄── decode ◄── on the reactor ◄────────────┘
//!    └───── or an error: the deadline's, or the connection's, at once
//! ```

mod backoff;
mod builder;
mod link;
mod pending;
mod queue;
mod silence;
mod wire;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use netpoll_buffer::LinkBuffer;
use netpoll_core::{Group, Result, blocking};

use crate::cancel::Cancel;
use crate::dialer::Dialer;
pub use backoff::Backoff;
pub use builder::MuxBuilder;
use link::Link;
use wire::Wire;

/// How requests and responses stand on the wire. The one hook that a protocol needs.
///
/// ```
/// use netpoll_buffer::LinkBuffer;
/// use netpoll_client::MuxProtocol;
/// use netpoll_core::Result;
///
/// /// Four bytes of length, four of id, and the rest.
/// struct Frames;
///
/// impl MuxProtocol for Frames {
///     type Request = Vec<u8>;
///     type Response = Vec<u8>;
///
///     fn encode(&self, id: u32, body: Vec<u8>, out: &mut LinkBuffer) -> Result<()> {
///         out.write_bytes(&(body.len() as u32 + 4).to_be_bytes());
///         out.write_bytes(&id.to_be_bytes());
///         out.write_bytes(&body);
///         Ok(())
///     }
///
///     fn decode(&self, input: &mut LinkBuffer) -> Result<Option<(u32, Vec<u8>)>> {
///         let Ok(head) = input.peek(8) else { return Ok(None) };
///         let number = |four: &[u8]| u32::from_be_bytes(four.try_into().expect("four bytes"));
///         let (len, id) = (number(&head[..4]) as usize, number(&head[4..]));
///         if !(4..1 << 20).contains(&len) {
///             return Err(std::io::Error::from(std::io::ErrorKind::InvalidData).into());
///         }
///         if input.len() < 4 + len {
///             return Ok(None);
///         }
///         input.consume(8);
///         let body = input.next(len - 4).map_err(std::io::Error::from)?;
///         Ok(Some((id, body.to_vec())))
///     }
/// }
/// ```
pub trait MuxProtocol: Send + Sync + 'static {
    /// What is sent.
    type Request;
    /// What comes back.
    type Response: Send + 'static;

    /// Writes a request with this id to `out`, which is empty. It runs on the calling thread.
    ///
    /// # Errors
    /// Any; the call fails with it, and nothing is sent.
    fn encode(&self, id: u32, request: Self::Request, out: &mut LinkBuffer) -> Result<()>;

    /// Takes the next whole response from `input`, with the id of its request; `None`, and nothing
    /// taken, while it is not whole. It runs on the reactor's thread and must not block there. To
    /// return a response and take no byte of it is an error, and ends the connection.
    ///
    /// # Errors
    /// Any, for input that makes no sense: the connection is closed, and all its calls fail with
    /// it. That includes a response that says to be larger than it may be: one that is larger than
    /// [`Limits::input_limit`](netpoll_core::Limits) never becomes whole.
    fn decode(&self, input: &mut LinkBuffer) -> Result<Option<(u32, Self::Response)>>;
}

/// Calls of many threads over few connections. Clones are one and the same.
///
/// Requests of many threads leave in one system call where they come together. A thread keeps to
/// one connection while that one lives. When a connection ends, every call on it returns its error
/// at once, and further calls dial anew, where [`reconnect`](MuxBuilder::reconnect) says so. One on
/// which nothing comes any more is [given up](MuxBuilder::give_up_after).
///
/// Dropping the last clone closes the connections.
pub struct Mux<P: MuxProtocol> {
    inner: Arc<Inner<P>>,
}

struct Inner<P: MuxProtocol> {
    shared: Arc<Shared<P>>,
    links: Vec<Arc<Link<P>>>,
}

/// What all connections of a multiplexer have in common.
struct Shared<P: MuxProtocol> {
    protocol: Arc<P>,
    counters: Arc<Counters>,
    dialer: Dialer,
    group: Arc<Group>,
    network: String,
    address: String,
    dial_timeout: Duration,
    most_waiting: usize,
    most_timeouts: Option<u32>,
    reconnects: bool,
    backoff: Backoff,
    cancel: Cancel,
}

/// What a multiplexer has done since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MuxStats {
    /// Calls that wait for their response now.
    pub waiting: usize,
    /// Responses that found their call.
    pub answered: u64,
    /// Responses that came after their call had given up.
    pub late: u64,
    /// Responses to a call that was answered already.
    pub duplicate: u64,
    /// Responses that no call had asked for.
    pub unknown: u64,
    /// Times that what was queued was handed to a socket: with many threads fewer than calls.
    pub flushes: u64,
    /// Dials that succeeded.
    pub dialled: u64,
    /// Dials that failed.
    pub dials_failed: u64,
    /// Connections that were given up because calls timed out and no byte came.
    pub given_up: u64,
}

#[derive(Debug, Default)]
struct Counter(AtomicU64);

#[derive(Debug, Default)]
struct Counters {
    answered: Counter,
    late: Counter,
    duplicate: Counter,
    unknown: Counter,
    flushes: Counter,
    dialled: Counter,
    dials_failed: Counter,
    given_up: Counter,
}

impl<P: MuxProtocol> Mux<P> {
    /// Sets where to and how.
    pub fn builder() -> MuxBuilder {
        MuxBuilder::default()
    }

    /// Dials all its connections now, and waits for them, `timeout` at most. Without it each is
    /// dialled when it is first needed.
    ///
    /// # Errors
    /// That of the first that can't be had.
    pub fn connect(&self, timeout: Duration) -> Result<()> {
        let Inner { shared, links } = &*self.inner;
        blocking::enter(&format!("dial {} {}", shared.network, shared.address))?;
        let deadline = Instant::now().checked_add(timeout);
        for link in links {
            link.ensure(shared);
        }
        links.iter().try_for_each(|link| link.wait(shared, deadline).map(drop))
    }

    /// Sends a request and waits for its response, on this thread, `timeout` at most; dialling and
    /// waiting for room are part of it.
    ///
    /// # Errors
    /// `TimedOut` at the timeout: a response that comes later is dropped, and counted. The
    /// connection's end, by its kind: `UnexpectedEof`, `ConnectionReset`, … That of the last dial,
    /// while the next one is not due. [`Error::Full`](netpoll_core::Error::Full) while as many
    /// calls wait on the connection as may. That of `encode`. `NotConnected` once this is closed.
    /// [`Error::Config`](netpoll_core::Error::Config) in a callback that must not wait.
    pub fn call(&self, request: P::Request, timeout: Duration) -> Result<P::Response> {
        let Inner { shared, .. } = &*self.inner;
        blocking::enter(&format!("call {} {}", shared.network, shared.address))?;
        let deadline = Instant::now().checked_add(timeout);
        self.wire(deadline)?.call(request, deadline)
    }

    /// Closes its connections: every call that waits returns at once, with an error of kind
    /// `NotConnected`, and so does every further one.
    pub fn close(&self) {
        self.inner.close();
    }

    /// What it has done.
    pub fn stats(&self) -> MuxStats {
        let Inner { shared, links } = &*self.inner;
        let Counters {
            answered,
            late,
            duplicate,
            unknown,
            flushes,
            dialled,
            dials_failed,
            given_up,
        } = &*shared.counters;
        MuxStats {
            waiting: links.iter().filter_map(|link| link.up()).map(|wire| wire.waiting()).sum(),
            answered: answered.read(),
            late: late.read(),
            duplicate: duplicate.read(),
            unknown: unknown.read(),
            flushes: flushes.read(),
            dialled: dialled.read(),
            dials_failed: dials_failed.read(),
            given_up: given_up.read(),
        }
    }

    /// This thread's connection, or while that one is not up another, or the first to come up.
    fn wire(&self, deadline: Option<Instant>) -> Result<Arc<Wire<P>>> {
        let Inner { shared, links } = &*self.inner;
        let ours = queue::thread_number() % links.len();
        if let Some(wire) = links[ours].ensure(shared) {
            return Ok(wire);
        }
        let mut others = links[ours..].iter().chain(&links[..ours]);
        match others.find_map(|link| link.up()) {
            Some(wire) => Ok(wire),
            None => links[ours].wait(shared, deadline),
        }
    }
}

impl<P: MuxProtocol> Shared<P> {
    fn wire(&self) -> Arc<Wire<P>> {
        Wire::new(self)
    }
}

impl<P: MuxProtocol> Inner<P> {
    fn close(&self) {
        self.shared.cancel.cancel();
        for link in &self.links {
            link.close();
        }
    }
}

impl<P: MuxProtocol> Drop for Inner<P> {
    fn drop(&mut self) {
        self.close();
    }
}

impl Counter {
    fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Counters {
    fn count_dial(&self, succeeded: bool) {
        if succeeded { &self.dialled } else { &self.dials_failed }.add(1);
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
            .field("address", &self.inner.shared.address)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
