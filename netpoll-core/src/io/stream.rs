//! A connected stream: what a connection pulls its input from and pushes its output to.
//!
//! Both happen on the caller's own thread. In production a stream is a descriptor, and each is a
//! system call; for tests there are streams in memory (`memory.rs`), so no caller above this file
//! may count on a descriptor.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use netpoll_buffer::LinkBuffer;

#[cfg(all(test, not(loom)))]
use super::memory::{network, wire};
use super::readiness::{Pulled, Pushed};
use crate::base::address::Address;
use crate::sys::connect::{self, ConnectOptions};
use crate::sys::keepalive::{self, Keepalive};
use crate::sys::stream as sys;
use crate::sys::tcp_info::{self, TcpInfo};

pub(crate) use crate::sys::stream::{NOT_CONNECTED, PROTOCOL, UNKNOWN};

/// How much of a refused peer's unread bytes is taken, so that the close does not reset it.
const UNREAD: usize = 64 << 10;

/// A connected stream, or one on its way.
///
/// Where a connection holds it, the last of its holders closes it, the owner or the output
/// (`connection/socket.rs`), so no operation can reach the next socket that has its number.
#[derive(Debug)]
pub struct Stream(StreamKind);

/// What a stream is made of.
#[derive(Debug)]
enum StreamKind {
    Socket(OwnedFd),
    #[cfg(all(test, not(loom)))]
    Memory(wire::End),
}

/// The process at the other end of a Unix socket, as the kernel noted it when they connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Credentials {
    /// The process id. That process may have ended, and its number may be another's by now.
    pub process: i32,
    /// The effective user id.
    pub user: u32,
    /// The effective group id.
    pub group: u32,
}

