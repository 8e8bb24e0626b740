//! The handshake of a filter, one step after the other: in the runs of a served connection, or on
//! the thread of the caller that dials.

use std::sync::Arc;
use std::time::Instant;

use super::input::{Received, error_at};
use super::{Connection, Shared};
use crate::base::blocking;
use crate::base::clock;
use crate::base::error::{Error, Result, Wait};
use crate::io::filter::FilterServer;
use crate::pure::task::Events;

/// How a handshake has come along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// It is over, or there is none.
    Through,
    /// An event will announce what it waits for.
    Waits,
    /// It goes on at once.
    More,
}

impl Connection {
    /// In `on_prepare`: has `server` make the filter of this connection, in place of the one that
    /// its listener has, with its limits. So a connection can get another certificate by its
    /// address. The last call counts.
    ///
    /// # Errors
    /// [`Error::Config`] on a connection whose listener has no filter, on a dialled one, and when
    /// the handshake has begun.
    pub fn choose_filter(&self, server: Arc<dyn FilterServer>) -> Result<()> {
        match self.shared.filtered() {
            Some(filtered) if filtered.choose(server) => Ok(()),
            Some(_) => Err(Error::config(
                "choose_filter: the filter is made already; call it in on_prepare",
            )),
            None => Err(Error::config(
                "choose_filter: the listener of this connection has no filter to replace",
            )),
        }
    }

    /// One step: begins the handshake, or receives once.
    ///
    /// # Errors
    /// Why there will be no connection.
    pub(crate) fn shake_hands(&mut self) -> Result<Progress> {
        let shared: Arc<Shared> = Arc::clone(&self.shared);
        let Some(filtered) = shared.filtered() else { return Ok(Progress::Through) };
        if !filtered.begin(&self.shared)? {
            return Ok(Progress::Waits);
        }
        if filtered.is_through() {
            return Ok(Progress::Through);
        }
        let received = self.receive();
        if filtered.is_through() {
            return Ok(Progress::Through);
        }
        match received {
            Received::Bytes | Received::Silent => Ok(Progress::More),
            Received::Nothing => Ok(Progress::Waits),
            Received::Full => Err(Error::protocol("more bytes than input_limit in a handshake")),
            Received::End(end) => Err(error_at(end, &shared)),
        }
    }

    /// All of it, on this thread, which waits for the peer.
    ///
    /// # Errors
    /// As [`shake_hands`](Self::shake_hands); [`Error::TimedOut`] at the deadline, and
    /// [`Error::Closed`] after a close from another thread.
    pub(crate) fn finish_handshake(&mut self, deadline: Option<Instant>) -> Result<()> {
        loop {
            self.shared.check_over()?;
            if deadline.is_some_and(|deadline| deadline <= clock::now()) {
                return Err(Error::TimedOut(Wait::Handshake));
            }
            match self.shake_hands()? {
                Progress::Through => return Ok(()),
                Progress::More => {}
                Progress::Waits => self.await_peer(deadline)?,
            }
        }
    }

    fn await_peer(&self, deadline: Option<Instant>) -> Result<()> {
        let shared: &Arc<Shared> = &self.shared;
        let waiting = blocking::begin("dial", shared.waits_for(), Some(shared.clone()))?;
        let late = || [deadline, waiting.deadline()].into_iter().flatten().min();
        shared.task.word.wait(Events::READABLE.or(Events::OVER), late);
        Ok(())
    }
}
