//! One connection of a multiplexer: the requests sent on it, and the calls that wait for responses.

mod sent;

use std::io::{self, ErrorKind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::thread;
use std::time::Instant;

use netpoll_buffer::{LinkBuffer, Source};
use netpoll_core::{
    Callbacks, CloseReason, Connection, Error, Handle, Moment, Notify, Prepare, Result, Wait, clock,
};

use super::context::MuxContext;
use super::pending::{Match, Pending};
use super::protocol::MuxProtocol;
use super::queue::{Queue, Sent, thread_number};
use super::silence::Silence;
use super::stats::Counters;
use super::until::Until;
use crate::sync::{lock, wait_until};
use crate::watchers::Watchers;
pub(super) use sent::SentCall;

/// While so many calls wait, further ones are likely to follow at once: the thread that would send
/// yields before it does, so that they may leave with the same system call. On 2 cores that gave 64
/// threads on 4 connections 1.3 to 2 times the calls per second; without this bound 2 threads made
/// half as many.
const CROWD: usize = 5;

/// See the module.
pub(super) struct Wire<P: MuxProtocol> {
    protocol: Arc<P>,
    counters: Arc<Counters>,
    input_limit: usize,
    /// Set before the link hands the wire to calls; callbacks may run earlier.
    handle: OnceLock<Handle>,
    state: Mutex<WireState<P::Response>>,
    queue: Queue,
    /// Requests are queued that no call sends: the reactor must.
    passed_on: AtomicBool,
    /// How many bytes have come; read by calls that time out.
    heard: AtomicU64,
    /// Calls that no thread waits for, while the output has no room.
    for_room: Watchers,
    /// How many timeouts in a row without a byte end the connection; `None`: no number does.
    most_timeouts: Option<u32>,
}

struct WireState<R> {
    pending: Pending<Arc<PendingCall<R>>>,
    /// Why the connection is over. Once it is set, no call waits.
    failure: Option<Failure>,
    silence: Silence,
    /// A response has come.
    has_answered: bool,
}

/// Gives the id of a request back unless the request is sent, also when `encode` panics.
struct Unsent<'a, R> {
    state: &'a Mutex<WireState<R>>,
    id: Option<u32>,
}

/// A call that waits for its response.
struct PendingCall<R> {
    outcome: Mutex<Option<Result<R, Failure>>>,
    there: Condvar,
    /// Told of the outcome where no thread waits for it.
    notify: Option<Arc<Notify>>,
}

/// Why a connection is over, for each call that waited.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    kind: ErrorKind,
    text: Arc<str>,
}

impl<P: MuxProtocol> Wire<P> {
    pub(super) fn new(context: &MuxContext<P>) -> Arc<Self> {
        let pending = Pending::new(context.most_waiting);
        Arc::new(Self {
            protocol: context.protocol.clone(),
            counters: context.counters.clone(),
            input_limit: context.group.limits().input_limit,
            handle: OnceLock::new(),
            state: Mutex::new(WireState {
                pending,
                failure: None,
                silence: Silence::default(),
                has_answered: false,
            }),
            queue: Queue::new(),
            passed_on: AtomicBool::new(false),
            heard: AtomicU64::new(0),
            for_room: Watchers::default(),
            most_timeouts: context.most_timeouts,
        })
    }

    /// What the connection's reactor calls.
    pub(super) fn callbacks(self: &Arc<Self>) -> Arc<dyn Prepare> {
        let wire = self.clone();
        let mut callbacks = Callbacks::with(move |_: &Connection| Ok(wire.clone()));
        callbacks.set(Moment::Request, |wire: &mut Arc<Self>, conn| wire.receive(conn));
        callbacks.set(Moment::Drain, |wire: &mut Arc<Self>, _| {
            wire.for_room.tell();
            Ok(())
        });
        callbacks.set_on_disconnect(|wire: Arc<Self>, reason: &CloseReason| {
            wire.end(Failure::of(reason));
        });
        Arc::new(callbacks)
    }

    pub(super) fn connected(&self, handle: Handle) {
        let _ = self.handle.set(handle);
    }

    /// Why it is over, if it is.
    pub(super) fn failure(&self) -> Option<Failure> {
        let failure = lock(&self.state).failure.clone();
        let closed = || self.handle.get().is_some_and(|handle| !handle.is_active());
        // `on_disconnect` will bring the reason; a new request would only wait for that.
        failure.or_else(|| closed().then(Failure::ending))
    }

    /// Whether a response has come on it.
    pub(super) fn has_answered(&self) -> bool {
        lock(&self.state).has_answered
    }

    pub(super) fn waiting(&self) -> usize {
        lock(&self.state).pending.waiting()
    }

