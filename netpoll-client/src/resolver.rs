//! Resolves names to addresses on threads that may block, within the dial's deadline.
//!
//! ```text
//!   ask ─► in /etc/hosts? ────────────────────────────► answered at once
//!      └─► a lookup of that name, old or new ─► queue ─► a thread asks ─► all its askers
//! ```
//! The system's resolver can't be interrupted and takes as long as `resolv.conf` allows: by default
//! 5 s for each server, twice. So separate threads call it, once for each name, and a dial that
//! reaches its deadline or is cancelled goes on without the answer. A queued name without an asker
//! is dropped. A call of the resolver keeps its thread to the end; once it has no asker, another
//! thread may start in its place, so names that no server answers do not delay other names.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use netpoll_core::socket::look_up;
use netpoll_core::{Next, Notify, ThreadPool, ThreadPoolOptions, guard};

use crate::hosts;
use crate::sync::lock;

/// How many names with askers are resolved at once. Further names wait in the queue, within their
/// deadlines.
const ASKED_AT_MOST: usize = 64;
/// How many threads there may be, those included that resolve a name without askers.
const THREADS_AT_MOST: usize = 256;
/// How long an idle thread stays.
const IDLE: Duration = Duration::from_secs(10);

/// Resolves names to addresses: the system's resolver, or one that the user brings.
///
/// It is called on a thread of the dialer's and may block there; a dial does not wait for it beyond
/// its deadline. Each name is resolved once at a time, however many dials need it. A closure of
/// this signature implements the trait.
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
    inner: Arc<ResolverInner>,
}

struct ResolverInner {
    resolve: Box<dyn Resolve>,
    /// Its answers hold for every port, and `/etc/hosts` is read before it is called.
    is_system: bool,
    state: Mutex<ResolverState>,
    pool: Arc<ThreadPool>,
}

#[derive(Default)]
struct ResolverState {
    lookups: HashMap<Key, Lookup>,
    /// Names that no thread resolves yet.
    queue: VecDeque<Key>,
    /// Threads that were told of a name in the queue. They take names until it is empty, park, and
    /// look at it once more.
    at_work: usize,
    /// Those of them that resolve a name. The others are about to look at the queue.
    busy: usize,
}

/// A host, and its port where the answer depends on it.
type Key = (Arc<str>, u16);

/// A name that a thread resolves, or will resolve.
#[derive(Default)]
struct Lookup {
    askers: Vec<Weak<Question>>,
    is_asked: bool,
}

/// The question of one dial. It is dropped when the dial waits no more.
pub(crate) struct Question {
    port: u16,
    answer: Mutex<Option<io::Result<Vec<SocketAddr>>>>,
    notify: Arc<Notify>,
    /// What it waits for, unless it was answered at once.
    lookup: Option<(Arc<ResolverInner>, Key)>,
}

impl Resolver {
    /// The system's resolver. All dialers share its threads.
    pub(crate) fn system() -> Self {
        static SYSTEM: OnceLock<Resolver> = OnceLock::new();
        SYSTEM.get_or_init(|| Self::over(ask_the_system, true)).clone()
    }

    pub(crate) fn new(resolve: impl Resolve) -> Self {
        Self::over(resolve, false)
    }

    fn over(resolve: impl Resolve, is_system: bool) -> Self {
        let pool = ThreadPool::new(ThreadPoolOptions {
            name: |_| "netpoll-resolve".to_owned(),
            what: "a thread that resolves names, so names wait for those there are",
            max_threads: THREADS_AT_MOST,
            idle: IDLE,
        });
        let (resolve, state) = (Box::new(resolve), Mutex::new(ResolverState::default()));
        Self { inner: Arc::new(ResolverInner { resolve, is_system, state, pool }) }
    }

