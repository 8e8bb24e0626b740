//! Futures that serve connections: the promises of `netpoll::futures`, in each dispatch mode.
//!
//! With `NETPOLL_TEST_FILTER=tls` the same over TLS.

mod adapters;
mod attacks;
mod calls;
mod dialled;
mod ends;
mod foreign;
mod served;
mod shutdown;
mod waits;
mod wakes;
mod written;

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use netpoll::{CloseReason, Dispatch, Result};
use netpoll_async::{AsyncConnection, AsyncSession, serve_async};

use crate::util::{Journal, Server, lock, name_of};

/// A server whose connections `serve` serves; the journal has the reasons of their ends.
fn server<F, Fut>(dispatch: Dispatch, serve: F) -> (Server, Journal)
where
    F: Fn(AsyncConnection) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<()>> + Send + 'static,
{
    let journal = Journal::default();
    let ends = journal.clone();
    let builder = serve_async(serve).loops(1).dispatch(dispatch).on_disconnect(
        move |session: AsyncSession, reason: &CloseReason| {
            ends.add(name_of(reason));
            session.end(reason);
        },
    );
    (Server::start(builder), journal)
}

async fn echo(mut conn: AsyncConnection) -> Result<()> {
    while let Some(bytes) = conn.read_bytes().await? {
        conn.write_bytes(bytes).await?;
    }
    Ok(())
}

/// Adds an entry when it is dropped.
struct OnDrop(Journal, &'static str);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.add(self.1);
    }
}

/// An event that happens once, awaited by one future.
#[derive(Clone, Default)]
struct Event(Arc<Mutex<(bool, Option<Waker>)>>);

impl Event {
    fn happen(&self) {
        let mut state = lock(&self.0);
        state.0 = true;
        let waker = state.1.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn is_awaited(&self) -> bool {
        lock(&self.0).1.is_some()
    }
}

impl Future for Event {
    type Output = ();

    fn poll(self: std::pin::Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut state = lock(&self.0);
        if state.0 {
            return Poll::Ready(());
        }
        state.1 = Some(context.waker().clone());
        Poll::Pending
    }
}
