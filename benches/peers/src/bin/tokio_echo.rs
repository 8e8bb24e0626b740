//! tokio, after its README: a task per connection.
//!
//! `--runtime multi` has a scheduler over `THREADS`, `--runtime current` stays on one thread. The
//! handler that may block does so in one of three ways: `naive` is what happens to who does not
//! know, `block_in_place` is for who knows which requests will block, and `spawn_blocking`, for
//! every request, is for who does not.

use std::future::Future;
use std::io;

use netpoll_peers::{Arguments, Blocking, OWN_BUFFER};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::task;

#[derive(Clone, Copy)]
enum Way {
    Naive,
    BlockInPlace,
    SpawnBlocking,
}

fn main() -> io::Result<()> {
    let [block_us, block_pct] = Blocking::OPTIONS;
    let arguments = Arguments::read(&["--runtime", "--blocking", block_us, block_pct]);
    let ways = [
        ("naive", Way::Naive),
        ("block_in_place", Way::BlockInPlace),
        ("spawn_blocking", Way::SpawnBlocking),
    ];
    let way = arguments.choice("--blocking", &ways);
    let serving = serve(arguments.listen(), Blocking::of(&arguments), way);
    let multi = arguments.choice("--runtime", &[("multi", true), ("current", false)]);
    let mut builder =
        if multi { Builder::new_multi_thread() } else { Builder::new_current_thread() };
    builder.worker_threads(arguments.threads).enable_io().build()?.block_on(serving)
}

async fn serve(listener: std::net::TcpListener, blocking: Blocking, way: Way) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        match way {
            Way::Naive => spawn(stream, move || async move { blocking.block_if_due() }),
            Way::BlockInPlace => spawn(stream, move || in_place(blocking)),
            Way::SpawnBlocking => spawn(stream, move || elsewhere(blocking)),
        }
    }
}

async fn in_place(blocking: Blocking) {
    if blocking.is_due() {
        task::block_in_place(|| blocking.block());
    }
}

async fn elsewhere(blocking: Blocking) {
    task::spawn_blocking(move || blocking.block_if_due()).await.expect("it does not panic");
}

fn spawn<H, F>(stream: TcpStream, handle: H)
where
    H: Fn() -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    tokio::spawn(echo(stream, handle));
}

/// Ends with the connection, whichever way that ends.
async fn echo<F: Future>(mut stream: TcpStream, handle: impl Fn() -> F) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; OWN_BUFFER];
    loop {
        let length = stream.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        handle().await;
        stream.write_all(&buffer[..length]).await?;
    }
}
