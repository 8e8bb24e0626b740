//! The handshake of a filter in the runs of a served connection: after `on_prepare`, and before any
//! other callback.

use std::sync::Arc;

use super::close::failure;
use super::{Life, Role, Runner, Step};
use crate::base::error::{CloseReason, Error, LimitReached};
use crate::connection::filtered::Filtered;
use crate::connection::greeting::Greeting;
use crate::connection::handshake::Progress;
use crate::connection::mailbox::Command;
use crate::connection::{Connection, Shared};
use crate::pure::task::{Events, Run};

/// Gives the connection back to the caller that dialled it.
#[cold]
pub(super) fn give_back(mut run: Run<'_, Runner>) {
    let Runner { connection, role, .. } = std::mem::take(&mut *run);
    // From here on the caller may have the task run again.
    let _ = run.keep();
    if let (Some(connection), Role::Greeting(greeting)) = (connection, role) {
        greeting.succeed(connection);
    }
}

impl Runner {
    /// What the cell of a dialled connection holds while its loop does the handshake.
    pub(crate) fn greeting(connection: Connection, greeting: Arc<Greeting>) -> Self {
        let (connection, role) = (Some(connection), Role::Greeting(greeting));
        Self { connection, role, ..Self::default() }
    }

    #[cold]
    pub(super) fn begin_handshake(&mut self, shared: &Arc<Shared>, filtered: &Filtered) -> Step {
        if filtered.is_through() {
            // The caller that dialled has waited for it.
            return self.connect(shared);
        }
        self.life = Life::Handshaking;
        if !filtered.admit(shared) {
            return self.refuse(shared, CloseReason::Limit(LimitReached::Handshakes));
        }
        Step::More
    }

    /// Goes on with the handshake. What else is due, jobs for instance, waits for its end.
    #[cold]
    pub(super) fn shake_hands(&mut self, shared: &Arc<Shared>, events: Events) -> Step {
        let Some(connection) = &mut self.connection else {
            return self.begin_close(shared, CloseReason::Local);
        };
        let is_ending = events.has_any(Events::SHUTDOWN);
        if !connection.scratch().input.may_receive(shared, events) {
            drop(shared.reactor.post(Command::Retry(shared.token())));
            return if !is_ending || self.hurries(shared) {
                Step::Wait
            } else {
                self.refuse(shared, CloseReason::Shutdown)
            };
        }
        match connection.shake_hands() {
            Ok(Progress::More | Progress::Waits) if is_ending && !self.hurries(shared) => {
                self.refuse(shared, CloseReason::Shutdown)
            }
            Ok(Progress::More) => Step::More,
            Ok(Progress::Waits) => match failure(shared) {
                Some(error) if events.has_any(Events::FAILED) => {
                    self.refuse(shared, CloseReason::of_socket(error))
                }
                _ => Step::Wait,
            },
            Ok(Progress::Through) => {
                self.life = Life::Open;
                if is_ending {
                    // What stands behind the handshake may be on its way.
                    shared.filtered().inspect(|it| it.hurry(shared));
                }
                // What came behind the handshake is served next, and so is the end of the stream.
                shared.task.word.note(Events::RESUMED | Events::READABLE);
                self.connect(shared)
            }
            Err(error) => {
                if let Role::Greeting(greeting) = &self.role {
                    greeting.fail(error);
                    return self.begin_close(shared, CloseReason::Local);
                }
                self.refuse(shared, reason_of(error))
            }
        }
    }

    /// A shutdown meets a handshake: whether it may go on for a while, since its client has begun.
    fn hurries(&self, shared: &Arc<Shared>) -> bool {
        let is_accepted = !matches!(self.role, Role::Greeting(_));
        let begun = shared.filtered().filter(|it| is_accepted && it.received() > 0);
        begun.inspect(|it| it.hurry(shared)).is_some()
    }

    /// Closes a connection before `on_connect`.
    fn refuse(&mut self, shared: &Arc<Shared>, reason: CloseReason) -> Step {
        shared.group.count_refusal();
        log::debug!("{} is refused in the handshake: {reason}", shared.peer());
        self.begin_close(shared, reason)
    }
}

/// Why a connection ends whose handshake has failed.
fn reason_of(error: Error) -> CloseReason {
    match error {
        Error::Filter(error) => CloseReason::Filter(error),
        Error::Truncated => CloseReason::Truncated,
        Error::Io(error) => CloseReason::of_socket(error),
        refused => CloseReason::Callback(refused),
    }
}
