//! How a reactor ends: when it was stopped, with its last connection, or since it can't go on.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::registry::{FdOperator, StreamOperator};
use super::{Command, Core, End};
use crate::base::clock::{self, later};
use crate::connection::run;

impl Core {
    pub(super) fn retire(&mut self) {
        self.end = End::WhenEmpty;
        self.retire_listeners();
    }

    pub(super) fn stop(&mut self, patience: Duration) {
        if matches!(self.end, End::Stopping { .. }) {
            return;
        }
        self.end = End::Stopping { deadline: later(clock::now(), patience) };
        self.abort_all();
    }

    fn abort_all(&mut self) {
        self.end_preambles(|_| true);
        for operator in self.operators.iter() {
            if let FdOperator::Stream(StreamOperator { shared, .. }) = operator
                && shared.abort()
            {
                self.ready.push_back(shared.clone());
            }
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        match self.end {
            End::Never => false,
            // Nobody who picked this loop before it retired may still be about to register with it.
            End::WhenEmpty => self.streams == 0 && Arc::strong_count(&self.remote) <= 2,
            End::Stopping { deadline } => {
                let parted = self.ready.is_empty() && !self.has_served_streams();
                parted || clock::now() >= deadline
            }
            End::Failed => true,
        }
    }

    /// Whether a connection is left that is ours to end; callers drop a dialled one when they like.
    fn has_served_streams(&self) -> bool {
        self.operators.iter().any(|operator| match operator {
            FdOperator::Stream(stream) => !stream.shared.group.is_dialled(),
            FdOperator::Listener(..) | FdOperator::Preamble(_) => false,
        })
    }

    /// Ends a reactor that can't go on. It is not picked any more, others accept in its place, and
    /// its connections are closed.
    pub(crate) fn fail(mut self, error: io::Error) {
        let why = error.to_string();
        self.remote.fail(error);
        self.end = End::Failed;
        self.end();
        log::error!("a loop has ended, and its connections with it: {why}");
    }

    /// The reactor's last act: from here on whoever posts keeps the command and acts by itself.
    pub(crate) fn end(mut self) {
        if self.end == End::Failed {
            self.retire_listeners();
            self.abort_all();
        }
        let left = self.remote.close();
        let before = std::mem::take(&mut self.commands);
        for command in before.into_iter().chain(left) {
            match command {
                Command::Finish(shared) => self.finish(&shared),
                Command::Register(shared) | Command::Run(shared) => {
                    shared.abort();
                    run::run_to_end(&shared);
                }
                Command::Await(preamble, _) => preamble.end(),
                // Nobody has stopped it: the listener is somebody else's now.
                Command::Listen(_, accept) if !matches!(self.end, End::Stopping { .. }) => {
                    accept.retired();
                }
                _ => {}
            }
        }
        for shared in self.ready.drain(..).chain(self.crowded.drain(..)) {
            shared.abort();
            run::run_to_end(&shared);
        }
        let streams = self.operators.iter_mut();
        let timers: Vec<_> = streams.filter_map(FdOperator::take_timers).collect();
        for timers in timers {
            self.forget_timers(&timers);
        }
        // It has no more timers that would do so, and may be the last loop.
        netpoll_buffer::trim();
        self.remote.end();
    }
}
