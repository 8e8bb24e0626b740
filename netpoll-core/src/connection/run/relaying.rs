//! One step of a run whose connection is in a relay: a side stands where callbacks stood.

use std::sync::Arc;

use super::step::WORTH_A_LOOK;
use super::{Life, Role, Runner, Step};
use crate::base::error::CloseReason;
use crate::connection::relay::{Flow, Side};
use crate::connection::{Connection, Shared};
use crate::pure::task::Events;

impl Runner {
    /// What the cell of a dialled connection holds that its caller has given to a relay.
    pub(crate) fn relaying(connection: Connection, side: Box<Side>) -> Self {
        let (connection, role) = (Some(connection), Role::Relay(side));
        Self { connection, role, life: Life::Open, ..Self::default() }
    }

    /// A callback has joined the connection to another one: what called back until now is only told
    /// of the end.
    #[cold]
    pub(super) fn begin_relay(&mut self, shared: &Shared) {
        let Some(mut side) = shared.extras.take_side() else { return };
        if let Role::Service(service) = std::mem::take(&mut self.role) {
            side.service = Some(service);
        }
        self.role = Role::Relay(side);
    }

    pub(super) fn relay(&mut self, shared: &Arc<Shared>, events: Events) -> Step {
        let ran_job = std::mem::replace(&mut self.ran_job, false);
        let next = if ran_job { events.without(Events::JOBS) } else { events };
        if let Some(step) = self.run_job(shared, next) {
            return step;
        }
        match self.relay_once(shared, events) {
            // The job that was put off has been announced already.
            Step::Wait if ran_job && events.has_any(Events::JOBS) => Step::More,
            step => step,
        }
    }

    fn relay_once(&mut self, shared: &Arc<Shared>, events: Events) -> Step {
        let (Some(connection), Role::Relay(side)) = (&mut self.connection, &mut self.role) else {
            return self.begin_close(shared, CloseReason::Local);
        };
        let word = &shared.task.word;
        let taken = Events::HIGH_WATER | Events::WAKE | Events::RESUMED;
        if word.clear(events.and(taken)).has_any(Events::HIGH_WATER) {
            self.told.high_water = true;
            shared.watch_output();
        }
        // It may have drained before that, so this is asked after it.
        if self.told.high_water && !shared.output.is_congested() {
            self.told.high_water = false;
            side.relieve();
        }
        match side.step(connection, shared, events) {
            Flow::Moved => {
                let events = word.events();
                let again = events.has_any(WORTH_A_LOOK)
                    || connection.scratch().input.is_promising(shared, events);
                if again { Step::More } else { Step::Wait }
            }
            Flow::Wait => Step::Wait,
            Flow::End(reason) => self.begin_close(shared, reason),
        }
    }
}
