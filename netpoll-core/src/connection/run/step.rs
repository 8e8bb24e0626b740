//! Which callback is due.

use std::sync::Arc;

use super::close::reason_local;
use super::{Life, Role, Runner, Step};
use crate::base::error::CloseReason;
use crate::base::panic::guard;
use crate::connection::Shared;
use crate::connection::callbacks::{Moment, verdict};
use crate::pure::task::Events;

/// What comes before a receive.
const BEFORE_RECEIVING: Events = Events::JOBS.or(Events::SHUTDOWN).or(Events::HIGH_WATER);

impl Runner {
    pub(super) fn step(&mut self, shared: &Arc<Shared>, events: Events) -> Step {
        if events.has_any(Events::READABLE)
            && let Some(connection) = &mut self.connection
        {
            connection.scratch().input.announced();
        }
        if !events.has_any(Events::STARTED | Events::ABORT) {
            return Step::Wait;
        }
        if events.has_any(Events::ABORT) {
            return self.give_up(shared);
        }
        match self.life {
            Life::Closing { .. } => {
                let is_done = events.has_any(Events::LINGERED) || shared.output.is_empty();
                if is_done { Step::Closed } else { Step::Wait }
            }
            _ if events.has_any(Events::CLOSE) => self.begin_close(shared, reason_local(shared)),
            _ if events.has_any(Events::EXPIRED) => self.expire(shared),
            Life::New => self.connect(shared),
            Life::Open | Life::ShuttingDown => self.serve(shared, events),
        }
    }

    fn connect(&mut self, shared: &Arc<Shared>) -> Step {
        self.life = Life::Open;
        if let Role::Callbacks(callbacks) = &self.role
            && let Some(connection) = &self.connection
        {
            match callbacks.clone().prepare(connection) {
                Ok(service) => self.role = Role::Service(service),
                Err(error) => {
                    shared.group.count_refusal();
                    return self.begin_close(shared, CloseReason::Callback(error));
                }
            }
            if shared.is_interrupted() {
                return Step::More;
            }
        }
        let (Some(connection), Role::Service(service)) = (&mut self.connection, &mut self.role)
        else {
            // A dialled connection that its caller dropped.
            return self.begin_close(shared, CloseReason::Local);
        };
        let verdict = service.call(Moment::Connect, connection);
        self.after_callback(shared, verdict)
    }

    /// Runs the callback that is due, receiving once if none was before that.
    fn serve(&mut self, shared: &Arc<Shared>, events: Events) -> Step {
        let is_plain = !events.has_any(BEFORE_RECEIVING);
        if is_plain && !self.told.high_water && !shared.output.is_congested() {
            return self.receive(shared, events);
        }
        let ran_job = std::mem::replace(&mut self.ran_job, false);
        let next = if ran_job { events.without(Events::JOBS) } else { events };
        match self.serve_first(shared, next).unwrap_or_else(|| self.receive(shared, next)) {
            // The job that was put off has been announced already.
            Step::Wait if ran_job && events.has_any(Events::JOBS) => Step::More,
            step => step,
        }
    }

    /// Runs the callback that comes before a receive, if one does, or puts the receive off.
    fn serve_first(&mut self, shared: &Arc<Shared>, events: Events) -> Option<Step> {
        let (Some(connection), Role::Service(service)) = (&mut self.connection, &mut self.role)
        else {
            return None;
        };
        let word = &shared.task.word;
        let verdict = if word.clear(events.and(Events::JOBS)) != Events::NONE
            && let Some((job, more)) = shared.extras.pop_job()
        {
            if more {
                word.note(Events::JOBS);
            }
            self.ran_job = true;
            verdict(guard("a job", || job.run(connection)))
        } else if events.has_any(Events::SHUTDOWN) && self.life == Life::Open {
            self.life = Life::ShuttingDown;
            service.call(Moment::Shutdown, connection)
        } else if word.clear(events.and(Events::HIGH_WATER)) != Events::NONE
            && !self.told.high_water
        {
            self.told.high_water = true;
            shared.watch_output();
            service.call(Moment::HighWater, connection)
        } else if shared.output.is_congested() {
            // The output wakes the task when that is over. Until then the peer's bytes stay in the
            // kernel.
            return (!shared.group.reads_when_congested()).then_some(Step::Wait);
        } else if std::mem::replace(&mut self.told.high_water, false) {
            // A callback that stopped in the middle of its input because of the queue goes on.
            word.note(Events::RESUMED);
            service.call(Moment::Drain, connection)
        } else {
            return None;
        };
        Some(self.after_callback(shared, verdict))
    }
}
