//! compio: a runtime on `io_uring` per thread, a task per connection.
//!
//! The ring has 4 096 entries and each connection a buffer of 64 KiB, unless `--entries` and
//! `--buffer` say something else.

use std::io;
use std::net::TcpListener;
use std::thread;

use compio::BufResult;
use compio::driver::ProactorBuilder;
use compio::io::{AsyncRead, AsyncWriteExt};
use compio::net::TcpStream;
use compio::runtime::{RuntimeBuilder, spawn};
use netpoll_peers::{Arguments, SHARED_BUFFER};

/// Entries of the ring: a burst of as many connections is one system call.
const ENTRIES: usize = 4096;

fn main() {
    let arguments = Arguments::read(&["--entries", "--buffer"]);
    let buffer = arguments.number("--buffer", SHARED_BUFFER);
    let entries = arguments.number("--entries", ENTRIES) as u32;
    let listeners = arguments.listen_on_each().into_iter();
    let threads = listeners.map(|listener| {
        thread::spawn(move || {
            let mut ring = ProactorBuilder::new();
            ring.capacity(entries);
            let runtime = RuntimeBuilder::new().with_proactor(ring).build();
            runtime.expect("io_uring works here").block_on(serve(listener, buffer))
        })
    });
    for thread in threads.collect::<Vec<_>>() {
        thread.join().expect("a runtime does not panic").expect("it accepts for ever");
    }
}

async fn serve(listener: TcpListener, buffer: usize) -> io::Result<()> {
    let listener = compio::net::TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        spawn(echo(stream, buffer)).detach();
    }
}

/// Ends with the connection, whichever way that ends.
async fn echo(mut stream: TcpStream, size: usize) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::with_capacity(size);
    loop {
        let BufResult(length, received) = stream.read(buffer).await;
        if length? == 0 {
            return Ok(());
        }
        let BufResult(sent, used) = stream.write_all(received).await;
        sent?;
        buffer = used;
        buffer.clear();
    }
}