    /// Asks for a name; `notify` is notified when the answer is there, which may be before this
    /// returns.
    ///
    /// # Errors
    /// The system's, if not even one thread can be started.
    pub(crate) fn ask(
        &self,
        host: &str,
        port: u16,
        notify: &Arc<Notify>,
    ) -> io::Result<Arc<Question>> {
        let inner = &self.inner;
        let known = if inner.is_system { hosts::look_up(host) } else { Vec::new() };
        let question =
            |lookup| Question { port, answer: Mutex::default(), notify: notify.clone(), lookup };
        if !known.is_empty() {
            let question = question(None);
            question.tell(Ok(known), true);
            return Ok(Arc::new(question));
        }
        let key: Key = (host.into(), if inner.is_system { 0 } else { port });
        let question = Arc::new(question(Some((inner.clone(), key.clone()))));
        let mut state = lock(&inner.state);
        state.add(key, &question);
        let told = inner.tell_thread(&mut state);
        drop(state);
        inner.pool.tell();
        told?;
        Ok(question)
    }
}

impl Question {
    /// The answer, if it is there; only the first call returns it.
    pub(crate) fn answer(&self) -> Option<io::Result<Vec<SocketAddr>>> {
        lock(&self.answer).take()
    }

    fn tell(&self, mut answer: io::Result<Vec<SocketAddr>>, of_any_port: bool) {
        if let (Ok(addresses), true) = (&mut answer, of_any_port) {
            for address in addresses {
                address.set_port(self.port);
            }
        }
        *lock(&self.answer) = Some(answer);
        self.notify.notify();
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        let Some((inner, key)) = &self.lookup else { return };
        let mut state = lock(&inner.state);
        state.forget(key);
        // Where it fails, the log says so.
        let _ = inner.tell_thread(&mut state);
        drop(state);
        inner.pool.tell();
    }
}

impl ResolverState {
    /// Adds an asker to the lookup of its name, which is queued if it is new.
    fn add(&mut self, key: Key, question: &Arc<Question>) {
        let lookup = self.lookups.entry(key.clone()).or_insert_with(|| {
            self.queue.push_back(key);
            Lookup::default()
        });
        lookup.askers.retain(|asker| asker.strong_count() > 0);
        lookup.askers.push(Arc::downgrade(question));
    }

    /// Drops the lookup of a queued name that has no asker left.
    fn forget(&mut self, key: &Key) {
        if self.lookups.get(key).is_some_and(|it| !it.is_asked && !it.is_waited_for()) {
            self.lookups.remove(key);
            self.queue.retain(|queued| queued != key);
        }
    }
}

impl Lookup {
    fn is_waited_for(&self) -> bool {
        self.askers.iter().any(|asker| asker.strong_count() > 0)
    }
}

impl ResolverInner {
    /// Has a parked thread, or a new one, look at the queue if a name is there that no thread is
    /// about to take, within the limits.
    ///
    /// # Errors
    /// The system's, if no thread runs that will take the name.
    fn tell_thread(self: &Arc<Self>, state: &mut ResolverState) -> io::Result<()> {
        let free = state.at_work - state.busy;
        if state.queue.len() <= free {
            return Ok(());
        }
        let asked = |lookup: &&Lookup| lookup.is_asked && lookup.is_waited_for();
        if state.lookups.values().filter(asked).count() + free >= ASKED_AT_MOST {
            return Ok(());
        }
        let inner = self.clone();
        let work = move || {
            inner.work();
            Next::ParkAndLook(Box::new(move || inner.look_again()))
        };
        match self.pool.run(work) {
            Ok(()) => state.at_work += 1,
            Err(error) if state.at_work == 0 => return Err(error),
            Err(_) => {} // a thread that runs will take the name
        }
        Ok(())
    }

    fn work(&self) {
        while let Some(key) = self.next() {
            let (host, port) = &key;
            let resolved = guard("a resolver", || self.resolve.resolve(host, *port));
            let answer =
                resolved.unwrap_or_else(|_| Err(io::Error::other("the resolver panicked")));
            let _ = guard("a resolver's answer", || self.tell(&key, answer));
        }
    }

    /// Gives the answer to all its askers.
    fn tell(&self, key: &Key, answer: io::Result<Vec<SocketAddr>>) {
        let mut state = lock(&self.state);
        state.busy -= 1;
        let lookup = state.lookups.remove(key).unwrap_or_default();
        drop(state);
        let askers: Vec<_> = lookup.askers.iter().filter_map(Weak::upgrade).collect();
        let Some((last, others)) = askers.split_last() else { return };
        for asker in others {
            asker.tell(copy(&answer), self.is_system);
        }
        last.tell(answer, self.is_system);
    }

