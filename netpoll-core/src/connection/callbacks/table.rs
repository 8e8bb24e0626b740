//! The callbacks of one event loop or client, as a table.

use std::fmt;
use std::sync::Arc;

use super::{Handler, Moment, OnDisconnect, OnPrepare};
use crate::base::error::{CloseReason, Error, Result};
use crate::connection::Connection;

/// A callback that is given the session and the connection.
pub(crate) type Call<S> = Box<dyn Fn(&mut S, &mut Connection) -> Result<()> + Send + Sync>;

/// The callbacks of one event loop or client; `S` is the session that each connection has.
pub struct Callbacks<S> {
    pub(super) on_prepare: Box<dyn OnPrepare<S>>,
    /// By [`Moment`].
    calls: [Option<Call<S>>; Moment::ALL.len()],
    pub(super) on_disconnect: Option<Box<dyn OnDisconnect<S>>>,
    /// `on_prepare` came after a callback, which is lost by it.
    is_misordered: bool,
    /// See [`polling_futures`](Self::polling_futures).
    pub(super) polls_futures: bool,
}

impl Callbacks<()> {
    /// None yet, and `()` for the session.
    pub fn new() -> Self {
        Self::with(|_: &Connection| Ok(()))
    }

    /// Makes sessions of another type. Callbacks that were given the former one are lost, which
    /// [`validate`](Self::validate) tells.
    pub fn prepared_by<S>(self, on_prepare: impl OnPrepare<S>) -> Callbacks<S> {
        let is_misordered = self.calls.iter().any(Option::is_some) || self.on_disconnect.is_some();
        Callbacks { is_misordered, ..Callbacks::with(on_prepare) }
    }
}

impl Default for Callbacks<()> {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Callbacks<S> {
    /// None yet but `on_prepare`.
    pub fn with(on_prepare: impl OnPrepare<S>) -> Self {
        Self {
            on_prepare: Box::new(on_prepare),
            calls: [const { None }; Moment::ALL.len()],
            on_disconnect: None,
            is_misordered: false,
            polls_futures: false,
        }
    }

    /// The callbacks poll a future: they are called while the output is congested, too, and neither
    /// a shutdown nor the end of the peer's stream closes a connection. They close it.
    #[doc(hidden)]
    #[must_use]
    pub fn polling_futures(mut self) -> Self {
        self.polls_futures = true;
        self
    }

    /// Sets the callback of one moment.
    pub fn set(
        &mut self,
        moment: Moment,
        call: impl Fn(&mut S, &mut Connection) -> Result<()> + Send + Sync + 'static,
    ) {
        self.calls[moment as usize] = Some(Box::new(call));
    }

    /// Sets the callback that takes the session back.
    pub fn set_on_disconnect(&mut self, callback: impl OnDisconnect<S>) {
        self.on_disconnect = Some(Box::new(callback));
    }

    /// The callback of a moment, if one is set.
    #[inline]
    pub(super) fn call_at(&self, moment: Moment) -> Option<&Call<S>> {
        self.calls[moment as usize].as_ref()
    }

    /// Whether `on_request` is there.
    pub fn serve_requests(&self) -> bool {
        self.call_at(Moment::Request).is_some()
    }

    /// Checks that they can serve.
    ///
    /// # Errors
    /// [`Error::Config`] where `on_request` is missing, or `on_prepare` came too late.
    pub fn validate(&self) -> Result<()> {
        if self.is_misordered {
            return Err(Error::config(
                "on_prepare was called after a callback whose session it makes: call it first",
            ));
        }
        if !self.serve_requests() {
            return Err(Error::config("on_request is missing, so nothing would take what arrives"));
        }
        Ok(())
    }
}

impl<S: Send + 'static> Callbacks<S> {
    /// Those of one value that is all of them.
    pub fn of_handler<H: Handler<Session = S>>(handler: H) -> Self {
        let handler = Arc::new(handler);
        let it = handler.clone();
        let mut callbacks = Self::with(move |connection: &Connection| it.on_prepare(connection));
        for moment in Moment::ALL {
            callbacks.calls[moment as usize] = Some(moment.call_of(&handler));
        }
        callbacks.set_on_disconnect(move |session: S, reason: &CloseReason| {
            handler.on_disconnect(session, reason);
        });
        callbacks
    }
}

impl<S> fmt::Debug for Callbacks<S> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Callbacks").finish_non_exhaustive()
    }
}
