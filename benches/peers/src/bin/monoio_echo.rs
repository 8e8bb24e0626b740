//! monoio, after its README: a runtime per thread, a task per connection, `--driver uring|epoll`.
//!
//! The ring has 4 096 entries and each connection a buffer of 64 KiB, unless `--entries` and
//! `--buffer` say something else.

use std::future::Future;
use std::io;
use std::net::TcpListener;
use std::thread;

use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use monoio::net::TcpStream;
use monoio::{IoUringDriver, LegacyDriver, RuntimeBuilder};
use netpoll_peers::{Arguments, SHARED_BUFFER};

/// Entries of the ring: a burst of as many connections is one system call.
const ENTRIES: usize = 4096;

fn main() {
    let arguments = Arguments::read(&["--driver", "--entries", "--buffer"]);
    let buffer = arguments.number("--buffer", SHARED_BUFFER);
    let entries = arguments.number("--entries", ENTRIES) as u32;
    let uring = arguments.choice("--driver", &[("uring", true), ("epoll", false)]);
    let listeners = arguments.listen_on_each().into_iter();
    let threads = listeners.map(|listener| {
        thread::spawn(move || {
            let serving = serve(listener, buffer);
            if uring { on_uring(entries, serving) } else { on_epoll(serving) }
        })
    });
    for thread in threads.collect::<Vec<_>>() {
        thread.join().expect("a runtime does not panic").expect("it accepts for ever");
    }
}

fn on_uring<F: Future>(entries: u32, serving: F) -> F::Output {
    let runtime = RuntimeBuilder::<IoUringDriver>::new().with_entries(entries).build();
    runtime.expect("io_uring works here").block_on(serving)
}

fn on_epoll<F: Future>(serving: F) -> F::Output {
    RuntimeBuilder::<LegacyDriver>::new().build().expect("epoll works everywhere").block_on(serving)
}

async fn serve(listener: TcpListener, buffer: usize) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = monoio::net::TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        monoio::spawn(echo(stream, buffer));
    }
}

/// Ends with the connection, whichever way that ends.
async fn echo(mut stream: TcpStream, size: usize) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::with_capacity(size);
    loop {
        let (length, received) = stream.read(buffer).await;
        if length? == 0 {
            return Ok(());
        }
        let (sent, used) = stream.write_all(received).await;
        sent?;
        buffer = used;
        buffer.clear();
    }
}
