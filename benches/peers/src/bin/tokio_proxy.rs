//! tokio, after its example `proxy`: bytes go both ways between a client and `--origin`.

use std::io;
use std::net::SocketAddr;

use netpoll_peers::Arguments;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;

fn main() -> io::Result<()> {
    let arguments = Arguments::read(&["--runtime", "--origin"]);
    let origin = arguments.option("--origin").unwrap_or_default().parse();
    let origin = origin.expect("--origin is an address, HOST:PORT");
    let multi = arguments.choice("--runtime", &[("multi", true), ("current", false)]);
    let mut builder =
        if multi { Builder::new_multi_thread() } else { Builder::new_current_thread() };
    let runtime = builder.worker_threads(arguments.threads).enable_io().build()?;
    runtime.block_on(serve(arguments.listen(), origin))
}

async fn serve(listener: std::net::TcpListener, origin: SocketAddr) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(relay(stream, origin));
    }
}

/// Ends with the connection, whichever way that ends.
async fn relay(mut client: TcpStream, origin: SocketAddr) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut server = TcpStream::connect(origin).await?;
    server.set_nodelay(true)?;
    copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}
