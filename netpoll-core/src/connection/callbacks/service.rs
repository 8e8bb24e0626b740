//! One connection's callbacks and session, whose type is forgotten: what its task runs.

use std::any::{Any, TypeId, type_name};
use std::io;
use std::sync::Arc;

use super::{Callbacks, Moment};
use crate::base::error::{CloseReason, Error, Result};
use crate::base::panic::{Panicked, guard, guard_named};
use crate::base::sync::{Mutex, lock};
use crate::connection::Connection;

/// Callbacks whose session type is forgotten: what an acceptor holds.
pub trait Prepare: Send + Sync {
    /// Runs `on_prepare`.
    ///
    /// # Errors
    /// The callback's, or one that says that it panicked.
    #[doc(hidden)]
    fn prepare(self: Arc<Self>, connection: &Connection) -> Result<Box<dyn Service>>;

    /// The type of the sessions that it makes.
    #[doc(hidden)]
    fn session_type(&self) -> SessionType;

    /// Whether the callbacks poll a future; see [`Callbacks::polling_futures`].
    #[doc(hidden)]
    fn polls_futures(&self) -> bool;
}

/// Which type the sessions of a group have.
#[derive(Debug, Clone, Copy)]
#[doc(hidden)]
pub struct SessionType {
    id: TypeId,
    name: &'static str,
}

impl SessionType {
    /// That of `S`.
    pub(crate) fn of<S: 'static>() -> Self {
        Self { id: TypeId::of::<S>(), name: type_name::<S>() }
    }

    /// Checks that a job that is to be given an `S` can be.
    pub(crate) fn check<S: 'static>(self) -> Result<()> {
        if self.id == TypeId::of::<S>() {
            return Ok(());
        }
        let asked = type_name::<S>();
        Err(Error::config(format!("the session is of the type `{}`, not `{asked}`", self.name)))
    }
}

/// One connection's callbacks and session, whose type is forgotten: what its task runs.
#[doc(hidden)]
pub trait Service: Send {
    /// The session, for jobs that ask for it.
    fn session(&mut self) -> &mut dyn Any;
    fn call(&mut self, moment: Moment, connection: &mut Connection) -> Result<(), CloseReason>;
    /// Whether `disconnect` runs anything of the user's.
    fn disconnect_runs_user_code(&self) -> bool;
    fn disconnect(self: Box<Self>, reason: &CloseReason);
}

impl<S: Send + 'static> Prepare for Callbacks<S> {
    fn prepare(self: Arc<Self>, connection: &Connection) -> Result<Box<dyn Service>> {
        let prepared = guard("on_prepare", || self.on_prepare.on_prepare(connection));
        match prepared {
            Ok(session) => Ok(Box::new(Served { session: session?, callbacks: self })),
            Err(Panicked) => Err(io::Error::other("on_prepare panicked").into()),
        }
    }

    fn session_type(&self) -> SessionType {
        SessionType::of::<S>()
    }

    fn polls_futures(&self) -> bool {
        self.polls_futures
    }
}

impl<S: Send + 'static> Callbacks<S> {
    /// These callbacks for one connection whose session is there already: `on_prepare` does not
    /// run for it.
    pub fn with_session(self: &Arc<Self>, session: S) -> Arc<dyn Prepare> {
        Arc::new(Prepared { session: Mutex::new(Some(session)), callbacks: self.clone() })
    }
}

struct Prepared<S> {
    /// Taken by the one connection that it is for.
    session: Mutex<Option<S>>,
    callbacks: Arc<Callbacks<S>>,
}

impl<S: Send + 'static> Prepare for Prepared<S> {
    fn prepare(self: Arc<Self>, _: &Connection) -> Result<Box<dyn Service>> {
        let session = lock(&self.session).take().ok_or(Error::Closed)?;
        Ok(Box::new(Served { session, callbacks: self.callbacks.clone() }))
    }

    fn session_type(&self) -> SessionType {
        SessionType::of::<S>()
    }

    fn polls_futures(&self) -> bool {
        self.callbacks.polls_futures
    }
}

struct Served<S> {
    session: S,
    callbacks: Arc<Callbacks<S>>,
}

impl<S: Send + 'static> Service for Served<S> {
    fn session(&mut self) -> &mut dyn Any {
        &mut self.session
    }

    fn call(&mut self, moment: Moment, connection: &mut Connection) -> Result<(), CloseReason> {
        let Some(call) = self.callbacks.call_at(moment) else { return Ok(()) };
        verdict(guard_named(|| moment.name(), || call(&mut self.session, connection)))
    }

    fn disconnect_runs_user_code(&self) -> bool {
        self.callbacks.on_disconnect.is_some() || std::mem::needs_drop::<S>()
    }

    fn disconnect(self: Box<Self>, reason: &CloseReason) {
        let Self { session, callbacks } = *self;
        // Without the callback the session is dropped here, and its Drop is user code as well.
        let _ = guard("on_disconnect", || match &callbacks.on_disconnect {
            Some(on_disconnect) => on_disconnect.on_disconnect(session, reason),
            None => drop(session),
        });
    }
}

/// What the outcome of a callback means for its connection.
#[inline]
pub(crate) fn verdict(outcome: Result<Result<()>, Panicked>) -> Result<(), CloseReason> {
    match outcome {
        Ok(Ok(()) | Err(Error::WouldBlock)) => Ok(()),
        Ok(Err(Error::Io(error))) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Ok(Err(error)) => Err(CloseReason::Callback(error)),
        Err(Panicked) => Err(CloseReason::Panic),
    }
}