    /// For a thread that is parked: a name may have come for which it still counted as at work.
    fn look_again(self: &Arc<Self>) {
        let mut state = lock(&self.state);
        state.at_work -= 1;
        // The order that this gives is mostly for this very thread.
        let _ = self.tell_thread(&mut state);
        drop(state);
        self.pool.tell();
    }

    /// The next name. `None` when the queue is empty: the thread parks.
    fn next(&self) -> Option<Key> {
        let mut state = lock(&self.state);
        while let Some(key) = state.queue.pop_front() {
            if let Some(lookup) = state.lookups.get_mut(&key) {
                lookup.is_asked = true;
                state.busy += 1;
                return Some(key);
            }
        }
        None
    }
}

/// A copy for one more asker.
fn copy(answer: &io::Result<Vec<SocketAddr>>) -> io::Result<Vec<SocketAddr>> {
    match answer {
        Ok(addresses) => Ok(addresses.clone()),
        Err(error) => Err(error.raw_os_error().map_or_else(
            || io::Error::new(error.kind(), error.to_string()),
            io::Error::from_raw_os_error,
        )),
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Resolver").finish_non_exhaustive()
    }
}

fn ask_the_system(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    match look_up(host, port) {
        Err(error) if is_unknown(&error) => {
            Err(io::Error::new(ErrorKind::NotFound, format!("no such host: {error}")))
        }
        answer => answer,
    }
}

/// Whether the resolver says that there is no such name, rather than that it can't tell. std keeps
/// getaddrinfo's text and not its number, so this compares the texts of Linux's C libraries.
fn is_unknown(error: &io::Error) -> bool {
    const TEXTS: [&str; 3] =
        ["Name or service not known", "No address associated", "Name does not resolve"];
    let text = error.to_string();
    TEXTS.iter().any(|known| text.contains(known))
}

#[cfg(test)]
mod tests {
    use std::sync::{Condvar, mpsc};
    use std::thread;
    use std::time::Instant;

    use super::*;

    fn ask(resolver: &Resolver, host: &str) -> Arc<Question> {
        resolver.ask(host, 80, &Arc::default()).expect("a thread")
    }

