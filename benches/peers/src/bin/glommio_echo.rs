//! glommio: an executor on `io_uring` per thread, a task per connection.

use std::io;
use std::net::SocketAddr;

use futures_lite::{AsyncReadExt, AsyncWriteExt};
use glommio::net::{TcpListener, TcpStream};
use glommio::{LocalExecutorPoolBuilder, PoolPlacement, spawn_local};
use netpoll_peers::{Arguments, OWN_BUFFER};

fn main() {
    let arguments = Arguments::read(&[]);
    let (_kept, address) = arguments.reserve();
    let placement = PoolPlacement::Unbound(arguments.threads);
    let executors = LocalExecutorPoolBuilder::new(placement);
    let executors = executors.on_all_shards(move || serve(address)).expect("io_uring works here");
    for ended in executors.join_all() {
        ended.expect("an executor does not panic").expect("it accepts for ever");
    }
}

async fn serve(address: SocketAddr) -> glommio::Result<(), ()> {
    let listener = TcpListener::bind(address)?;
    // Several say the same.
    println!("listening on {address}");
    loop {
        let stream = listener.accept().await?;
        spawn_local(echo(stream)).detach();
    }
}

/// Ends with the connection, whichever way that ends.
async fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; OWN_BUFFER];
    loop {
        let length = stream.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..length]).await?;
    }
}
