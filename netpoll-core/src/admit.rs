//! How an accepted socket becomes a connection with a session.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::address::Address;
use crate::callbacks::Prepare;
use crate::connection::input::Input;
use crate::connection::output::Lane;
use crate::connection::{Connection, Shared};
use crate::error::{Error, Result};
use crate::group::Group;
use crate::reactor::{Command, Remote};
use crate::runner::{self, Runner};
use crate::socket::Stream;

/// Runs `on_prepare` for an accepted stream, on this thread, and hands the connection to the
/// reactor `home`.
///
/// # Errors
/// What `on_prepare` returned: the connection is refused and its socket closed.
pub fn admit(
    stream: OwnedFd,
    peer: Address,
    group: &Arc<Group>,
    callbacks: &Arc<dyn Prepare>,
    home: &Arc<Remote>,
) -> Result<()> {
    let stream = Arc::new(Stream::new(stream));
    let lane = Lane::open(stream.clone());
    let shared = Arc::new(Shared::new(lane, group.clone(), home.clone(), peer));
    let connection = Connection::new(shared.clone(), input(stream, group), false);
    // A new task is scheduled, and nobody but us knows it.
    let Some(mut run) = shared.task.begin() else {
        return Err(Error::Closed);
    };
    match callbacks.clone().prepare(&connection) {
        Ok(service) => {
            group.enter();
            *run = Runner::serving(connection, service);
        }
        Err(error) => {
            drop(connection);
            run.close();
            drop(shared.lane.take_stream());
            return Err(error);
        }
    }
    // A handle from `on_prepare` may have asked for something; until the reactor knows the
    // connection, that stays noted.
    while let Err(noted) = run.release() {
        run = noted;
        let _ = run.look();
    }
    if home.post(Command::Register(shared.clone())).is_err() {
        shared.abort();
        runner::run_to_end(&shared);
    }
    Ok(())
}

/// The input of a connection of `group`.
pub(crate) fn input(stream: Arc<Stream>, group: &Group) -> Input {
    let limits = group.limits();
    Input::new(stream, limits.input_limit, limits.read_timeout, group.may_wait())
}
