//! A thread that waits for a future.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use netpoll_core::{Result, blocking};

/// Runs a future on this thread, and waits for its output.
///
/// On any thread. In a callback, and in the poll of a task, it hands the loop over to another
/// thread before it waits, as reads and flushes do; the future itself is polled here, so it need
/// not be `Send`. It may be called in a future that is polled by another `block_on`. It costs one
/// allocation, and a wake of it a system call if the thread sleeps.
///
/// ```
/// use std::time::Duration;
/// use netpoll_async::{block_on, sleep, spawn};
///
/// let sum = block_on(async {
///     let other = spawn(async { 40 });
///     sleep(Duration::from_millis(1)).await;
///     other.await.map(|it| it + 2)
/// });
/// assert_eq!(sum.unwrap(), 42);
/// ```
///
/// # Panics
/// Where [`try_block_on`] fails, with its error: under `Dispatch::Inline` the loop would stand
/// still, and what the future waits for may be the loop's to do. A future that is ready at its
/// first poll never panics. A panic of the future comes out here.
pub fn block_on<F: Future>(future: F) -> F::Output {
    try_block_on(future).unwrap_or_else(|error| panic!("cannot block on a future: {error}"))
}

/// As [`block_on`], for threads that may not be allowed to wait.
///
/// # Errors
/// [`Error::Config`](netpoll_core::Error::Config) where the future is pending and the thread must
/// not wait: in a callback or a task under `Dispatch::Inline`, in a receipt, a tick or a closure of
/// `on_gone`. [`Error::NoThread`](netpoll_core::Error::NoThread) where the system refuses the
/// thread that would go on with the loop. The future is dropped then.
pub fn try_block_on<F: Future>(future: F) -> Result<F::Output> {
    let mut future = pin!(future);
    let parker = Arc::new(Parker { is_woken: AtomicBool::new(false), thread: thread::current() });
    let waker = Waker::from(parker.clone());
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return Ok(output);
        }
        if !parker.take() {
            blocking::enter("wait for a future")?;
            parker.park();
        }
    }
}

/// The thread, and whether it is to poll again. Each call has its own, since one that is nested
/// takes the thread's token; the outer one still finds its flag.
struct Parker {
    is_woken: AtomicBool,
    thread: Thread,
}

impl Parker {
    fn take(&self) -> bool {
        self.is_woken.swap(false, Ordering::AcqRel)
    }

    fn park(&self) {
        while !self.take() {
            thread::park();
        }
    }
}

impl Wake for Parker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_woken.swap(true, Ordering::AcqRel) {
            self.thread.unpark();
        }
    }
}
