//! Where hyper's own tasks run.

use hyper::rt::Executor;
use netpoll_async::spawn;

/// Spawns what hyper spawns, such as the streams of HTTP/2, as tasks of the loops.
///
/// A task runs on the loop of the callback or task that spawns it, and moves when that is held up;
/// it is polled where the dispatch mode of that event loop says. So a handler that blocks holds up
/// no other stream of its connection, but under `Dispatch::Inline`, where it must not block.
/// Outside of callbacks and tasks it runs on the loops that the process shares, under
/// `Dispatch::HandOff`. Nothing waits for the tasks: hyper ends them with their connection.
#[derive(Debug, Clone, Copy, Default)]
pub struct NetpollExecutor;

impl<F> Executor<F> for NetpollExecutor
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        spawn(future).detach();
    }
}
