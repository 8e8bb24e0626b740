//! The sources of a reactor: tasks with a socket that is watched, and which are no connections.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::registry::FdOperator;
use super::timers::Action;
use super::{Core, Ending, shutdown};
use crate::base::clock::{self, later};
use crate::connection::group::ConnectionGroup;
use crate::connection::mailbox::Command;
use crate::connection::scheduled::Scheduled;
use crate::connection::source::{Due, Source};
use crate::io::readiness::Readiness;
use crate::pure::slab::Token;
use crate::pure::task::Events;

/// How soon a source transmits again that can't be watched for room.
const NOT_WATCHED: Duration = Duration::from_millis(10);

impl Core {
    /// Begins to watch the socket of a source. Where it can't be watched, the source ends.
    pub(super) fn attach(&mut self, source: &Arc<dyn Source>) {
        let token = self.operators.insert(FdOperator::Source(source.clone()));
        self.sources += 1;
        source.set_token(token);
        let watched = source.socket().map(|socket| self.driver.watch_datagrams(&socket, token));
        let watched = watched.unwrap_or(Ok(()));
        let mut events = Events::STARTED | Events::READABLE;
        if let Err(error) = &watched {
            log::warn!("cannot watch {source:?}: {error}");
            events = events | Events::ABORT;
        } else if matches!(self.end, Ending::Stopping { .. }) {
            events = events | Events::ABORT;
        } else if source.is_shutting_down() {
            events = events | Events::SHUTDOWN;
        }
        if source.notify(events) {
            self.ready.push_back(Scheduled::Task(source.clone()));
        }
        source.watched(watched);
    }

    /// Watches a source no more, which has ended, and closes its socket.
    pub(super) fn detach(&mut self, source: &Arc<dyn Source>) {
        if let Some(FdOperator::Source(_)) = self.operators.remove(source.token()) {
            self.sources -= 1;
            if let Some(socket) = source.socket()
                && let Err(error) = self.driver.forget_datagrams(&socket, source.token())
            {
                log::debug!("cannot stop watching {source:?}: {error}");
            }
        }
        source.close_socket();
        self.shrink_soon();
    }

    /// Tells a source what has happened to its socket.
    pub(super) fn deliver_to_source(&mut self, token: Token, readiness: Readiness) {
        let Some(FdOperator::Source(source)) = self.operators.find_mut(token) else { return };
        let due = source.ready(readiness);
        let reports_room = readiness.sendable && !readiness.failed;
        if due == Due::default() && !reports_room {
            return;
        }
        let source = source.clone();
        if reports_room && !source.waits_for_room() {
            self.watch_room(&source, false);
        }
        self.transmit_later(&source, due);
        if due.run {
            // In this turn, behind the streams that have an event.
            self.ready.push_front(Scheduled::Task(source));
            self.due += 1;
        }
    }

    /// Has a source send a burst of what waits.
    pub(super) fn transmit_source(&mut self, token: Token) {
        let Some(FdOperator::Source(source)) = self.operators.find_mut(token) else { return };
        let source = source.clone();
        let due = source.transmit();
        self.await_room(&source);
        self.transmit_later(&source, due);
        if due.run {
            self.ready.push_back(Scheduled::Task(source));
        }
    }

    /// Has a source be told when there is room, if it waits for that. What it was told before has
    /// ended the watch, or may have.
    pub(super) fn await_room(&mut self, source: &Arc<dyn Source>) {
        if source.waits_for_room()
            && let Some(FdOperator::Source(_)) = self.operators.find_mut(source.token())
        {
            self.watch_room(source, true);
        }
    }

    fn watch_room(&mut self, source: &Arc<dyn Source>, is_awaited: bool) {
        let Some(socket) = source.socket() else { return };
        // A sandbox may refuse it; nothing else does for a socket that is watched.
        if let Err(error) = self.driver.watch_room(&socket, source.token(), is_awaited) {
            log::debug!("cannot watch {source:?} for room: {error}");
            if is_awaited {
                let at = later(clock::now(), NOT_WATCHED);
                self.timers.arm(at, Action::Transmit(source.token()));
            }
        }
    }

    fn transmit_later(&mut self, source: &Arc<dyn Source>, due: Due) {
        if due.transmit {
            // Of each source there is one such command at a time.
            drop(self.remote.post(Command::Transmit(source.token())));
        }
    }

    /// Arms a timer that notes `events` for a source.
    pub(super) fn arm_alarm(&mut self, source: &Arc<dyn Source>, at: Instant, events: Events) {
        if let Some(FdOperator::Source(_)) = self.operators.find_mut(source.token()) {
            self.timers.arm(at, Action::Alarm(source.token(), events));
        }
    }

    pub(super) fn alarm(&mut self, token: Token, events: Events) {
        if let Some(FdOperator::Source(source)) = self.operators.find_mut(token)
            && source.notify(events)
        {
            let source = source.clone();
            self.ready.push_back(Scheduled::Task(source));
        }
    }

    /// Tells the sources of a group that a shutdown has begun.
    pub(super) fn shut_down_sources(&mut self, group: &Arc<ConnectionGroup>) {
        self.tell_sources(|source| source.is_of(group), shutdown());
    }

    /// Notes `events` for the sources that `which` names.
    pub(super) fn tell_sources(&mut self, which: impl Fn(&dyn Source) -> bool, events: Events) {
        for operator in self.operators.iter() {
            if let FdOperator::Source(source) = operator
                && which(&**source)
                && source.notify(events)
            {
                self.ready.push_back(Scheduled::Task(source.clone()));
            }
        }
    }
}
