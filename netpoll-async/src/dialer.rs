//! Dialled connections for futures.

use std::sync::{Arc, OnceLock};

use netpoll_client::{Dialer, Dialling};
use netpoll_core::{
    Attempt, Callbacks, ConnectionGroup, Dispatch, Dispatcher, Limits, Prepare, Result,
    current_loop,
};

use crate::connection::AsyncConnection;
use crate::session::{AsyncSession, callbacks_without_future};
use crate::shared::Shared;
use crate::steps::Steps;

/// Dials connections for futures, as a [`Dialer`] says: names, TLS, the timeout, the manager whose
/// loops wake them.
///
/// ```
/// use std::io::Read;
/// use netpoll_async::{AsyncDialer, block_on};
/// use netpoll_client::Dialer;
///
/// let server = std::net::TcpListener::bind("127.0.0.1:0")?;
/// let address = server.local_addr()?.to_string();
/// let dialer = AsyncDialer::new(Dialer::builder().build()?);
/// block_on(async {
///     let mut connection = dialer.dial("tcp", &address).await?;
///     connection.write_all(b"hello").await // sent, and closed as it is dropped
/// })?;
/// let mut heard = String::new();
/// server.accept()?.0.read_to_string(&mut heard)?;
/// assert_eq!(heard, "hello");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct AsyncDialer {
    dialer: Dialer,
    limits: Limits,
    /// What its connections belong to, and those of its clones; from the first dial on.
    group: Arc<OnceLock<Arc<ConnectionGroup>>>,
}

impl AsyncDialer {
    /// Connections with the default limits.
    pub fn new(dialer: Dialer) -> Self {
        Self { dialer, limits: Limits::default(), group: Arc::default() }
    }

    /// The limits of its connections; those of the dialer have no effect. They stay open when the
    /// peer has ended its stream, whatever [`Limits::half_open`] says. What can't be used, the dial
    /// refuses.
    #[must_use]
    pub fn limits(self, limits: Limits) -> Self {
        Self { limits, group: Arc::default(), ..self }
    }

    /// Dials, within the timeout of the dialer; network and address are those of
    /// [`Dialer::dial`]. No thread waits for it, and dropping the future ends the dial and closes
    /// its sockets.
    ///
    /// Any executor may poll it, and any task may then use the connection, whose loop wakes that
    /// task. It lives on the loop of the task or the callback that dials, if there is one, else on
    /// one of the dialer's manager. The handshake of a filter runs on that loop.
    ///
    /// # Errors
    /// As `Dialer::dial`; [`Error::Config`](netpoll_core::Error::Config) for limits that can't be
    /// used.
    pub async fn dial(&self, network: &str, address: &str) -> Result<AsyncConnection> {
        let group = self.group()?;
        let dialling = Steps::<Dialling>::begin(|notify| {
            self.dialer.begin_dial((network, address), &group, current_loop(), notify)
        });
        Ok(serve(dialling?.await?))
    }

    fn group(&self) -> Result<Arc<ConnectionGroup>> {
        if let Some(group) = self.group.get() {
            return Ok(group.clone());
        }
        // The callbacks only wake: nothing blocks the loop.
        let dispatcher = Dispatcher::new(Dispatch::Inline)?;
        let group = ConnectionGroup::calling(self.limits, dispatcher, &**callbacks())?;
        Ok(self.group.get_or_init(|| group).clone())
    }
}

/// The callbacks of all dialled connections: their sessions come with them.
fn callbacks() -> &'static Arc<Callbacks<AsyncSession>> {
    static CALLBACKS: OnceLock<Arc<Callbacks<AsyncSession>>> = OnceLock::new();
    CALLBACKS.get_or_init(|| Arc::new(callbacks_without_future()))
}

fn serve(attempt: Attempt) -> AsyncConnection {
    let handle = attempt.handle();
    let place = handle.task_place();
    let shared = Shared::new(handle);
    let connection = AsyncConnection::new(&shared);
    let callbacks: Arc<dyn Prepare> = callbacks().with_session(AsyncSession::of(shared, place));
    attempt.serve(&callbacks);
    connection
}
