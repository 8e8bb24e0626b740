//! Hot restart: a running server gives its listening sockets to the process that replaces it.
//!
//! ```text
//!   old process                       Unix stream                       new process
//!   EventLoop::hand_over ──── names, descriptors (SCM_RIGHTS) ────► Listener::take_over
//!                        ◄─────────────────── a byte ───────────────
//!   shutdown: drains, leaves queues and paths alone                  serve: accepts
//! ```
//! Both hold the same sockets for a while, and the kernel's queue is one: nobody is refused, and
//! whoever accepts, serves.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use netpoll_core::{Error, Result, socket};

use crate::event_loop::EventLoop;
use crate::listener::Listener;

/// More than the names of 253 listeners need.
const NAMES_MAX: usize = 64 << 10;
const TAKEN: u8 = b'!';

impl EventLoop {
    /// Gives the listening sockets that it serves to the process at the other end of `to`, and
    /// waits until that has taken them. From then on a shutdown leaves those who wait in the
    /// kernel's queues, and the paths of Unix sockets, to the other process. It goes on serving
    /// until it is shut down.
    ///
    /// # Errors
    /// [`Error::Config`] when it does not serve; the system's; `UnexpectedEof` where the other
    /// process closes without having taken them, after which nothing has changed.
    pub fn hand_over(&self, to: &UnixStream) -> Result<()> {
        let Some(doors) = self.doors() else {
            return Err(Error::config("hand_over was called while the event loop does not serve"));
        };
        let sockets = doors.sockets();
        let names: Vec<String> = sockets.iter().map(|(name, _)| name.replace('\n', " ")).collect();
        let descriptors: Vec<_> = sockets.iter().map(|(_, fd)| fd.as_fd()).collect();
        // The text is never empty, since a message of no bytes carries no descriptors.
        let text = format!("{}\n", names.join("\n"));
        socket::send_descriptors(to, text.as_bytes(), &descriptors)?;
        let mut answer = [0];
        (&mut &*to).read_exact(&mut answer)?;
        if answer != [TAKEN] {
            return Err(io::Error::from(ErrorKind::InvalidData).into());
        }
        doors.leave_open();
        log::info!("{} listening sockets were handed over", sockets.len());
        Ok(())
    }
}

impl Listener {
    /// Takes over the listening sockets that the server at the other end of `from` gives away with
    /// [`EventLoop::hand_over`], with their names.
    ///
    /// # Errors
    /// The system's; `UnexpectedEof` where nothing is given.
    pub fn take_over(from: &UnixStream) -> Result<Vec<Self>> {
        let mut bytes = vec![0; NAMES_MAX];
        let (len, descriptors) = socket::receive_descriptors(from, &mut bytes)?;
        if len == 0 || descriptors.is_empty() {
            return Err(io::Error::from(ErrorKind::UnexpectedEof).into());
        }
        let names = String::from_utf8_lossy(&bytes[..len]).into_owned();
        let mut names = names.lines();
        let listeners = descriptors.into_iter().map(|fd| match names.next() {
            Some(name) if !name.is_empty() => Self::handed(fd).named(name),
            _ => Self::handed(fd),
        });
        let listeners = listeners.collect();
        (&mut &*from).write_all(&[TAKEN])?;
        Ok(listeners)
    }
}
