//! One `serve`: opens the listeners and accepts, until the main reactor is stopped.

use std::io;
use std::iter;
use std::sync::{Arc, Mutex, Weak};

use netpoll_core::{
    ConnectionGroup, Dispatcher, Error, ListenerInfo, OnLoop, OnWatched, PollManager, Prepare,
    Reactor, Remote, Result, socket,
};

use crate::accept::assignment::Assignment;
use crate::accept::context::AcceptContext;
use crate::accept::listening_socket::ListeningSocket;
use crate::accept::open_listeners::{OpenListener, OpenListeners};
use crate::admission::{Admission, ListenerCount};
use crate::handover::succession::{Participant, Share, Succession, Successor};
use crate::listener::Listener;
use crate::listeners::Listeners;
use crate::opening::Opening;
use crate::settings::Settings;
use crate::sync::lock;
use crate::systemd::reporting::Reporting;

/// How many descriptors must be left to a process that takes listeners over.
const SPARE_AT_LEAST: usize = 8;

/// What runs while an event loop serves.
pub(crate) struct Serving {
    pub(crate) manager: Arc<PollManager>,
    pub(crate) dispatcher: Dispatcher,
    reactor: Mutex<Option<Reactor>>,
    pub(crate) context: Arc<AcceptContext>,
    pub(crate) listeners: Arc<OpenListeners>,
    /// What a service manager is told meanwhile.
    pub(crate) reporting: Option<Reporting>,
}

impl Serving {
    pub(crate) fn new(
        settings: &Settings,
        callbacks: Arc<dyn Prepare>,
        opening: Arc<Opening>,
    ) -> Result<Self> {
        let manager = if let Some(manager) = &settings.manager {
            manager.check_process()?;
            manager.clone()
        } else {
            let balance = settings.balance.clone();
            Arc::new(PollManager::with(settings.loops, balance, settings.spin, settings.gather)?)
        };
        let dispatcher = Dispatcher::new(settings.dispatch)?;
        let group = ConnectionGroup::calling(settings.limits, dispatcher.clone(), &*callbacks)?;
        group.watch_callbacks(settings.slow_callback);
        let reactor = Reactor::new()?;
        let admission = Admission::new(settings.admission.clone());
        let (weak, main) = (Arc::downgrade(&manager), reactor.remote());
        let context = AcceptContext::new(group, callbacks, weak, admission, main, opening);
        let (reactor, listeners) = (Mutex::new(Some(reactor)), Arc::default());
        Ok(Self { manager, dispatcher, reactor, context, listeners, reporting: None })
    }

    pub(crate) fn group(&self) -> Arc<ConnectionGroup> {
        self.context.group.clone()
    }

    pub(crate) fn listeners(&self) -> Arc<OpenListeners> {
        self.listeners.clone()
    }

    pub(crate) fn manager(&self) -> Weak<PollManager> {
        Arc::downgrade(&self.manager)
    }

    pub(crate) fn main(&self) -> Arc<Remote> {
        self.context.main.clone()
    }

    /// Serves until the main reactor is stopped; an error is a listener's.
    pub(crate) fn accept(&self, listeners: Listeners) -> Result<()> {
        let (listeners, datagrams) = listeners.split();
        // All or none: the first listener that can't be served ends it.
        let infos = listeners.iter().map(|(index, it)| it.prepare(*index));
        let infos: Vec<_> = infos.collect::<Result<_>>()?;
        for server in &datagrams {
            server.validate()?;
        }
        let loops = self.manager.remotes();
        let active = &loops[..self.manager.loops().min(loops.len())];
        let listeners: Vec<_> = listeners.into_iter().map(|(_, it)| it).collect();
        let shares = listeners.iter().filter_map(Listener::share_of_succession);
        let successions = successions(shares.chain(datagrams.iter().filter_map(|it| it.share())));
        for server in datagrams {
            let on_watched = || self.when_watched();
            self.listeners.datagrams.serve(server, &self.context.group, active, on_watched)?;
        }
        drop(loops); // a loop that retires ends when nothing else holds its remote
        let mut on_loops = Vec::new();
        for (listener, info) in listeners.into_iter().zip(infos) {
            self.open(listener, &info, &mut on_loops);
        }
        self.serve_when_watched(successions);
        let reactor = lock(&self.reactor).take();
        let ended = reactor.map_or(Ok(()), Reactor::run);
        // From here on, loops that are started later are not taken into account.
        drop(on_loops);
        if let Some(error) = self.context.take_failure() {
            return Err(error);
        }
        ended.map_err(|error| {
            let text = format!("the loop that accepts has ended: {error}");
            Error::Io(io::Error::new(error.kind(), text))
        })
    }

    /// The event loop serves when its loops watch all sockets of datagrams, too, and fails where
    /// one can't be watched.
    fn when_watched(&self) -> OnWatched {
        self.context.opening.expect_one();
        let context = self.context.clone();
        Box::new(move |watched: io::Result<()>| match watched {
            Ok(()) => context.opening.watched(),
            Err(error) => {
                let text = format!("a loop cannot watch a socket of datagrams: {error}");
                context.fail(Error::Io(io::Error::new(error.kind(), text)));
            }
        })
    }

