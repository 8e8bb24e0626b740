//! One value that is all the callbacks of an event loop.

use std::sync::Arc;

use netpoll_core::{
    CloseReason, Connection, OnConnect, OnDisconnect, OnDrain, OnHighWater, OnPrepare, OnRequest,
    OnShutdown, Result,
};

/// All the callbacks of an event loop, on one value. It is shared by all connections; what belongs
/// to one connection is its `Session`.
///
/// Each method is the callback of its name: [`OnRequest`] and the other traits say where it runs,
/// whether it may block, and what its errors mean. All but two have a default.
///
/// ```
/// use netpoll_core::{Connection, Result};
/// use netpoll_server::{EventLoop, Handler};
///
/// struct Echo;
///
/// impl Handler for Echo {
///     type Session = ();
///
///     fn on_prepare(&self, _: &Connection) -> Result<()> {
///         Ok(())
///     }
///
///     fn on_request(&self, (): &mut (), conn: &mut Connection) -> Result<()> {
///         let (mut reader, mut writer) = conn.split();
///         writer.append(reader.slice(reader.len())?);
///         writer.flush()
///     }
/// }
///
/// let event_loop = EventLoop::builder().handler(Echo).build()?;
/// # Ok::<(), netpoll_core::Error>(())
/// ```
pub trait Handler: Send + Sync + 'static {
    /// What belongs to one connection.
    type Session: Send + 'static;

    /// Makes the session; see [`OnPrepare`].
    ///
    /// # Errors
    /// Refuses the connection.
    fn on_prepare(&self, connection: &Connection) -> Result<Self::Session>;

    /// See [`OnConnect`]. Does nothing by default.
    ///
    /// # Errors
    /// Closes the connection with that reason.
    fn on_connect(&self, session: &mut Self::Session, connection: &mut Connection) -> Result<()> {
        let _ = (session, connection);
        Ok(())
    }

    /// See [`OnRequest`].
    ///
    /// # Errors
    /// Closes the connection with that reason.
    fn on_request(&self, session: &mut Self::Session, connection: &mut Connection) -> Result<()>;

    /// See [`OnHighWater`]. Does nothing by default.
    ///
    /// # Errors
    /// Closes the connection with that reason.
    fn on_high_water(
        &self,
        session: &mut Self::Session,
        connection: &mut Connection,
    ) -> Result<()> {
        let _ = (session, connection);
        Ok(())
    }

    /// See [`OnDrain`]. Does nothing by default.
    ///
    /// # Errors
    /// Closes the connection with that reason.
    fn on_drain(&self, session: &mut Self::Session, connection: &mut Connection) -> Result<()> {
        let _ = (session, connection);
        Ok(())
    }

    /// See [`OnShutdown`]. Does nothing by default.
    ///
    /// # Errors
    /// Closes the connection with that reason.
    fn on_shutdown(&self, session: &mut Self::Session, connection: &mut Connection) -> Result<()> {
        let _ = (session, connection);
        Ok(())
    }

    /// See [`OnDisconnect`]. Drops the session by default.
    fn on_disconnect(&self, session: Self::Session, reason: &CloseReason) {
        let _ = (session, reason);
    }
}

/// A handler as each of the callbacks.
pub(crate) struct Callback<H>(pub(crate) Arc<H>);

impl<H: Handler> OnPrepare<H::Session> for Callback<H> {
    fn on_prepare(&self, connection: &Connection) -> Result<H::Session> {
        self.0.on_prepare(connection)
    }
}

impl<H: Handler> OnConnect<H::Session> for Callback<H> {
    fn on_connect(&self, session: &mut H::Session, connection: &mut Connection) -> Result<()> {
        self.0.on_connect(session, connection)
    }
}

impl<H: Handler> OnRequest<H::Session> for Callback<H> {
    fn on_request(&self, session: &mut H::Session, connection: &mut Connection) -> Result<()> {
        self.0.on_request(session, connection)
    }
}

impl<H: Handler> OnHighWater<H::Session> for Callback<H> {
    fn on_high_water(&self, session: &mut H::Session, connection: &mut Connection) -> Result<()> {
        self.0.on_high_water(session, connection)
    }
}

impl<H: Handler> OnDrain<H::Session> for Callback<H> {
    fn on_drain(&self, session: &mut H::Session, connection: &mut Connection) -> Result<()> {
        self.0.on_drain(session, connection)
    }
}

impl<H: Handler> OnShutdown<H::Session> for Callback<H> {
    fn on_shutdown(&self, session: &mut H::Session, connection: &mut Connection) -> Result<()> {
        self.0.on_shutdown(session, connection)
    }
}

impl<H: Handler> OnDisconnect<H::Session> for Callback<H> {
    fn on_disconnect(&self, session: H::Session, reason: &CloseReason) {
        self.0.on_disconnect(session, reason);
    }
}
