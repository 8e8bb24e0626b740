//! A dial in steps, with the handshake of the filter: for code that waits in its own way.

use std::fmt;

use netpoll_core::{Attempt, Handshake, Result};

use crate::dial::{Dial, Progress, Step};

/// Work in steps.
pub trait Advance {
    /// What it ends with.
    type Output;

    /// Does what can be done without a wait. Not to be called again once it is over.
    fn advance(&mut self) -> Step<Self::Output>;
}

/// See the module. A drop ends the dial, and closes its sockets.
pub struct Dialling {
    dial: Dial<'static>,
    /// The handshake of the filter, once the stream is connected.
    handshake: Option<Handshake>,
}

impl Dialling {
    pub(crate) fn new(dial: Dial<'static>) -> Self {
        Self { dial, handshake: None }
    }

    fn go_on_with_handshake(&mut self, mut handshake: Handshake) -> Progress {
        let failed = match handshake.outcome() {
            Some(Ok(attempt)) => return Step::Over(Ok(attempt)),
            Some(Err(error)) => error,
            None => match self.dial.check() {
                Ok(()) => {
                    self.handshake = Some(handshake);
                    return Step::Until(self.dial.deadline());
                }
                Err(late) => late,
            },
        };
        // A handshake that is dropped before its end closes the connection.
        drop(handshake);
        Step::Over(Err(self.dial.why_no_handshake(failed)))
    }
}

impl Advance for Dialling {
    type Output = Result<Attempt>;

    fn advance(&mut self) -> Progress {
        if let Some(handshake) = self.handshake.take() {
            return self.go_on_with_handshake(handshake);
        }
        match self.dial.advance() {
            Step::Over(Ok(attempt)) => match self.dial.begin_handshake(attempt) {
                Ok(attempt) => Step::Over(Ok(attempt)),
                Err(handshake) => self.go_on_with_handshake(handshake),
            },
            step => step,
        }
    }
}

impl fmt::Debug for Dialling {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Dialling").finish_non_exhaustive()
    }
}