    /// Begins to accept on the sockets of one listener.
    fn open(
        &self,
        mut listener: Listener,
        info: &Arc<ListenerInfo>,
        on_loops: &mut Vec<Arc<OnLoop>>,
    ) {
        listener.serve();
        log::info!("serving {} on {}", info.name, info.address);
        let count = ListenerCount::new(&self.context.admission, info, &listener.service);
        let assign = {
            let (context, info, count) = (self.context.clone(), info.clone(), count.clone());
            let service = listener.service.clone();
            move |it: Arc<socket::Listener>| {
                Assignment::new(ListeningSocket::new(&context, &info, &count, &service, it))
            }
        };
        let mut assignments: Vec<_> = listener.sockets().cloned().map(&assign).collect();
        if listener.is_shared() {
            for assignment in &assignments {
                assignment.socket.share();
            }
        }
        if let Some(again) = listener.again() {
            let (again, assignments) = (again.clone(), std::mem::take(&mut assignments));
            let open = move || Ok(assign(again.open()?));
            on_loops.push(self.listen_on_each_loop(assignments, &count, open));
        } else {
            on_loops.extend(assignments.iter().map(|it| it.open(&self.manager)));
        }
        self.listeners.add(OpenListener { listener, count, assignments });
    }

    /// Gives each loop a socket of its own, also the loops that are started later: one of
    /// `assignments`, one that a retired loop has left, or one that `open` opens.
    fn listen_on_each_loop(
        &self,
        mut assignments: Vec<Arc<Assignment>>,
        count: &Arc<ListenerCount>,
        open: impl Fn() -> io::Result<Arc<Assignment>> + Send + Sync + 'static,
    ) -> Arc<OnLoop> {
        // All listen before the first of them accepts, so that connections are spread over all of
        // them from the first on.
        for _ in assignments.len()..self.manager.loops() {
            match open() {
                Ok(assignment) => assignments.push(assignment),
                Err(error) => {
                    self.context.fail(Error::Io(error));
                    break;
                }
            }
        }
        self.listeners.add_per_loop(&assignments);
        let (listeners, count) = (self.listeners.clone(), count.clone());
        let on_loop: Arc<OnLoop> = Arc::new(move |reactor: &Arc<Remote>| {
            if listeners.has_place_for(reactor, &count) {
                return;
            }
            // Not under the lock: it runs the user's `before_bind`.
            match open() {
                Ok(assignment) => listeners.add_for(reactor, assignment),
                // The loop serves what the others accept for all, if one of them does.
                Err(error) => log::warn!("a loop accepts nothing for itself: {error}"),
            }
        });
        self.manager.on_each_loop(&on_loop);
        for assignment in &assignments {
            // A loop may have retired in the meantime.
            assignment.leave_to_main();
        }
        on_loop
    }

    /// Serves as soon as all sockets are watched, and the processes that had them before know.
    fn serve_when_watched(&self, successions: Vec<(Arc<Succession>, usize)>) {
        let (context, listeners) = (self.context.clone(), self.listeners.clone());
        self.context.opening.when_watched(move || {
            // A process that takes listeners over with too few descriptors would stop serving soon.
            let needed = if successions.is_empty() { 1 } else { SPARE_AT_LEAST };
            let spare = iter::repeat_with(socket::spare_descriptor).take(needed);
            if let Err(error) = spare.collect::<io::Result<Vec<_>>>() {
                let text = format!(
                    "too few descriptors are left to accept connections with: {error}; raise the \
                     limit (ulimit -n)"
                );
                return context.fail(Error::Io(io::Error::new(error.kind(), text)));
            }
            let hold = context.opening.hold();
            for (succession, count) in successions {
                let (context, listeners) = (context.clone(), listeners.clone());
                let successor = Box::new(Following { context, listeners });
                succession.served(count, Participant { successor, hold: Some(hold.clone()) });
            }
        });
    }
}

/// An event loop, as the hand-over sees it.
struct Following {
    context: Arc<AcceptContext>,
    listeners: Arc<OpenListeners>,
}

impl Successor for Following {
    fn group(&self) -> &Arc<ConnectionGroup> {
        &self.context.group
    }

    fn main(&self) -> &Arc<Remote> {
        &self.context.main
    }

    fn own_paths(&self, of: &Arc<Succession>) {
        self.listeners.own_paths(of);
    }

    fn receive(&self, of: &Arc<Succession>) {
        self.listeners.datagrams.receive(of);
    }

    fn fail(&self, error: Error) {
        self.context.fail(error);
    }
}

/// The other processes from which listeners and datagrams come, and how many of them from each.
fn successions<'a>(shares: impl Iterator<Item = &'a Share>) -> Vec<(Arc<Succession>, usize)> {
    let mut all: Vec<(Arc<Succession>, usize)> = Vec::new();
    for share in shares {
        match all.iter_mut().find(|(it, _)| share.is_of(it)) {
            Some((_, count)) => *count += 1,
            None => all.push((share.succession().clone(), 1)),
        }
    }
    all
}
