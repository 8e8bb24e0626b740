//! smol: a task per connection, on an executor that `THREADS` threads run.

use std::io;
use std::sync::Arc;
use std::thread;

use netpoll_peers::{Arguments, OWN_BUFFER};
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::{Async, Executor, future};

type Stream = Async<std::net::TcpStream>;

fn main() -> io::Result<()> {
    let arguments = Arguments::read(&[]);
    let listener = Async::new(arguments.listen())?;
    let executor = Arc::new(Executor::new());
    for _ in 1..arguments.threads {
        let executor = executor.clone();
        thread::spawn(move || smol::block_on(executor.run(future::pending::<()>())));
    }
    smol::block_on(executor.run(serve(&executor, listener)))
}

async fn serve(
    executor: &Executor<'static>,
    listener: Async<std::net::TcpListener>,
) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        executor.spawn(echo(stream)).detach();
    }
}

/// Ends with the connection, whichever way that ends.
async fn echo(mut stream: Stream) -> io::Result<()> {
    stream.get_ref().set_nodelay(true)?;
    let mut buffer = vec![0; OWN_BUFFER];
    loop {
        let length = stream.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..length]).await?;
    }
}