    fn wait(question: &Question) -> io::Result<Vec<SocketAddr>> {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(answer) = question.answer() {
                return answer;
            }
            assert!(Instant::now() < deadline, "no answer");
            question.notify.wait(Some(deadline)).expect("it may wait");
        }
    }

    /// A resolver in which hosts that begin with "slow" wait until the sender is dropped. It
    /// reports each call.
    fn resolver() -> (Resolver, mpsc::Sender<()>, mpsc::Receiver<String>) {
        let ((stop, stopped), (calls, called)) = (mpsc::channel::<()>(), mpsc::channel());
        let latch = Arc::new((Mutex::new(false), Condvar::new()));
        let opened = latch.clone();
        thread::spawn(move || {
            let _ = stopped.recv();
            *lock(&opened.0) = true;
            opened.1.notify_all();
        });
        let resolver = Resolver::new(move |host: &str, port: u16| {
            let _ = calls.send(host.to_owned());
            if host.starts_with("slow") {
                let open = lock(&latch.0);
                drop(latch.1.wait_while(open, |open| !*open));
            }
            Ok(vec![SocketAddr::from(([192, 0, 2, 1], port))])
        });
        (resolver, stop, called)
    }

    #[test]
    fn names_that_no_asker_waits_for_hold_up_no_others() {
        const SLOW: usize = 200;
        let (resolver, _stop, called) = resolver();
        for number in 0..SLOW {
            let question = ask(&resolver, &format!("slow{number}"));
            called.recv().expect("it is asked");
            drop(question);
        }
        let answer = wait(&ask(&resolver, "quick")).expect("an address");
        assert_eq!(answer, ["192.0.2.1:80".parse().unwrap()]);
    }

    #[test]
    fn slow_names_that_are_waited_for_hold_up_others_only_when_there_are_many() {
        let (resolver, _stop, called) = resolver();
        let mut waiting: Vec<_> =
            (1..ASKED_AT_MOST).map(|number| ask(&resolver, &format!("slow{number}"))).collect();
        wait(&ask(&resolver, "quick")).expect("an address");
        for _ in 0..ASKED_AT_MOST {
            called.recv().expect("they are asked");
        }
        waiting.extend((0..2).map(|it| ask(&resolver, &format!("slow another {it}"))));
        let queued = ask(&resolver, "quick");
        let asked = lock(&resolver.inner.state).lookups.values().filter(|it| it.is_asked).count();
        assert!(asked <= ASKED_AT_MOST);
        waiting.clear(); // and with that their threads are no longer counted
        wait(&queued).expect("an address");
    }

    #[test]
    fn a_name_is_asked_once_for_all_its_askers() {
        let (resolver, stop, called) = resolver();
        let askers: Vec<_> = (0..50).map(|_| ask(&resolver, "slow")).collect();
        assert_eq!(called.recv().expect("it is asked"), "slow");
        drop(stop);
        for asker in &askers {
            assert_eq!(wait(asker).expect("an address").len(), 1);
        }
        assert!(called.try_recv().is_err(), "it was asked again");
        wait(&ask(&resolver, "slow")).expect("an address");
        assert_eq!(called.recv().expect("it is asked anew"), "slow");
    }

    #[test]
    fn all_askers_are_told_an_error() {
        let failing = |_: &str, _: u16| Err(io::Error::new(ErrorKind::NotFound, "no such host"));
        let resolver = Resolver::new(failing);
        let askers: Vec<_> = (0..3).map(|_| ask(&resolver, "a.name")).collect();
        for asker in askers {
            let error = wait(&asker).expect_err("there is none");
            assert_eq!(
                (error.kind(), error.to_string()),
                (ErrorKind::NotFound, "no such host".into())
            );
        }
    }

    #[test]
    fn queued_names_without_askers_leave_nothing() {
        let (resolver, _stop, _called) = resolver();
        let waiting: Vec<_> =
            (0..ASKED_AT_MOST).map(|number| ask(&resolver, &format!("slow{number}"))).collect();
        let is_asked = || lock(&resolver.inner.state).queue.is_empty();
        while !is_asked() {
            thread::yield_now();
        }
        for number in 0..1000 {
            drop(ask(&resolver, &format!("slow more {number}")));
        }
        let state = lock(&resolver.inner.state);
        assert_eq!((state.queue.len(), state.lookups.len()), (0, ASKED_AT_MOST));
        drop(state);
        drop(waiting);
    }

    #[test]
    fn a_name_in_the_hosts_file_needs_no_thread() {
        let resolver = Resolver::over(|_: &str, _: u16| panic!("it is asked"), true);
        let question = ask(&resolver, "localhost");
        let answer = question.answer().expect("at once").expect("an address");
        assert!(answer.iter().all(|it| it.ip().is_loopback() && it.port() == 80), "{answer:?}");
        assert_eq!(resolver.inner.pool.threads(), 0);
    }

    /// A second thread would be started, or refused, for a name that comes before the first parks.
    #[test]
    fn names_one_by_one_need_one_thread() {
        let resolver = Resolver::new(|_: &str, _: u16| Ok(Vec::new()));
        for name in 0..5_000 {
            wait(&ask(&resolver, &format!("{name}.name"))).expect("an answer");
        }
        assert_eq!(resolver.inner.pool.threads(), 1);
    }

    #[test]
    fn a_panic_costs_one_answer_and_no_thread() {
        let resolver = Resolver::new(|host: &str, port: u16| {
            assert!(host != "bad", "on purpose");
            Ok(vec![SocketAddr::from(([192, 0, 2, 1], port))])
        });
        for _ in 0..3 {
            wait(&ask(&resolver, "bad")).expect_err("it panics");
            wait(&ask(&resolver, "good")).expect("an address");
        }
        assert!(lock(&resolver.inner.state).lookups.is_empty());
    }
}
