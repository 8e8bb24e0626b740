//! What the acceptors of one event loop have in common: where a stream is admitted or refused, and
//! when they all have ended.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use netpoll_core::proxy::Header;
use netpoll_core::{
    Address, Carried, ConnectionGroup, Error, FilterServer, Handle, ListenerInfo, Origin,
    PollManager, Prepare, Remote, Result, Stream, admit, clock, guard,
};

use crate::admission::{AcceptLimit, Admission, AtLimit, ListenerCount, Permit, Refusal, Verdict};
use crate::opening::Opening;
use crate::service::Service;
use crate::sync::{lock, wait_while};

/// Made once for each `serve`; acceptors and the streams that they accept hold it.
pub(crate) struct AcceptContext {
    pub(crate) group: Arc<ConnectionGroup>,
    pub(crate) callbacks: Arc<dyn Prepare>,
    /// Weak, since streams that wait for a PROXY header hold the context: the last of them would
    /// end the manager on one of the manager's own loops.
    manager: Weak<PollManager>,
    pub(crate) admission: Arc<Admission>,
    /// The main reactor; it ends with the first listener that breaks.
    pub(crate) main: Arc<Remote>,
    pub(crate) opening: Arc<Opening>,
    state: Mutex<State>,
    /// An acceptor or an admission has ended.
    ended: Condvar,
}

#[derive(Default)]
struct State {
    failure: Option<Error>,
    /// Acceptors that a loop may still call.
    acceptors: usize,
    /// Connections that are being admitted at this moment.
    admitting: usize,
    /// `serve` is about to return: nothing more may be admitted.
    closed: bool,
}

/// Counts one acceptor until it is dropped.
pub(super) struct AcceptorCount(Arc<AcceptContext>);

/// Counts one connection that is being admitted, until it is dropped.
struct Admitting<'a>(&'a AcceptContext);

impl AcceptContext {
    pub(crate) fn new(
        group: Arc<ConnectionGroup>,
        callbacks: Arc<dyn Prepare>,
        manager: Weak<PollManager>,
        admission: Arc<Admission>,
        main: Arc<Remote>,
        opening: Arc<Opening>,
    ) -> Arc<Self> {
        let (state, ended) = (Mutex::default(), Condvar::new());
        Arc::new(Self { group, callbacks, manager, admission, main, opening, state, ended })
    }

    /// The error that ends `serve`, if there is one.
    pub(crate) fn take_failure(&self) -> Option<Error> {
        self.state().failure.take()
    }

    /// Ends `serve` with this error.
    pub(crate) fn fail(&self, error: Error) {
        self.opening.end();
        self.state().failure.get_or_insert(error);
        self.main.stop(Duration::ZERO);
    }

    /// Waits until no loop accepts any more, or `deadline`.
    pub(crate) fn wait_for_acceptors(&self, deadline: Instant) {
        let state = wait_while(&self.ended, self.state(), deadline, |it| it.acceptors > 0);
        let left = state.acceptors;
        drop(state);
        if left > 0 {
            log::warn!("a loop still accepts: a callback on it doesn't return");
        }
    }

    /// From here on nothing is admitted. Waits for the connections that are being admitted now.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        let waited = self.ended.wait_while(state, |it| it.admitting > 0);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// Makes an accepted stream a connection, on `own` or on the loop that the balance chooses;
    /// closes it if nothing is admitted any more. `proxied` is what a proxy said of the client.
    pub(super) fn admit(
        &self,
        stream: Stream,
        peer: Address,
        proxied: Option<Header>,
        own: Option<Arc<Remote>>,
        permit: Permit,
    ) -> Result<Handle> {
        self.admit_with(None, stream, peer, proxied, own, permit)
    }

    fn admit_with(
        &self,
        carried: Option<Carried>,
        stream: Stream,
        peer: Address,
        proxied: Option<Header>,
        own: Option<Arc<Remote>>,
        permit: Permit,
    ) -> Result<Handle> {
        let client = proxied.as_ref().and_then(Header::source).unwrap_or(&peer);
        // First: until it is over, the end of the serving waits, and so does that of the manager.
        let admitting = self.begin_admission();
        let reactor = own.or_else(|| Some(self.manager.upgrade()?.pick(client.ip())));
        let (Some(_admitting), Some(reactor)) = (admitting, reactor) else {
            log::debug!("{client} came when the serving had ended");
            return Err(Error::Closed);
        };
        // From here on the connection has the place that the permit was for.
        let origin = Origin { listener: permit.redeem(), peer, proxied };
        admit(stream, carried, origin, &self.group, &self.callbacks, &reactor)
            .ok_or(Error::NoMemory)
    }