    /// Closes the connection: all calls that wait fail with `failure`.
    pub(super) fn close(&self, failure: Failure) {
        self.end(failure);
        if let Some(handle) = self.handle.get() {
            handle.close();
        }
    }

    /// Sends a request, and waits for its response.
    pub(super) fn call(&self, request: P::Request, until: Until<'_>) -> Result<P::Response> {
        let (began, heard) = (clock::now(), self.heard.load(Ordering::Relaxed));
        let called = self.exchange(request, until);
        if let Err(Error::TimedOut(_)) = called {
            self.timed_out(began, heard);
        }
        called
    }

    fn exchange(&self, request: P::Request, until: Until<'_>) -> Result<P::Response> {
        let handle = self.handle.get().ok_or(Error::Closed)?;
        let waiter = Arc::new(PendingCall::new(None));
        let _waking = until.wake_by(|| {
            let (handle, waiter) = (handle.clone(), waiter.clone());
            Box::new(move || {
                handle.recheck_waits();
                waiter.look_again();
            })
        });
        until.check()?;
        handle.wait_for_room_while(until.deadline, || until.check())?;
        let (id, must_send, waiting) = self.queue_request(request, &waiter)?;
        if must_send {
            if waiting >= CROWD {
                thread::yield_now();
            }
            self.send_queued(handle);
        }
        if let Some(outcome) = waiter.wait(until) {
            return outcome.map_err(|failure| failure.error());
        }
        let given_up = || until.check().err().unwrap_or(Error::TimedOut(Wait::Read));
        if lock(&self.state).pending.give_up(id).is_some() {
            return Err(given_up());
        }
        // It came at the last moment, and is there or about to be.
        match waiter.wait(Until { deadline: None, cancel: None }) {
            Some(outcome) => outcome.map_err(|failure| failure.error()),
            None => Err(given_up()),
        }
    }

    /// Returns its id, whether the caller must send what is queued, and how many calls wait.
    fn queue_request(
        &self,
        request: P::Request,
        waiter: &Arc<PendingCall<P::Response>>,
    ) -> Result<(u32, bool, usize)> {
        let (id, waiting) = self.register(waiter)?;
        let mut message = LinkBuffer::new();
        let unsent = Unsent { state: &self.state, id: Some(id) };
        self.protocol.encode(id, request, &mut message)?;
        unsent.sent();
        message.flush();
        Ok((id, self.queue.push(message, thread_number()), waiting))
    }

    /// A call has timed out that began at `began`, when `heard` bytes had come. Gives the
    /// connection up if that shows that no more bytes come.
    #[cold]
    fn timed_out(&self, began: Instant, heard: u64) {
        let now = clock::now();
        let heard_now = self.heard.load(Ordering::Relaxed);
        let mut state = lock(&self.state);
        let timeouts = state.silence.timed_out(began, heard, now, heard_now);
        let is_silent = self.most_timeouts.is_some_and(|most| timeouts >= most);
        let is_exhausted = state.pending.is_exhausted();
        let is_over = state.failure.is_some();
        drop(state);
        let why = match (is_silent, is_exhausted) {
            _ if is_over => return,
            (true, _) => format!("{timeouts} calls in a row timed out without a byte"),
            (_, true) => "too many of its responses have not come".into(),
            _ => return,
        };
        self.counters.given_up.add(1);
        let text = format!("the connection was given up: {why}");
        self.end(Failure::new(ErrorKind::TimedOut, &text));
        if let Some(handle) = self.handle.get() {
            // An orderly close would wait for a peer that may be gone.
            handle.abort();
        }
    }

    /// Returns an id, and how many calls wait, this one included.
    fn register(&self, waiter: &Arc<PendingCall<P::Response>>) -> Result<(u32, usize)> {
        let mut state = lock(&self.state);
        if let Some(failure) = &state.failure {
            return Err(failure.error());
        }
        let id = state.pending.insert(waiter.clone()).ok_or(Error::Full)?;
        Ok((id, state.pending.waiting()))
    }

    /// Sends what is queued, in as few system calls as it takes.
    fn send_queued(&self, handle: &Handle) {
        let sent = self.queue.send_queued(|batch| {
            self.counters.flushes.add(1);
            handle.send_buffer(batch)
        });
        match sent {
            Ok(Sent::All) => {}
            Ok(Sent::SomeLeft) => {
                self.passed_on.store(true, Ordering::Release);
                handle.wake();
            }
            // The queued requests are lost with the connection. Its `on_disconnect` runs after the
            // responses that have come were delivered, and fails all calls that wait.
            Err(error) => log::debug!("requests could not be sent: {error}"),
        }
    }

