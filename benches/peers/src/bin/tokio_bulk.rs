//! tokio: bytes in one direction, and back; a task per connection.
//!
//! `--serve sink` counts uploads, `source` sends downloads, `echo` copies with `tokio::io::copy`.
//! The runtime is that of `tokio_echo`. Each connection of a sink has a buffer of 64 KiB.

use std::io;

use netpoll_peers::{Arguments, SHARED_BUFFER, piece};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;

#[derive(Clone, Copy)]
enum Serve {
    Sink,
    Source,
    Echo,
}

fn main() -> io::Result<()> {
    let arguments = Arguments::read(&["--runtime", "--serve"]);
    let serves = [("sink", Serve::Sink), ("source", Serve::Source), ("echo", Serve::Echo)];
    let serve = arguments.choice("--serve", &serves);
    let multi = arguments.choice("--runtime", &[("multi", true), ("current", false)]);
    let mut builder =
        if multi { Builder::new_multi_thread() } else { Builder::new_current_thread() };
    let runtime = builder.worker_threads(arguments.threads).enable_io().build()?;
    runtime.block_on(accept(arguments.listen(), serve))
}

async fn accept(listener: std::net::TcpListener, serve: Serve) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        match serve {
            Serve::Sink => drop(tokio::spawn(sink(stream))),
            Serve::Source => drop(tokio::spawn(source(stream))),
            Serve::Echo => drop(tokio::spawn(echo(stream))),
        }
    }
}

/// Counts what comes, and answers with the count at the end.
async fn sink(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; SHARED_BUFFER];
    let mut count: u64 = 0;
    loop {
        let length = stream.read(&mut buffer).await?;
        if length == 0 {
            return stream.write_all(&count.to_be_bytes()).await;
        }
        count += length as u64;
    }
}

/// Sends pieces of the size that the peer asks for, until it closes.
async fn source(mut stream: TcpStream) -> io::Result<()> {
    let piece = piece(stream.read_u32().await?);
    loop {
        stream.write_all(&piece).await?;
    }
}

async fn echo(mut stream: TcpStream) -> io::Result<u64> {
    let (mut from, mut to) = stream.split();
    copy(&mut from, &mut to).await
}
