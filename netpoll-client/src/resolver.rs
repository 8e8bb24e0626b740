//! Names into addresses, on threads that may wait, within the dial's deadline.
//!
//! The system's resolver can't be interrupted, and takes as long as `resolv.conf` allows: by
//! default 5 s for each server, twice. So a few threads ask it, and a dial that reaches its
//! deadline, or is cancelled, goes on without the answer. What was queued for it is then skipped; a
//! question that is being asked runs to its end on its thread, and the answer is dropped.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, ToSocketAddrs};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use netpoll_core::Doorbell;

/// How many names are asked for at once. Others wait their turn, within their deadlines.
const THREADS_AT_MOST: usize = 8;
/// How long a thread without a question stays.
const IDLE: Duration = Duration::from_secs(10);

/// Turns names into addresses: the system's resolver, or one of the user's.
///
/// It is called on a thread of its own and may block there; the dial does not wait for it beyond
/// its deadline. A closure of this shape is one.
pub trait Resolve: Send + Sync + 'static {
    /// The addresses of `host`, the preferred one first, each with `port`.
    ///
    /// # Errors
    /// Any; the dial fails with it.
    fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>>;
}

impl<F> Resolve for F
where
    F: Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static,
{
    fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        self(host, port)
    }
}

/// A resolver and the threads that ask it.
#[derive(Clone)]
pub(crate) struct Resolver {
    inner: Arc<Inner>,
}

struct Inner {
    resolve: Box<dyn Resolve>,
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Default)]
struct State {
    /// Questions whose askers may have left.
    queue: VecDeque<Weak<Question>>,
    threads: usize,
    idle: usize,
}

/// A question that was put. Dropping it is leaving.
pub(crate) struct Question {
    host: String,
    port: u16,
    answer: Mutex<Option<io::Result<Vec<SocketAddr>>>>,
    bell: Arc<Doorbell>,
}

impl Resolver {
    /// The system's, whose threads all dialers share.
    pub(crate) fn system() -> Self {
        static SYSTEM: OnceLock<Resolver> = OnceLock::new();
        SYSTEM.get_or_init(|| Self::new(ask_the_system)).clone()
    }

    pub(crate) fn new(resolve: impl Resolve) -> Self {
        let (resolve, state) = (Box::new(resolve), Mutex::new(State::default()));
        Self { inner: Arc::new(Inner { resolve, state, work: Condvar::new() }) }
    }

    /// Puts a question; `bell` rings when it is answered.
    ///
    /// # Errors
    /// The system's, where a first thread can't be started.
    pub(crate) fn ask(
        &self,
        host: &str,
        port: u16,
        bell: &Arc<Doorbell>,
    ) -> io::Result<Arc<Question>> {
        let (host, answer) = (host.to_owned(), Mutex::new(None));
        let question = Arc::new(Question { host, port, answer, bell: bell.clone() });
        let mut state = lock(&self.inner.state);
        if state.idle <= state.queue.len() && state.threads < THREADS_AT_MOST {
            let inner = self.inner.clone();
            let thread = thread::Builder::new().name("netpoll-resolve".into());
            match thread.spawn(move || inner.work()) {
                Ok(_) => state.threads += 1,
                Err(error) if state.threads == 0 => return Err(error),
                Err(_) => {} // one that runs will come to it
            }
        }
        state.queue.push_back(Arc::downgrade(&question));
        drop(state);
        self.inner.work.notify_one();
        Ok(question)
    }
}

impl Question {
    /// The answer, once, when it is there.
    pub(crate) fn answer(&self) -> Option<io::Result<Vec<SocketAddr>>> {
        lock(&self.answer).take()
    }
}

impl Inner {
    fn work(&self) {
        while let Some(question) = self.next() {
            // Not to be held while the resolver thinks: its asker may leave.
            let Some((host, port)) = question.upgrade().map(|it| (it.host.clone(), it.port)) else {
                continue;
            };
            let resolved = catch_unwind(AssertUnwindSafe(|| self.resolve.resolve(&host, port)));
            let answer =
                resolved.unwrap_or_else(|_| Err(io::Error::other("the resolver panicked")));
            if let Some(question) = question.upgrade() {
                *lock(&question.answer) = Some(answer);
                question.bell.ring();
            }
        }
    }

    /// The next question; `None` when none has come for a while, and the thread is to end.
    fn next(&self) -> Option<Weak<Question>> {
        let until = Instant::now() + IDLE;
        let mut state = lock(&self.state);
        loop {
            if let Some(question) = state.queue.pop_front() {
                return Some(question);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                state.threads -= 1;
                return None;
            }
            state.idle += 1;
            let waited = self.work.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            state.idle -= 1;
        }
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Resolver").finish_non_exhaustive()
    }
}

fn ask_the_system(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    match (host, port).to_socket_addrs() {
        Ok(addresses) => Ok(addresses.collect()),
        Err(error) if is_unknown(&error) => {
            Err(io::Error::new(ErrorKind::NotFound, format!("no such host: {error}")))
        }
        Err(error) => Err(error),
    }
}

/// Whether the resolver says that there is no such name, rather than that it can't tell. std keeps
/// getaddrinfo's text and not its number, so the texts of the C libraries of Linux stand here.
fn is_unknown(error: &io::Error) -> bool {
    const TEXTS: [&str; 3] =
        ["Name or service not known", "No address associated", "Name does not resolve"];
    let text = error.to_string();
    TEXTS.iter().any(|known| text.contains(known))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