    /// Runs on the reactor, when bytes have come and when a call has passed the sending on.
    fn receive(&self, conn: &mut Connection) -> Result<()> {
        if self.passed_on.swap(false, Ordering::AcqRel) {
            self.send_queued(&conn.handle());
        }
        self.heard.store(conn.bytes_received(), Ordering::Relaxed);
        let mut reader = conn.reader();
        let input = reader.buffered();
        while !input.is_empty() {
            let before = input.len();
            match self.protocol.decode(input) {
                Ok(Some(_)) if input.len() >= before => return Err(took_nothing()),
                Ok(Some((id, response))) => self.deliver(id, response),
                Ok(None) => break,
                Err(error) => return Err(error),
            }
        }
        // The response could never become whole, and its call would wait for ever.
        if input.len() >= self.input_limit {
            let (requested, limit) = (input.len() + 1, self.input_limit);
            return Err(Error::InputLimit { requested, limit });
        }
        Ok(())
    }

    fn deliver(&self, id: u32, response: P::Response) {
        let mut state = lock(&self.state);
        state.has_answered = true;
        let matched = state.pending.answer(id);
        drop(state);
        match matched {
            Match::Waiter(waiter) => {
                // Counted first: the caller may read the figures once it has its response.
                self.counters.answered.add(1);
                waiter.complete(Ok(response));
            }
            Match::Late => self.counters.late.add(1),
            Match::Duplicate => self.counters.duplicate.add(1),
            Match::Unknown => self.counters.unknown.add(1),
        }
    }

    /// Fails all calls that wait; later calls fail at once.
    fn end(&self, failure: Failure) {
        let mut state = lock(&self.state);
        let failure = state.failure.get_or_insert(failure).clone();
        let waiters = state.pending.take_all();
        drop(state);
        for waiter in waiters {
            waiter.complete(Err(failure.clone()));
        }
        self.for_room.tell();
    }
}

impl<R> Unsent<'_, R> {
    fn sent(mut self) {
        self.id = None;
    }
}

impl<R> Drop for Unsent<'_, R> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            let withdrawn = lock(self.state).pending.withdraw(id);
            drop(withdrawn);
        }
    }
}

/// Without this error the same response would be decoded for ever.
fn took_nothing() -> Error {
    let text = "`decode` has returned a response and taken no byte of the input";
    io::Error::new(ErrorKind::InvalidData, text).into()
}

impl<R> PendingCall<R> {
    fn new(notify: Option<Arc<Notify>>) -> Self {
        Self { outcome: Mutex::new(None), there: Condvar::new(), notify }
    }

    fn complete(&self, outcome: Result<R, Failure>) {
        *lock(&self.outcome) = Some(outcome);
        match &self.notify {
            Some(notify) => notify.notify(),
            None => self.there.notify_one(),
        }
    }

    fn take(&self) -> Option<Result<R, Failure>> {
        lock(&self.outcome).take()
    }

    /// The outcome; `None` at the deadline, or where it was cancelled.
    fn wait(&self, until: Until<'_>) -> Option<Result<R, Failure>> {
        let mut outcome = lock(&self.outcome);
        while outcome.is_none() && !until.is_late() && until.check().is_ok() {
            outcome = wait_until(&self.there, outcome, until.deadline);
        }
        outcome.take()
    }

    /// Has the call look whether to go on.
    fn look_again(&self) {
        drop(lock(&self.outcome)); // it has looked before this, or waits
        self.there.notify_one();
    }
}

impl Failure {
    pub(super) fn new(kind: ErrorKind, text: &str) -> Self {
        Self { kind, text: text.into() }
    }

    pub(super) fn closed() -> Self {
        Self::new(ErrorKind::NotConnected, "the multiplexer is closed")
    }

    /// The connection ends, and the reason is not known yet.
    fn ending() -> Self {
        Self::new(ErrorKind::ConnectionAborted, "the connection is ending")
    }

    pub(super) fn error(&self) -> Error {
        io::Error::new(self.kind, self.text.to_string()).into()
    }

    fn of(reason: &CloseReason) -> Self {
        let kind = match reason {
            CloseReason::Peer => ErrorKind::UnexpectedEof,
            CloseReason::Reset => ErrorKind::ConnectionReset,
            CloseReason::Local | CloseReason::Shutdown => ErrorKind::NotConnected,
            CloseReason::Timeout(_) => ErrorKind::TimedOut,
            CloseReason::Limit(_) => ErrorKind::InvalidData,
            CloseReason::Callback(error) => error.kind(),
            CloseReason::Io(error) => error.kind(),
            _ => ErrorKind::ConnectionAborted,
        };
        let text = match reason {
            CloseReason::Callback(error) => format!("the response can't be decoded: {error}"),
            CloseReason::Panic => "the response can't be decoded: `decode` panicked".into(),
            other => format!("the connection ended before the response had come: {other}"),
        };
        Self::new(kind, &text)
    }
}
