//! Dialled connections for futures.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use netpoll_client::{Client, Dialer};
use netpoll_core::{Dispatch, Error, Limits, Result};

use crate::connection::AsyncConnection;
use crate::session::callbacks;
use crate::spawner::spawn;

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
}

impl AsyncDialer {
    /// Connections with the default limits.
    pub fn new(dialer: Dialer) -> Self {
        Self { dialer, limits: Limits::default() }
    }

    /// The limits of its connections; those of the dialer have no effect. They stay open when the
    /// peer has ended its stream, whatever [`Limits::half_open`] says. What can't be used, the dial
    /// refuses.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Dials, within the timeout of the dialer; network and address are those of
    /// [`Dialer::dial`]. A task dials, and blocks a thread for that time. If this future is dropped
    /// before its end, the connection is closed as soon as it is there.
    ///
    /// # Errors
    /// As `Dialer::dial`; [`Error::Closed`] if the connection ends before it is used.
    pub async fn dial(&self, network: &str, address: &str) -> Result<AsyncConnection> {
        let (dialer, mut limits) = (self.dialer.clone(), self.limits);
        let (network, address) = (network.to_owned(), address.to_owned());
        limits.half_open = true;
        let dialled = spawn(async move {
            let (timeout, arrival) = (dialer.timeout(), Arrival::default());
            let arrives = Arrives(arrival.0.clone());
            let client = Client::builder()
                .callbacks(callbacks(move |connection| {
                    arrives.set(connection);
                    Box::pin(async { Result::<()>::Ok(()) })
                }))
                // Its callbacks only wake: where they run, nothing blocks.
                .dispatch(Dispatch::Inline)
                .limits(limits)
                .dialer(dialer)
                .build()?;
            let handle = client.dial(&network, &address, timeout)?;
            // A client that is dropped closes its connections.
            handle.add_close_callback(move || drop(client));
            arrival.wait().await
        });
        dialled.await.map_err(|error| Error::from(std::io::Error::other(error.to_string())))?
    }
}

/// Where the connection's loop leaves it, and the task that dials takes it.
type Place = Arc<Mutex<State>>;

#[derive(Default)]
enum State {
    #[default]
    Nothing,
    Awaited(Waker),
    Here(AsyncConnection),
    /// Nothing comes any more, or nothing waits for it.
    Over,
}

/// The side of the task. A connection that comes after its drop closes.
#[derive(Default)]
struct Arrival(Place);

impl Arrival {
    async fn wait(&self) -> Result<AsyncConnection> {
        poll_fn(|context| self.poll(context)).await
    }

    fn poll(&self, context: &Context<'_>) -> Poll<Result<AsyncConnection>> {
        // Cloned before the lock, as it is foreign code.
        let waker = context.waker().clone();
        match change(&self.0, |before| match before {
            State::Here(_) | State::Over => State::Over,
            State::Nothing | State::Awaited(_) => State::Awaited(waker),
        }) {
            State::Here(connection) => Poll::Ready(Ok(connection)),
            State::Over => Poll::Ready(Err(Error::Closed)),
            State::Nothing | State::Awaited(_) => Poll::Pending,
        }
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        change(&self.0, |_| State::Over);
    }
}

/// The side of the callbacks, which are dropped with the connection.
struct Arrives(Place);

impl Arrives {
    fn set(&self, connection: AsyncConnection) {
        let mut connection = Some(connection);
        let before = change(&self.0, |before| match (before, connection.take()) {
            (State::Nothing | State::Awaited(_), Some(connection)) => State::Here(connection),
            (_, late) => {
                connection = late;
                State::Over
            }
        });
        if let State::Awaited(waker) = before {
            waker.wake();
        }
    }
}

impl Drop for Arrives {
    fn drop(&mut self) {
        let mut state = lock(&self.0);
        if matches!(*state, State::Here(_)) {
            return; // its reads and writes say what has become of it
        }
        let before = std::mem::replace(&mut *state, State::Over);
        drop(state);
        if let State::Awaited(waker) = before {
            waker.wake();
        }
    }
}

/// Moves to the next state, and returns the one before: so it is dropped outside of the lock.
fn change(place: &Place, next: impl FnOnce(&State) -> State) -> State {
    let mut state = lock(place);
    let next = next(&state);
    std::mem::replace(&mut *state, next)
}

fn lock(place: &Place) -> MutexGuard<'_, State> {
    // Nothing runs under the lock but moves, so a poisoned state is whole.
    place.lock().unwrap_or_else(PoisonError::into_inner)
}