    /// Makes a stream that was connected elsewhere a connection, as one that was accepted.
    pub(crate) fn adopt(
        &self,
        (stream, peer, carried): (Stream, Address, Carried),
        filter: Option<Arc<dyn FilterServer>>,
    ) -> Result<Handle> {
        let filter = filter.map(|it| for_carried(it, &carried)).transpose()?.flatten();
        let (name, address) = ("adopted".into(), stream.local_address()?);
        let listener = Arc::new(ListenerInfo { index: usize::MAX, name, address });
        let service = Service { filter, ..Service::default() };
        let count = ListenerCount::new(&self.admission, &listener, &service);
        let permit = Permit::obtain(&count, peer.ip(), clock::now).map_err(|limit| {
            self.group.count_refusal();
            let text = format!("cannot adopt the connection of {peer}: it met the limit {limit:?}");
            io::Error::new(io::ErrorKind::QuotaExceeded, text)
        })?;
        self.admit_with(Some(carried), stream, peer, None, None, permit)
    }

    /// Asks `on_accept` about a stream. Returns the stream if it is to be served.
    pub(super) fn ask(
        &self,
        stream: Stream,
        client: &Address,
        listener: &ListenerInfo,
    ) -> Option<Stream> {
        let verdict = self.admission.judge(client, listener);
        if verdict == Verdict::Admit {
            return Some(stream);
        }
        self.group.count_refusal();
        log::debug!("{client} is refused by on_accept");
        if verdict == Verdict::Reset
            && let Err(error) = stream.reset_on_close()
        {
            log::debug!("cannot reset the connection to {client}: {error}");
        }
        if verdict == Verdict::Close {
            stream.refuse(&[]);
        }
        None
    }

    /// Closes an accepted stream that met a limit, after what `at_limit` says to send.
    pub(super) fn refuse(
        &self,
        stream: Stream,
        peer: &Address,
        listener: &ListenerInfo,
        limit: AcceptLimit,
    ) {
        self.group.count_refusal();
        log::debug!("{peer} is refused at the limit {limit:?}");
        let words = match self.admission.at_limit() {
            AtLimit::Tell(on_refuse) => {
                let refusal = Refusal { peer, listener, limit };
                guard("on_refuse", || on_refuse(&refusal)).unwrap_or_default()
            }
            _ => Vec::new(),
        };
        stream.refuse(&words);
    }

    /// Counts one more acceptor.
    pub(super) fn count_acceptor(self: &Arc<Self>) -> AcceptorCount {
        self.state().acceptors += 1;
        AcceptorCount(self.clone())
    }

    /// `None` when nothing is admitted any more. A connection that is admitted before the guard is
    /// dropped is there when the shutdown looks for connections. The guard holds no lock, since an
    /// admission may write to the log.
    fn begin_admission(&self) -> Option<Admitting<'_>> {
        let mut state = self.state();
        if state.closed {
            return None;
        }
        state.admitting += 1;
        drop(state);
        Some(Admitting(self))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Drop for AcceptorCount {
    fn drop(&mut self) {
        self.0.state().acceptors -= 1;
        self.0.ended.notify_all();
    }
}

impl Drop for Admitting<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.admitting -= 1;
        let is_last = state.closed && state.admitting == 0;
        drop(state);
        if is_last {
            self.0.ended.notify_all();
        }
    }
}

/// The most that may have been read of a stream before a filter gets it: what a filter may leave
/// unopened of a message.
const READ_AT_MOST: usize = 64 << 10;

/// The filter of a stream that was read from; `None` if its first byte says that it has none.
fn for_carried(
    filter: Arc<dyn FilterServer>,
    carried: &Carried,
) -> Result<Option<Arc<dyn FilterServer>>> {
    let (first, length) = carried.input();
    if let (Some(expected), Some(first)) = (filter.first_byte(), first)
        && expected != first
    {
        return Ok(None);
    }
    if length > READ_AT_MOST {
        return Err(Error::config(format!(
            "adopt_with takes a stream of which at most {READ_AT_MOST} bytes were read, and these \
             are {length}: its filter must see them first"
        )));
    }
    Ok(Some(filter))
}
