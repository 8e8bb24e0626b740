//! monoio, after its README: a runtime per thread, a task per connection, `--driver uring|epoll`.

use std::future::Future;
use std::io;
use std::net::TcpListener;
use std::thread;

use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use monoio::net::TcpStream;
use monoio::{IoUringDriver, LegacyDriver, RuntimeBuilder};
use netpoll_peers::{Arguments, OWN_BUFFER};

fn main() {
    let arguments = Arguments::read(&["--driver"]);
    let uring = arguments.choice("--driver", &[("uring", true), ("epoll", false)]);
    let listeners = arguments.listen_on_each().into_iter();
    let threads = listeners.map(|listener| {
        thread::spawn(
            move || if uring { on_uring(serve(listener)) } else { on_epoll(serve(listener)) },
        )
    });
    for thread in threads.collect::<Vec<_>>() {
        thread.join().expect("a runtime does not panic").expect("it accepts for ever");
    }
}

fn on_uring<F: Future>(serving: F) -> F::Output {
    RuntimeBuilder::<IoUringDriver>::new().build().expect("io_uring works here").block_on(serving)
}

fn on_epoll<F: Future>(serving: F) -> F::Output {
    RuntimeBuilder::<LegacyDriver>::new().build().expect("epoll works everywhere").block_on(serving)
}

async fn serve(listener: TcpListener) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = monoio::net::TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        monoio::spawn(echo(stream));
    }
}

/// Ends with the connection, whichever way that ends.
async fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::with_capacity(OWN_BUFFER);
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
