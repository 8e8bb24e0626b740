//! An event loop that serves on a thread of its own: for tests, and inside other programs.

use std::io::{self, ErrorKind};
use std::process;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use netpoll_core::{Address, Error, Result, clock, start_thread};

use crate::event_loop::EventLoop;
use crate::listeners::Listeners;
use crate::opening::{Opening, Phase};
use crate::shutdown::Report;
use crate::stats::EventLoopStats;

/// An event loop that [`EventLoop::spawn`] has started. Its drop shuts it down at once, as
/// `shutdown(Duration::ZERO)` does, and waits for it: some 200 ms at most beyond the callbacks'
/// own time.
#[derive(Debug)]
#[must_use = "its drop shuts the event loop down"]
pub struct Running {
    event_loop: EventLoop,
    addresses: Vec<Address>,
    thread: Option<JoinHandle<Result<Report>>>,
    /// The report, if the event loop had ended before it served.
    ended: Option<Report>,
    /// The process that the thread is in.
    process: u32,
}

/// How long `spawn` waits: longer than a process that hands its listeners over takes to answer.
const OPENING_AT_MOST: Duration = Duration::from_secs(20);

impl EventLoop {
    /// Serves on a thread of its own, named `netpoll-serve`. It returns when every loop serves and,
    /// if a listener was taken over, when the process that had it knows.
    ///
    /// # Errors
    /// The errors of [`serve`](Self::serve) at its start; `TimedOut` if a callback holds a loop of
    /// a shared manager, so that the loop does not take the listener. [`Running::wait`] returns the
    /// errors of `serve` after its start.
    ///
    /// ```
    /// use std::io::{Read, Write};
    /// use std::time::Duration;
    /// use netpoll_core::Connection;
    /// use netpoll_server::{EventLoop, Listener};
    ///
    /// let echo = EventLoop::new(|conn: &mut Connection| {
    ///     let (mut reader, mut writer) = conn.split();
    ///     writer.append(reader.slice(reader.len())?);
    ///     writer.flush()
    /// });
    /// let running = echo.spawn(Listener::bind("tcp", "127.0.0.1:0")?)?;
    /// let mut client = std::net::TcpStream::connect(running.address().inet().unwrap())?;
    /// client.write_all(b"hello")?;
    /// client.read_exact(&mut [0; 5])?;
    /// running.shutdown(Duration::from_secs(1));
    /// assert_eq!(running.wait()?.closed_in_order, 1);
    /// # Ok::<(), netpoll_core::Error>(())
    /// ```
    pub fn spawn(&self, listeners: impl Into<Listeners>) -> Result<Running> {
        let listeners = listeners.into();
        let (addresses, serving) = (listeners.addresses()?, self.clone());
        if addresses.is_empty() {
            return Err(Error::config("spawn was given no listener, so no client could connect"));
        }
        let opening = Arc::<Opening>::default();
        let told = opening.clone();
        let serve = move || serving.serve_and_tell(listeners, &told);
        let thread = start_thread("netpoll-serve", serve)?;
        let thread = Some(thread);
        let (event_loop, process) = (self.clone(), process::id());
        let mut running = Running { event_loop, addresses, thread, ended: None, process };
        match opening.wait(clock::now() + OPENING_AT_MOST) {
            Phase::Serving => {}
            // A shutdown that came first is no error.
            Phase::Ended => running.ended = Some(running.join()?),
            Phase::Opening => {
                running.shutdown(Duration::ZERO);
                let text = "a loop did not take its listener, does a callback hold it?";
                running.join()?;
                return Err(Error::Io(io::Error::new(ErrorKind::TimedOut, text)));
            }
        }
        Ok(running)
    }
}

impl Running {
    /// The address of the first listener, with the port that the system chose where 0 was asked
    /// for.
    pub fn address(&self) -> &Address {
        &self.addresses[0]
    }

    /// The addresses of all listeners, in their order.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// The event loop, for its other methods.
    pub fn event_loop(&self) -> &EventLoop {
        &self.event_loop
    }

    /// As [`EventLoop::shutdown`].
    pub fn shutdown(&self, deadline: Duration) {
        self.event_loop.shutdown(deadline);
    }

    /// As [`EventLoop::stats`].
    pub fn stats(&self) -> EventLoopStats {
        self.event_loop.stats()
    }

    /// Waits until the event loop has been shut down, and returns what `serve` did.
    ///
    /// # Errors
    /// As [`EventLoop::serve`].
    pub fn wait(mut self) -> Result<Report> {
        self.join()
    }

    fn join(&mut self) -> Result<Report> {
        if self.process != process::id() {
            // A copy in a forked process, which does not have the thread.
            std::mem::forget(self.thread.take());
            return Err(Error::config("the event loop's threads are in the process that forked"));
        }
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(outcome)) => outcome,
            // `serve` runs user code only under a guard; this panic is netpoll's own.
            Some(Err(_)) => Err(io::Error::other("serve panicked").into()),
            None => Ok(self.ended.unwrap_or_default()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.process != process::id() {
            let _ = self.join();
            return;
        }
        self.event_loop.shutdown(Duration::ZERO);
        if let Err(error) = self.join() {
            log::warn!("an event loop ended with an error: {error}");
        }
    }
}
