//! A server whose connections are served by futures.

use std::error;

use netpoll_server::{EventLoop, EventLoopBuilder};

use crate::connection::AsyncConnection;
use crate::session::{AsyncSession, callbacks};

/// A builder of an event loop that serves each connection by a future of its own, which `serve`
/// makes.
///
/// The future is polled where callbacks run, by any thread of the dispatch mode, one at a time. So
/// **it may block**: under `Dispatch::HandOff` another thread goes on with the loop meanwhile, and
/// under `Dispatch::Pool` it runs on a worker. Under `Dispatch::Inline` it must not. A wake costs
/// one change of a word, and a system call only if the loop sleeps; several wakes before a poll are
/// one. The future takes one allocation for each connection.
///
/// - **It returns**: the connection closes in order, unless the stream object lives on elsewhere,
///   with [`CloseReason::Peer`] where all of the peer's stream was read. An error closes it with
///   that reason, and drops what was written in that poll and not flushed.
/// - **It panics**: the connection ends with [`CloseReason::Panic`], and nothing else does.
/// - **The connection ends under it**, by a reset, a timeout, [`Handle::close`] or the deadline of
///   a shutdown: all reads and writes fail, and the future is polled a last time, so that it sees
///   that; if it is pending then, it is dropped.
/// - **A shutdown begins**: see [`AsyncConnection::shutting_down`].
/// - **The peer ends its stream**: a read tells of that, and the future decides what follows.
///
/// While the future waits for something else than bytes of its peer, the connection is not idle.
/// While it reads, the timeouts of the limits apply as to callbacks; a protocol that reads while it
/// makes an answer takes a [`Hold`](netpoll_core::Hold) for that time.
///
/// The options are those of every event loop. Its callbacks are taken: setting one replaces a part
/// of what serves the future.
///
/// ```
/// use std::io::{Read, Write};
/// use netpoll_async::{AsyncConnection, serve_async};
///
/// async fn echo(mut conn: AsyncConnection) -> netpoll_core::Result<()> {
///     while let Some(bytes) = conn.read_bytes().await? {
///         conn.write_bytes(bytes).await?;
///     }
///     Ok(())
/// }
///
/// let event_loop = serve_async(echo).loops(1).build()?;
/// let server = event_loop.spawn(netpoll_server::Listener::bind("tcp", "127.0.0.1:0")?)?;
///
/// let mut client = std::net::TcpStream::connect(server.address().to_string())?;
/// client.write_all(b"hello")?;
/// client.shutdown(std::net::Shutdown::Write)?;
/// let mut heard = String::new();
/// client.read_to_string(&mut heard)?;
/// assert_eq!(heard, "hello");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// [`CloseReason::Peer`]: netpoll_core::CloseReason::Peer
/// [`CloseReason::Panic`]: netpoll_core::CloseReason::Panic
/// [`Handle::close`]: netpoll_core::Handle::close
pub fn serve_async<F, Fut, E>(serve: F) -> EventLoopBuilder<AsyncSession>
where
    F: Fn(AsyncConnection) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), E>> + Send + 'static,
    E: Into<Box<dyn error::Error + Send + Sync>>,
{
    EventLoop::builder().callbacks(callbacks(move |connection| Box::pin(serve(connection))))
}
