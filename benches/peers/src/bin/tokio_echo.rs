//! tokio, after its README: a task per connection.
//!
//! `--runtime multi` has a scheduler over `THREADS`, `--runtime current` stays on one thread. With
//! `--driver eager` a worker passes the driver on before it runs a task, which only a build with
//! `--cfg tokio_unstable` can. The
//! handler that may block does so in one of three ways: `naive` blocks the task's thread,
//! `block_in_place` is for programs that know which requests will block, and `spawn_blocking`, for
//! every request, is for programs that do not.

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

#[derive(Clone, Copy)]
struct Server {
    way: Way,
    blocking: Blocking,
    /// Bytes of each connection's buffer.
    buffer: usize,
}

fn main() -> io::Result<()> {
    let [block_us, block_pct] = Blocking::OPTIONS;
    let ways = ["--runtime", "--blocking", "--buffer", "--driver"];
    let known = [&ways[..], &[block_us, block_pct, Blocking::WAY]].concat();
    let arguments = Arguments::read(&known);
    let ways = [
        ("naive", Way::Naive),
        ("block_in_place", Way::BlockInPlace),
        ("spawn_blocking", Way::SpawnBlocking),
    ];
    let server = Server {
        way: arguments.choice("--blocking", &ways),
        blocking: Blocking::of(&arguments),
        buffer: arguments.number("--buffer", OWN_BUFFER),
    };
    let multi = arguments.choice("--runtime", &[("multi", true), ("current", false)]);
    let mut builder =
        if multi { Builder::new_multi_thread() } else { Builder::new_current_thread() };
    if arguments.choice("--driver", &[("usual", false), ("eager", true)]) {
        pass_on_eagerly(&mut builder);
    }
    let runtime = builder.worker_threads(arguments.threads).enable_io().build()?;
    runtime.block_on(server.serve(arguments.listen()))
}

#[cfg(tokio_unstable)]
fn pass_on_eagerly(builder: &mut Builder) {
    builder.enable_eager_driver_handoff();
}

#[cfg(not(tokio_unstable))]
fn pass_on_eagerly(_: &mut Builder) {
    eprintln!("--driver eager needs a build with --cfg tokio_unstable");
    std::process::exit(2);
}

impl Server {
    async fn serve(self, listener: std::net::TcpListener) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            tokio::spawn(self.for_connection().echo(stream));
        }
    }

    fn for_connection(self) -> Self {
        Self { blocking: self.blocking.for_connection(), ..self }
    }

    /// Ends with the connection, whichever way that ends.
    async fn echo(self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut buffer = vec![0; self.buffer];
        loop {
            let length = stream.read(&mut buffer).await?;
            if length == 0 {
                return Ok(());
            }
            self.handle().await;
            stream.write_all(&buffer[..length]).await?;
        }
    }

    async fn handle(self) {
        let blocking = self.blocking;
        match self.way {
            Way::Naive => blocking.block_if_due(),
            Way::BlockInPlace if blocking.is_due() => task::block_in_place(|| blocking.block()),
            Way::BlockInPlace => {}
            Way::SpawnBlocking => {
                let elsewhere = task::spawn_blocking(move || blocking.block_if_due());
                elsewhere.await.expect("it does not panic");
            }
        }
    }
}
