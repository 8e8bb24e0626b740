//! A pursuit: work that takes several steps, which run as jobs of one connection.
//!
//! ```text
//!   the asker's callback            any thread                   the asker's loop
//!   Handle::pursue ─ advance ─┐     Notify ─ hook ─ enqueue ──►  job: advance ─┬─ wait
//!                             └──►  the wheel, at a time ──────►               └─ over: finish
//! ```
//! The job owns the work. The wheel of the asker's loop holds the job until the time of its next
//! step, and the asker's list holds it while a step is due. So the end of the asker drops the work,
//! wherever it stands: the hook refers to it weakly.

use std::sync::{Arc, Weak};
use std::time::Instant;

use super::job::{Job, Timer};
use super::mailbox::Command;
use super::schedule::schedule;
use super::shared::Shared;
use super::{Connection, Handle};
use crate::base::clock;
use crate::base::error::{Error, Result};
use crate::base::notify::Notify;
use crate::pure::task::Events;

/// Work in steps. Its end is given the connection that asked for it.
pub trait Pursuit: Send + 'static {
    /// Does what can be done now. Returns when to call it again if no notification comes before
    /// that; `None`: there is nothing more to wait for, and [`finish`](Self::finish) is due.
    fn advance(&mut self) -> Option<Instant>;

    /// Runs once, as a callback of the connection.
    ///
    /// # Errors
    /// Closes the connection with that reason.
    fn finish(&mut self, connection: &mut Connection) -> Result<()>;
}

impl Handle {
    /// Begins a pursuit. `begin` is given what notifies it of a change. The first `advance` runs on
    /// this thread, all else as jobs of this connection, whose end drops the pursuit.
    ///
    /// # Errors
    /// [`Error::Closed`] if the connection has ended; [`Error::Config`] for a dialled one, which
    /// has no callbacks.
    #[doc(hidden)]
    pub fn pursue<P: Pursuit>(&self, begin: impl FnOnce(&Arc<Notify>) -> P) -> Result<Timer> {
        let shared = self.shared_for_jobs()?;
        if shared.task.word.is_closed() || shared.is_interrupted() {
            return Err(Error::Closed);
        }
        let (mut next, mut notify) = (None, None);
        let job = Arc::new_cyclic(|job: &Weak<Job>| {
            let mut pursuit = begin(notify.insert(Arc::new(waking(shared, job))));
            next = pursuit.advance();
            let (job, mut armed) = (job.clone(), next);
            Job::kept(Box::new(move |connection, _| {
                step(&mut pursuit, &mut armed, &job, connection)
            }))
        });
        // A notification that came before there was a job has found none.
        if next.is_none() || notify.is_some_and(|notify| notify.take()) {
            wake(shared, &job);
        }
        if let Some(at) = next {
            let command = Command::Later(shared.clone(), at, job.clone());
            shared.reactor.post(command).map_err(|_| Error::Closed)?;
        }
        Ok(Timer { shared: shared.clone(), job })
    }
}

/// One step, as a job.
fn step(
    pursuit: &mut impl Pursuit,
    armed: &mut Option<Instant>,
    job: &Weak<Job>,
    connection: &mut Connection,
) -> Result<()> {
    let Some(job) = job.upgrade() else { return Ok(()) };
    let shared: &Arc<Shared> = &connection.shared;
    let Some(at) = pursuit.advance() else {
        job.forget(); // after this run
        if armed.is_some() {
            drop(shared.reactor.post(Command::Cancel(shared.clone(), job.id())));
        }
        return pursuit.finish(connection);
    };
    if *armed != Some(at) || at <= clock::now() {
        *armed = Some(at);
        drop(shared.reactor.post(Command::Later(shared.clone(), at, job)));
    }
    Ok(())
}

/// What has the next step run.
fn waking(shared: &Arc<Shared>, job: &Weak<Job>) -> Notify {
    let (shared, job) = (shared.clone(), job.clone());
    Notify::calling(move || {
        if let Some(job) = job.upgrade() {
            wake(&shared, &job);
        }
    })
}

fn wake(shared: &Arc<Shared>, job: &Arc<Job>) {
    if shared.enqueue(job.clone()) && shared.task.word.notify(Events::JOBS) {
        schedule(shared);
    }
}
