//! A connection as hyper reads and writes it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::rt::{Read, ReadBufCursor, Write};
use netpoll_async::AsyncConnection;

/// An [`AsyncConnection`] as hyper reads and writes it.
///
/// Bytes are copied once each way: from the block that received them to hyper's buffer, and from
/// hyper's buffers to the block that is sent. A flush inside a poll sends at once.
///
/// A handler that has upgraded a connection gets it back by
/// [`Upgraded::downcast`](hyper::upgrade::Upgraded::downcast).
#[derive(Debug)]
pub struct NetpollIo(AsyncConnection);

impl NetpollIo {
    /// Wraps a connection.
    pub fn new(connection: AsyncConnection) -> Self {
        Self(connection)
    }

    /// The connection.
    pub fn into_inner(self) -> AsyncConnection {
        self.0
    }

    /// The connection, which hyper goes on to read and write.
    pub fn connection(&self) -> &AsyncConnection {
        &self.0
    }
}

impl Read for NetpollIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut out: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let bytes = ready!(self.0.poll_fill_buf(context))?;
        let taken = bytes.len().min(out.remaining());
        out.put_slice(&bytes[..taken]);
        self.0.consume(taken);
        Poll::Ready(Ok(()))
    }
}

impl Write for NetpollIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.poll_write(context, bytes).map_err(io::Error::from)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.poll_write_vectored(context, pieces).map_err(io::Error::from)
    }

    /// So hyper leaves a head and its body in two pieces, and does not join them by a copy.
    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_flush(context).map_err(io::Error::from)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_shutdown(context).map_err(io::Error::from)
    }
}
