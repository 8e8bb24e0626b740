//! How an accepted stream becomes a connection with a session.

use std::sync::Arc;

use super::callbacks::Prepare;
use super::group::ConnectionGroup;
use super::mailbox::{Command, Remote};
use super::output::Output;
use super::run::{self, Runner};
use super::{Carried, Connection, Handle, Owner, Shared};
use crate::connection::origin::Origin;
use crate::io::stream::Stream;

/// Makes a connection of an accepted stream, or of one that was adopted with what it had `carried`,
/// and hands it to `reactor`. Its callbacks run there, or
/// on workers, `on_prepare` first. `None`: there is no memory for it, and it was closed.
pub fn admit(
    stream: Stream,
    carried: Option<Carried>,
    origin: Origin,
    group: &Arc<ConnectionGroup>,
    callbacks: &Arc<dyn Prepare>,
    reactor: &Arc<Remote>,
) -> Option<Handle> {
    if !group.policy.memory.admits() {
        refuse(stream, group, &origin);
        return None;
    }
    let output = Output::open(stream);
    let shared = Arc::new(Shared::accepted(output, group.clone(), reactor.clone(), origin));
    group.note_sessions(&**callbacks);
    group.enter();
    let mut connection = Connection::new(Owner::of_task(shared.clone()));
    if let Some(carried) = carried {
        connection.begin_with(carried);
    }
    // A new task is scheduled, and no other thread knows it.
    if let Some(mut run) = shared.task.begin() {
        *run = Runner::serving(connection, callbacks.clone());
        let _ = run.look();
        // Nothing can have been noted for it yet.
        let _ = run.release();
    }
    if reactor.post(Command::Register(shared.clone())).is_err() {
        shared.abort();
        run::run_to_end(&shared);
    }
    Some(Handle::new(shared))
}

/// Closes a connection for which there is no memory, by a reset: its client should try elsewhere.
fn refuse(stream: Stream, group: &ConnectionGroup, origin: &Origin) {
    group.count_refusal();
    let client = origin.client();
    log::debug!("{client} is refused: memory_budget is used up");
    if let Err(error) = stream.reset_on_close() {
        log::debug!("cannot reset the connection to {client}: {error}");
    }
    drop(stream);
    origin.listener.release(client);
}
