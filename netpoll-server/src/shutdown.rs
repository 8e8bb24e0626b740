//! How a `serve` ends: the listeners close, then the connections, in order until the deadline and
//! by force after it.

use netpoll_core::clock;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::accept::acceptor::Acceptor;
use crate::accept::assignment::Assignment;
use crate::accept::open_listeners::Leaving;
use crate::serving::Serving;

/// What a shutdown did with the connections that were open when it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Report {
    /// Connections that were closed in order: they had nothing left to serve, at once or before the
    /// deadline.
    pub closed_in_order: usize,
    /// Connections that were closed by force at the deadline, or that are still inside a callback
    /// and close when it returns.
    pub aborted: usize,
    /// Connections that were refused in all the time that the event loop served: at a limit, by
    /// `on_prepare`, or because descriptors had run out.
    pub refused: usize,
}

/// How long connections that are aborted at the deadline may take to run their `on_disconnect`, and
/// threads to end; those that take longer are inside a callback, and are left behind.
const GRACE: Duration = Duration::from_millis(200);
/// How long listeners that close wait for handshakes that have begun: longer than a round trip
/// takes, and not so long that a client which never completes one holds up the shutdown.
const HANDSHAKES: Duration = Duration::from_millis(500);
/// How long it sleeps before it looks for the end of those handshakes again.
const GLANCE: Duration = Duration::from_millis(1);

/// Closes the listeners once their queues are empty, then ends all connections, in order until the
/// deadline, then by force.
pub(crate) fn drain_and_close(serving: Serving, deadline: Instant) -> Report {
    close_listeners(&serving, deadline);
    let Serving { manager, dispatcher, context, reporting, .. } = serving;
    let group = context.group.clone();
    let open = group.live();
    let remotes = manager.remotes();
    for remote in &remotes {
        remote.shut_down(&group);
    }
    let left = group.wait_empty(deadline);
    let aborted = group.live();
    if left > 0 {
        for remote in &remotes {
            remote.abort(&group);
        }
        let inside = group.wait_empty(clock::now() + GRACE);
        let datagrams = left.saturating_sub(aborted);
        log::warn!(
            "{aborted} connections and {datagrams} sockets of datagrams were closed by force, \
             {inside} are inside a callback"
        );
    }
    let cancelled = group.end_tasks(GRACE);
    if cancelled > 0 {
        log::info!("{cancelled} tasks that connections had spawned were cancelled");
    }
    let closed_in_order = open.saturating_sub(aborted);
    let report = Report { closed_in_order, aborted, refused: group.refused() as usize };
    log::info!("shut down: {closed_in_order} connections closed in order, {aborted} aborted");
    dispatcher.stop(GRACE);
    drop(reporting); // ahead of the manager, at which its thread looks
    drop((context, remotes));
    if let Some(own) = Arc::into_inner(manager) {
        own.close(GRACE);
    }
    report
}

/// Admits every client that has connected, or has begun to, and closes the listeners. It resets no
/// client that had connected.
fn close_listeners(serving: &Serving, deadline: Instant) {
    let Serving { manager, context, listeners, .. } = serving;
    for remote in manager.remotes() {
        // Posted ahead of the end of accepting, which is waited for: so streams with a complete
        // PROXY header are admitted before that.
        remote.end_preambles(&context.group);
    }
    let Leaving { closing, shared } = listeners.leave();
    close_when_empty(&closing, deadline.min(clock::now() + HANDSHAKES));
    context.wait_for_acceptors(deadline.max(clock::now() + GRACE));
    let left_open = listeners.are_left_open();
    for assignment in shared.iter().chain(&closing) {
        let mut last = assignment.last_acceptor();
        if assignment.socket.is_shared() && !left_open {
            // The other holder of the socket may not accept.
            last.empty_queue();
        }
        // Streams that a loop accepted last and could not admit are left to the next acceptor.
        last.admit_overflow(usize::MAX, true);
    }
    context.close();
}

/// Admits every client that has begun to connect before it closes the port; handshakes that take
/// longer than until `late` are reset.
fn close_when_empty(closing: &[Arc<Assignment>], late: Instant) {
    let mut last: Vec<_> = closing.iter().map(|it| it.last_acceptor()).collect();
    let begun: Vec<_> = closing.iter().map(|it| it.socket.turn_away_newcomers()).collect();
    loop {
        let is_over = clock::now() >= late
            || !closing.iter().zip(&begun).any(|(it, begun)| it.socket.awaits(begun));
        // After each look, since a handshake that was not found is in the queue by then; and each
        // time, since a full queue lets no handshake complete.
        last.iter_mut().for_each(Acceptor::empty_queue);
        if is_over {
            break;
        }
        // sleep: no event tells that a handshake is over
        std::thread::sleep(GLANCE);
    }
    for assignment in closing {
        assignment.socket.stop_listening();
    }
}