impl Stream {
    /// The stream of a socket, which is connected and does not block.
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self(StreamKind::Socket(fd))
    }

    /// Makes a stream of a socket that was connected elsewhere: non-blocking, closed on exec, and
    /// with `TCP_NODELAY`, as accepted ones have it. Returns the address of the peer, too.
    ///
    /// # Errors
    /// The system's; `InvalidInput` for what is no stream socket, `NotConnected` for one without a
    /// peer.
    pub fn adopt(socket: OwnedFd) -> io::Result<(Self, Address)> {
        let peer = sys::make_ready(socket.as_fd())?;
        if peer.inet().is_some() {
            sys::set_nodelay(socket.as_fd())?;
        }
        Ok((Self::new(socket), peer))
    }

    #[cfg(all(test, not(loom)))]
    pub(crate) fn in_memory(end: wire::End) -> Self {
        Self(StreamKind::Memory(end))
    }

    #[cfg(all(test, not(loom)))]
    pub(crate) fn memory(&self) -> Option<&wire::End> {
        match &self.0 {
            StreamKind::Memory(end) => Some(end),
            StreamKind::Socket(_) => None,
        }
    }

    /// Begins to connect. A driver that is told to [`connect`](super::driver::Driver::connect) says
    /// when that has ended, and [`take_error`](Self::take_error) how.
    ///
    /// # Errors
    /// What connecting met at once. `WouldBlock`: the queue of a Unix socket's listener is full,
    /// and no event will tell when it is not.
    pub(crate) fn connect(to: &Address, options: &ConnectOptions) -> io::Result<Self> {
        #[cfg(all(test, not(loom)))]
        if let Some(dialled) = network::connect(to) {
            return dialled.map(Self::in_memory);
        }
        connect::connect(to, options).map(Self::new)
    }

    /// Pulls at most `max` bytes into `input`: one `readv`, or one `recvfrom` into a single block.
    ///
    /// # Errors
    /// The system's; `WouldBlock` where nothing has arrived.
    #[inline]
    pub(crate) fn pull(&self, input: &mut LinkBuffer, max: usize) -> io::Result<Pulled> {
        match &self.0 {
            StreamKind::Socket(fd) => {
                let filled = input.fill(max, |slices| sys::receive(fd.as_fd(), slices))?;
                // A short read has emptied the socket.
                Ok(Pulled { read: filled.read, drained: filled.read < filled.reserved })
            }
            #[cfg(all(test, not(loom)))]
            StreamKind::Memory(end) => end.pull(input, max),
        }
    }

    /// Pulls at most the length of `into`: one `recvfrom`. The rest is as of [`pull`](Self::pull).
    ///
    /// # Errors
    /// Those of `pull`.
    pub(crate) fn pull_into(&self, into: &mut [u8]) -> io::Result<Pulled> {
        let room = into.len();
        let read = self.receive(into)?;
        Ok(Pulled { read, drained: read < room })
    }

    /// Pushes what stands readable in `output`, once: one `sendmsg`, or one `sendto` of a single
    /// block. It consumes nothing.
    ///
    /// # Errors
    /// The system's; `WouldBlock` where there is no room.
    #[inline]
    pub(crate) fn push(&self, output: &LinkBuffer) -> io::Result<Pushed> {
        match &self.0 {
            StreamKind::Socket(fd) => push_to(fd.as_fd(), output),
            #[cfg(all(test, not(loom)))]
            StreamKind::Memory(end) => end.push(output),
        }
    }

    /// What has arrived, up to the length of `into`; it stays there to be pulled.
    ///
    /// # Errors
    /// The system's; `WouldBlock` while nothing has arrived.
    pub fn peek(&self, into: &mut [u8]) -> io::Result<usize> {
        match &self.0 {
            StreamKind::Socket(fd) => sys::peek(fd.as_fd(), into),
            #[cfg(all(test, not(loom)))]
            StreamKind::Memory(end) => end.peek(into),
        }
    }

    /// Takes the first bytes of what has arrived.
    ///
    /// # Errors
    /// The system's; `UnexpectedEof` where fewer have arrived.
    pub fn take(&self, into: &mut [u8]) -> io::Result<()> {
        let wanted = into.len();
        let read = self.receive(into)?;
        if read == wanted { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// Closes the stream of a peer that is not admitted. `words` are sent as far as the stream
    /// takes them at once. What the peer has sent is taken first, so that no reset overtakes the
    /// words.
    pub fn refuse(self, words: &[u8]) {
        if !words.is_empty() {
            // A peer that does not take the words is refused without them.
            let mut output = LinkBuffer::new();
            output.write_bytes(words);
            output.flush();
            let _ = self.push(&output);
        }
        let _ = self.end_write();
        let _ = self.pull(&mut LinkBuffer::new(), UNREAD);
    }

    /// Ends our half of the stream.
    pub(crate) fn end_write(&self) -> io::Result<()> {
        match &self.0 {
            StreamKind::Socket(fd) => sys::shutdown_write(fd.as_fd()),
            #[cfg(all(test, not(loom)))]
            StreamKind::Memory(end) => {
                end.end_write();
                Ok(())
            }
        }
    }

    /// Makes the coming close a reset.
    ///
    /// # Errors
    /// The system's.
    pub fn reset_on_close(&self) -> io::Result<()> {
        match &self.0 {
            StreamKind::Socket(fd) => sys::reset_on_close(fd.as_fd()),
            #[cfg(all(test, not(loom)))]
            StreamKind::Memory(end) => {
                end.reset_on_close();
                Ok(())
            }
        }
    }

    /// A descriptor of the same stream, for the user.
    ///
    /// # Errors
    /// The system's; `Unsupported` where the stream has no descriptor.
    pub(crate) fn detach(&self) -> io::Result<OwnedFd> {
        self.socket()?.try_clone_to_owned()
    }

    /// The error that the stream holds, of a connect that failed or later. It is taken out.
    pub(crate) fn take_error(&self) -> io::Result<()> {
        match &self.0 {
            StreamKind::Socket(fd) => sys::take_error(fd.as_fd()),
            #[cfg(all(test, not(loom)))]
            StreamKind::Memory(end) => end.take_error(),
        }
    }

    /// The address of this end.
    ///
    /// # Errors
    /// The system's.
    pub fn local_address(&self) -> io::Result<Address> {
        sys::local_address(self.socket()?)
    }

    pub(crate) fn peer_credentials(&self) -> io::Result<Credentials> {
        let (process, user, group) = sys::peer_credentials(self.socket()?)?;
        Ok(Credentials { process, user, group })
    }

    pub(crate) fn set_keepalive(&self, keepalive: Option<Keepalive>) -> io::Result<()> {
        keepalive::set(self.socket()?, keepalive)
    }

    pub(crate) fn set_user_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        keepalive::set_user_timeout(self.socket()?, timeout)
    }

    pub(crate) fn tcp_info(&self) -> io::Result<TcpInfo> {
        tcp_info::tcp_info(self.socket()?)
    }

    fn receive(&self, into: &mut [u8]) -> io::Result<usize> {
        match &self.0 {
            StreamKind::Socket(fd) => sys::receive(fd.as_fd(), &mut [io::IoSliceMut::new(into)]),
            #[cfg(all(test, not(loom)))]
            StreamKind::Memory(end) => end.take(into),
        }
    }

    /// The descriptor, for what only a socket has.
    #[cfg_attr(
        not(all(test, not(loom))),
        expect(clippy::unnecessary_wraps, reason = "a stream in memory has none")
    )]
    fn socket(&self) -> io::Result<BorrowedFd<'_>> {
        match &self.0 {
            StreamKind::Socket(fd) => Ok(fd.as_fd()),
            #[cfg(all(test, not(loom)))]
            StreamKind::Memory(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

/// Whether a stream arrives in pieces from its first byte on, by the address of either end. On a
/// Unix socket a receive stops where descriptors or credentials were sent along, though more bytes
/// stand behind them.
pub(crate) fn arrives_in_pieces(address: &Address) -> bool {
    address.is_unix()
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "every send goes here; a call costs it 20 instructions")]
fn push_to(to: BorrowedFd<'_>, output: &LinkBuffer) -> io::Result<Pushed> {
    let first = output.chunk();
    if first.len() < output.len() {
        return push_several(to, output);
    }
    let taken = sys::send_one(to, first)?;
    Ok(Pushed { taken, wants: taken == first.len() })
}

fn push_several(to: BorrowedFd<'_>, output: &LinkBuffer) -> io::Result<Pushed> {
    let mut slices = [io::IoSlice::new(&[]); sys::MAX_SLICES];
    let count = output.gather(&mut slices);
    let offered: usize = slices[..count].iter().map(|slice| slice.len()).sum();
    let taken = sys::send(to, &slices[..count])?;
    Ok(Pushed { taken, wants: taken == offered })
}

/// The stream of a connected socket that was opened elsewhere.
impl From<OwnedFd> for Stream {
    fn from(fd: OwnedFd) -> Self {
        Self::new(fd)
    }
}

/// For the user's own options, and for the driver of sockets.
impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.0 {
            StreamKind::Socket(fd) => fd.as_fd(),
            #[cfg(all(test, not(loom)))]
            StreamKind::Memory(_) => panic!("a stream in memory has no descriptor"),
        }
    }
}
