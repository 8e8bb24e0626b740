//! Streams without a connection: a connection is given away, or begins with what came with its
//! stream.

use std::os::fd::OwnedFd;

use netpoll_buffer::LinkBuffer;

use super::input::Input;
use super::owner::Owner;
use super::scratch::Scratch;
use super::{Connection, scratch_of};
use crate::base::address::Address;
use crate::base::error::{Error, Result};
use crate::io::stream::Stream;
use crate::pure::task::Events;

/// A connected stream without a connection: what [`Connection::detach`] returns, and what `adopt`
/// of an event loop, a client or a dialer takes. Dropping it closes the socket.
///
/// A `TcpStream`, a `UnixStream` and whatever else becomes an `OwnedFd` becomes one, too.
///
/// ```
/// use std::io::Read;
/// use std::os::unix::net::UnixStream;
/// use netpoll_core::Detached;
///
/// let (mut stream, _peer) = UnixStream::pair()?;
/// stream.set_nonblocking(true)?;
/// let mut head = [0; 16]; // what protocol is it?
/// let read = stream.read(&mut head).unwrap_or(0);
/// let unread = Detached::from(stream).with_input(head[..read].to_vec());
/// assert!(unread.input.is_empty());
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct Detached {
    /// The socket, non-blocking. No reactor watches it.
    pub socket: OwnedFd,
    /// The bytes received and not read. They come before those that the socket still has.
    pub input: LinkBuffer,
    /// The bytes written and not sent. They come before those that are sent next.
    pub output: LinkBuffer,
}

impl Detached {
    /// The same with these bytes as the first that are read, in place of what `input` has: for a
    /// program that has read from the socket itself.
    #[must_use]
    pub fn with_input(mut self, input: impl Into<LinkBuffer>) -> Self {
        self.input = input.into();
        self
    }
}

impl<T: Into<OwnedFd>> From<T> for Detached {
    fn from(socket: T) -> Self {
        Self { socket: socket.into(), input: LinkBuffer::new(), output: LinkBuffer::new() }
    }
}

/// What comes with a stream that was connected elsewhere: bytes to be read before those of the
/// socket, and bytes to be sent before all others.
#[derive(Debug, Default)]
pub struct Carried {
    input: LinkBuffer,
    output: LinkBuffer,
}

impl Carried {
    /// The first byte that was read, and how many were.
    pub fn input(&self) -> (Option<u8>, usize) {
        let first = self.input.chunks().find_map(|chunk| chunk.first().copied());
        (first, self.input.len())
    }
}

impl Connection {
    /// Gives the connection away: its socket, the unread input, and what was written or accepted
    /// and is not sent. From here on this connection is closed, without a FIN or a reset;
    /// `on_disconnect` follows with [`CloseReason::Detached`](crate::CloseReason::Detached). The
    /// socket is a duplicate of the descriptor, and still non-blocking. Outstanding receipts report
    /// that their message was not sent.
    ///
    /// # Errors
    /// [`Error::Closed`] if a close has begun, or the system's error if no descriptor is free;
    /// [`Error::Config`] if it has a filter, such as TLS. The connection is then unchanged.
    pub fn detach(&mut self) -> Result<Detached> {
        self.shared.check_before_send()?;
        if self.shared.unflushed.is_deferring() {
            self.send_staged();
        }
        let (socket, mut output) = self.shared.output.detach()?;
        let Scratch { input, staged, .. } = self.scratch();
        staged.flush();
        output.append(std::mem::take(staged));
        output.flush();
        let input = input.detach();
        self.shared.unflushed.clear();
        self.shared.request_close();
        Ok(Detached { socket, input, output })
    }

    /// Begins with what came with its stream, before its reactor and its callbacks know it.
    pub(crate) fn begin_with(&mut self, carried: Carried) {
        let Carried { mut input, mut output } = carried;
        input.flush();
        output.flush();
        if let Some(filtered) = self.shared.filtered() {
            if !input.is_empty() {
                filtered.begin_with(&input);
                // The first receive finds them, though no event announces them.
                scratch_of(&mut self.scratch, &self.shared).input.undrained = true;
            }
            let said: Vec<u8> = output.chunks().flatten().copied().collect();
            // A new connection has no filter yet, so this can't come too late.
            let _ = self.shared.output.begin_with(said.into());
            return;
        }
        if !input.is_empty() {
            let Scratch { input: ours, .. } = scratch_of(&mut self.scratch, &self.shared);
            ours.begin_with(&self.shared, input);
            // As after a pause: no event announces these bytes.
            self.shared.task.word.note(Events::RESUMED);
        }
        if !output.is_empty() && self.shared.send(&mut output).is_err() {
            self.shared.task.word.note(Events::FAILED.or(Events::READABLE));
        }
    }
}

impl Input {
    /// Begins with bytes that were received elsewhere. They count as received.
    fn begin_with(&mut self, shared: &Owner, bytes: LinkBuffer) {
        let (has_budget, len) = (shared.group.policy.memory.has_budget(), bytes.len());
        self.buffer.append(bytes);
        self.buffer.flush();
        if has_budget && let Some(account) = self.account_within(shared) {
            self.buffer.charge_added(&account);
        }
        shared.count_received(len);
        self.settle(shared);
    }
}

impl Detached {
    /// The stream, made fit for a loop, with the address of its peer and what comes with it.
    ///
    /// # Errors
    /// [`Error::Config`] for what is no stream socket, or has no peer.
    #[doc(hidden)]
    pub fn adopt(self) -> Result<(Stream, Address, Carried)> {
        let Self { socket, input, output } = self;
        let (stream, peer) = Stream::adopt(socket)
            .map_err(|error| Error::config(format!("adopt needs a connected stream: {error}")))?;
        Ok((stream, peer, Carried { input, output }))
    }
}
