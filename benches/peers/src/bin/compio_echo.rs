//! compio: a runtime on `io_uring` per thread, a task per connection.

use std::io;
use std::net::TcpListener;
use std::thread;

use compio::BufResult;
use compio::io::{AsyncRead, AsyncWriteExt};
use compio::net::TcpStream;
use compio::runtime::{Runtime, spawn};
use netpoll_peers::{Arguments, OWN_BUFFER};

fn main() {
    let listeners = Arguments::read(&[]).listen_on_each().into_iter();
    let threads = listeners.map(|listener| {
        thread::spawn(move || {
            Runtime::new().expect("io_uring works here").block_on(serve(listener))
        })
    });
    for thread in threads.collect::<Vec<_>>() {
        thread.join().expect("a runtime does not panic").expect("it accepts for ever");
    }
}

async fn serve(listener: TcpListener) -> io::Result<()> {
    let listener = compio::net::TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        spawn(echo(stream)).detach();
    }
}

/// Ends with the connection, whichever way that ends.
async fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::with_capacity(OWN_BUFFER);
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
