//! The jobs of a handle: closures that run as callbacks of its connection, now, later or
//! periodically, with its session or without.

use std::any::Any;
use std::time::Duration;

use super::Handle;
use crate::base::clock::{self, later};
use crate::base::error::{Error, Result};
use crate::connection::Connection;
use crate::connection::job::{Call, Job, Timer};
use crate::connection::mailbox::Command;
use crate::connection::schedule::schedule;
use crate::pure::task::Events;

impl Handle {
    /// Runs `job` as a callback of this connection: on a thread that the dispatch mode chooses,
    /// never while another callback runs, and never after `on_disconnect`. An error that it returns
    /// closes the connection, as that of `on_request` does. Jobs run in the order of the calls.
    /// Never blocks.
    ///
    /// # Errors
    /// [`Error::Closed`] if the connection has ended; [`Error::Config`] for a dialled one, which
    /// has no callbacks. The job is then dropped. A close also drops a job that has not run.
    pub fn run(
        &self,
        job: impl FnOnce(&mut Connection) -> Result<()> + Send + 'static,
    ) -> Result<()> {
        self.run_now(once(|connection, _| job(connection)))
    }

    /// As [`run`](Self::run), and gives the job the session, as callbacks are given it. `S` is the
    /// type of the sessions; under `on_frame` that is `Framed`.
    ///
    /// ```
    /// use netpoll_core::{Connection, Handle, Result};
    ///
    /// /// The session.
    /// struct Player {
    ///     score: u32,
    /// }
    ///
    /// /// From any thread.
    /// fn reward(handle: &Handle) -> Result<()> {
    ///     handle.run_with(|player: &mut Player, conn: &mut Connection| {
    ///         player.score += 1;
    ///         conn.writer().write_string(&format!("score {}\n", player.score));
    ///         Ok(())
    ///     })
    /// }
    /// ```
    ///
    /// # Errors
    /// As [`run`](Self::run), and [`Error::Config`] if the sessions are of another type.
    pub fn run_with<S: 'static>(
        &self,
        job: impl FnOnce(&mut S, &mut Connection) -> Result<()> + Send + 'static,
    ) -> Result<()> {
        self.check_session::<S>()?;
        self.run_now(once(with_session(job)))
    }

    /// As [`run`](Self::run), but after `delay`, by the timers of the connection's loop. The job is
    /// never early; it is late by up to 1 ms and by the time for which the loop is busy.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_after(
        &self,
        delay: Duration,
        job: impl FnOnce(&mut Connection) -> Result<()> + Send + 'static,
    ) -> Result<Timer> {
        self.run_later(delay, None, once(|connection, _| job(connection)))
    }

    /// As [`run_after`](Self::run_after), and gives the job the session.
    ///
    /// # Errors
    /// As [`run_with`](Self::run_with).
    pub fn run_after_with<S: 'static>(
        &self,
        delay: Duration,
        job: impl FnOnce(&mut S, &mut Connection) -> Result<()> + Send + 'static,
    ) -> Result<Timer> {
        self.check_session::<S>()?;
        self.run_later(delay, None, once(with_session(job)))
    }

    /// As [`run_after`](Self::run_after), but repeats until it is cancelled or the connection ends.
    /// A job that takes longer than its period, or waits for a thread, skips the runs that it
    /// missed.
    ///
    /// # Errors
    /// As [`run`](Self::run), and [`Error::Config`] for a period under 1 ms.
    pub fn run_every(
        &self,
        period: Duration,
        mut job: impl FnMut(&mut Connection) -> Result<()> + Send + 'static,
    ) -> Result<Timer> {
        self.repeat(period, Box::new(move |connection, _| job(connection)))
    }

    /// As [`run_every`](Self::run_every), and gives the job the session.
    ///
    /// # Errors
    /// As [`run_every`](Self::run_every) and [`run_with`](Self::run_with).
    pub fn run_every_with<S: 'static>(
        &self,
        period: Duration,
        mut job: impl FnMut(&mut S, &mut Connection) -> Result<()> + Send + 'static,
    ) -> Result<Timer> {
        self.check_session::<S>()?;
        self.repeat(
            period,
            Box::new(move |connection, session| with_session(&mut job)(connection, session)),
        )
    }

    fn run_now(&self, call: Call) -> Result<()> {
        let shared = self.shared_for_jobs()?;
        if !shared.enqueue(Job::new(None, call)) {
            return Err(Error::Closed);
        }
        if shared.task.word.notify(Events::JOBS) {
            schedule(shared);
        }
        Ok(())
    }

    fn repeat(&self, period: Duration, call: Call) -> Result<Timer> {
        if period < Duration::from_millis(1) {
            return Err(Error::config(format!("cannot run every {period:?}: the least is 1 ms")));
        }
        self.run_later(period, Some(period), call)
    }

    fn run_later(&self, delay: Duration, period: Option<Duration>, call: Call) -> Result<Timer> {
        let shared = self.shared_for_jobs()?;
        if shared.task.word.is_closed() {
            return Err(Error::Closed);
        }
        let job = Job::new(period, call);
        let command = Command::Later(shared.clone(), later(clock::now(), delay), job.clone());
        shared.reactor.post(command).map_err(|_| Error::Closed)?;
        Ok(Timer { shared: shared.clone(), job })
    }

    fn check_session<S: 'static>(&self) -> Result<()> {
        self.shared_for_jobs()?.group.check_session::<S>()
    }
}

type Session<'a> = Option<&'a mut dyn Any>;

fn once(job: impl FnOnce(&mut Connection, Session<'_>) -> Result<()> + Send + 'static) -> Call {
    let mut job = Some(job);
    Box::new(move |connection, session| job.take().map_or(Ok(()), |job| job(connection, session)))
}

/// A job that is given the session, whose type was checked before.
fn with_session<S: 'static>(
    job: impl FnOnce(&mut S, &mut Connection) -> Result<()>,
) -> impl FnOnce(&mut Connection, Session<'_>) -> Result<()> {
    move |connection, session| {
        let session = session.and_then(|session| session.downcast_mut()).ok_or(Error::Closed)?;
        job(session, connection)
    }
}
