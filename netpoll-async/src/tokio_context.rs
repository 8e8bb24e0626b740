//! Futures that need the context of tokio, polled on loops of netpoll.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::Handle;

/// Polls, and drops, a future in the context of a runtime of tokio; see [`in_tokio`].
pub struct InTokio<F> {
    /// `None` only while it is dropped.
    future: Option<Pin<Box<F>>>,
    runtime: Handle,
}

/// Polls and drops `future` in the context of `runtime`: for libraries that call `tokio::spawn`,
/// `tokio::time`, `tokio::net` or `spawn_blocking`, such as reqwest and sqlx.
///
/// Their tasks, timers and sockets are those of that runtime, whose threads must turn; the future
/// itself is polled where it is polled without this. It costs one allocation, and for each poll a
/// change of a variable of the thread.
///
/// Not everything of tokio can be called so: `block_in_place` needs a thread of the runtime, and
/// `Handle::block_on` panics in a context, as ever.
///
/// ```
/// use std::time::Duration;
/// use netpoll_async::{AsyncConnection, in_tokio, serve_async};
/// use tokio::runtime::Builder;
///
/// let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
/// let handle = runtime.handle().clone();
/// let event_loop = serve_async(move |mut conn: AsyncConnection| {
///     in_tokio(&handle, async move {
///         tokio::time::sleep(Duration::from_millis(1)).await;
///         conn.write_all(b"after a timer of tokio\n").await
///     })
/// })
/// .build()?;
/// # drop(event_loop);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn in_tokio<F: Future>(runtime: &Handle, future: F) -> InTokio<F> {
    InTokio { future: Some(Box::pin(future)), runtime: runtime.clone() }
}

impl<F: Future> Future for InTokio<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let Self { future, runtime } = &mut *self;
        let _entered = runtime.enter();
        match future {
            Some(future) => future.as_mut().poll(context),
            None => Poll::Pending,
        }
    }
}

impl<F> Drop for InTokio<F> {
    fn drop(&mut self) {
        let _entered = self.runtime.enter();
        self.future = None;
    }
}

impl<F> fmt::Debug for InTokio<F> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("InTokio").finish_non_exhaustive()
    }
}
