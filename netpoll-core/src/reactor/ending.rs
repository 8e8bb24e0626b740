//! How a reactor ends: after a stop, with its last connection when it is retired, or by a failure.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::registry::{FdOperator, StreamOperator};
use super::timers::{Action, wake};
use super::{Command, Core, Ending};
use crate::base::clock::{self, later};
use crate::connection::scheduled::Scheduled;
use crate::pure::task::Events;

impl Core {
    pub(super) fn retire(&mut self) {
        self.end = Ending::WhenEmpty;
        self.retire_listeners();
    }

    pub(super) fn stop(&mut self, patience: Duration) {
        if matches!(self.end, Ending::Stopping { .. }) {
            return;
        }
        self.end = Ending::Stopping { deadline: later(clock::now(), patience) };
        self.abort_all();
    }

    /// Whether no connection and no source is left.
    pub(super) fn is_empty(&self) -> bool {
        self.streams == 0 && self.sources == 0
    }

    fn abort_all(&mut self) {
        self.end_preambles(|_| true);
        self.remote.refuse_tasks();
        for task in self.remote.tasks_of(None) {
            if task.note_abort() {
                self.woken.push_back(Scheduled::Task(task));
            }
        }
        self.tell_sources(|_| true, Events::ABORT);
        for operator in self.operators.iter() {
            if let FdOperator::Stream(StreamOperator { shared, .. }) = operator
                && shared.abort()
            {
                self.ready.push_back(shared.clone().into());
            }
        }
    }

    #[inline]
    pub(crate) fn has_ended(&self) -> bool {
        self.end != Ending::Never && self.is_at_its_end()
    }

    #[cold]
    fn is_at_its_end(&self) -> bool {
        match self.end {
            Ending::Never => false,
            // A thread that picked this loop before it retired may be about to register with it,
            // and holds its remote; the manager and this core hold the other two.
            Ending::WhenEmpty => self.is_empty() && Arc::strong_count(&self.remote) <= 2,
            Ending::Stopping { deadline } => {
                let is_empty = self.ready.is_empty()
                    && !self.has_woken()
                    && !self.has_served_streams()
                    && !self.remote.has_tasks();
                is_empty || clock::now() >= deadline
            }
            Ending::Failed => true,
        }
    }

    /// Whether a connection is left that this reactor must end; a dialled one is its caller's,
    /// unless the caller has given it to a relay.
    fn has_served_streams(&self) -> bool {
        self.operators.iter().any(|operator| match operator {
            FdOperator::Stream(stream) => stream.shared.is_served(),
            FdOperator::Source(_) => true,
            FdOperator::Listener(..) | FdOperator::Preamble(_) => false,
        })
    }

    /// Ends a reactor that has failed. No connection is given to it any more, other loops accept in
    /// its place, and its connections are closed.
    pub(crate) fn fail(mut self, error: io::Error) {
        let why = error.to_string();
        self.remote.fail(error);
        self.end = Ending::Failed;
        self.end();
        log::error!("a loop has ended, and its connections with it: {why}");
    }

    /// Ends the reactor. From here on a thread that posts a command gets it back, and does itself
    /// what is left to do.
    pub(crate) fn end(mut self) {
        if self.end == Ending::Failed {
            self.retire_listeners();
            self.abort_all();
        }
        let left = self.remote.close();
        let before = std::mem::take(&mut self.commands);
        for command in before.into_iter().chain(left) {
            match command {
                Command::Finish(shared) => self.finish(&shared),
                Command::Register(shared) | Command::Run(shared) => {
                    Scheduled::Connection(shared).end();
                }
                Command::Attach(source) => Scheduled::Task(source).end(),
                Command::Detach(source) => self.detach(&source),
                Command::Await(preamble, _) => preamble.end(),
                Command::Timer(entry) => entry.orphan().into_iter().for_each(wake),
                Command::Call(call) => call.make(),
                // This loop retired or failed, so another one has to accept on the listener.
                Command::Listen(_, accept) if !matches!(self.end, Ending::Stopping { .. }) => {
                    accept.retired();
                }
                _ => {}
            }
        }
        let mut late = VecDeque::new();
        self.remote.take_woken(&mut late);
        let kept = self.ready.drain(..).chain(self.crowded.drain(..));
        for scheduled in kept.chain(self.woken.drain(..)).chain(late) {
            scheduled.end();
        }
        let streams = self.operators.iter_mut();
        let timers: Vec<_> = streams.filter_map(FdOperator::take_timers).collect();
        for timers in timers {
            self.forget_timers(&timers);
        }
        while let Some(action) = self.timers.take_next() {
            if let Action::Wake(entry) = action {
                entry.orphan().into_iter().for_each(wake);
            }
        }
        // No timer of this loop will do so any more, and it may be the last loop.
        netpoll_buffer::trim();
        self.remote.end();
    }
}
