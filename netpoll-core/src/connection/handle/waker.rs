//! The waker of a connection, for futures that its callbacks poll.

use std::sync::Arc;
use std::task;

use super::Handle;
use crate::connection::schedule::schedule;
use crate::connection::shared::Shared;
use crate::connection::spawned::Place;
use crate::pure::task::Events;

impl Handle {
    /// A waker that calls [`wake`](Self::wake): for a future that a callback polls. Several wakes
    /// before the callback count as one. A wake may come from any thread, and after the connection
    /// has ended, when it does nothing. Neither this, nor a clone, nor a wake allocates: a waker is
    /// a handle in another form, and a wake one change of a word, and a system call only if it has
    /// to end the wait of the loop.
    ///
    /// ```
    /// use std::future::Future;
    /// use std::pin::Pin;
    /// use std::task::{Context, Poll};
    ///
    /// use netpoll_core::{Connection, Result};
    ///
    /// type Answer = Pin<Box<dyn Future<Output = String> + Send>>;
    ///
    /// /// An `on_request`, whose session is the answer that is being made.
    /// fn on_request(answer: &mut Answer, conn: &mut Connection) -> Result<()> {
    ///     let waker = conn.handle().waker();
    ///     if let Poll::Ready(text) = answer.as_mut().poll(&mut Context::from_waker(&waker)) {
    ///         conn.writer().write_string(&text);
    ///         conn.close();
    ///     }
    ///     Ok(())
    /// }
    /// ```
    pub fn waker(&self) -> task::Waker {
        self.shared.clone().into()
    }

    /// Where tasks belong that the future of this connection spawns: its loop, and the tasks of its
    /// event loop.
    #[doc(hidden)]
    pub fn task_place(&self) -> Arc<Place> {
        self.shared.group.tasks().place_on(&self.shared.reactor)
    }
}

impl task::Wake for Shared {
    fn wake(self: Arc<Self>) {
        task::Wake::wake_by_ref(&self);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.task.word.notify(Events::WAKE) {
            schedule(self);
        }
    }
}
