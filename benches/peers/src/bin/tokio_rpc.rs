//! tokio and tokio-util: frames behind their length are sent back; a task per connection.

use std::io;

use bytes::BytesMut;
use futures_util::{StreamExt, TryStreamExt};
use netpoll_peers::Arguments;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio_util::codec::{Framed, LengthDelimitedCodec};

fn main() -> io::Result<()> {
    let arguments = Arguments::read(&["--runtime"]);
    let multi = arguments.choice("--runtime", &[("multi", true), ("current", false)]);
    let mut builder =
        if multi { Builder::new_multi_thread() } else { Builder::new_current_thread() };
    let runtime = builder.worker_threads(arguments.threads).enable_io().build()?;
    runtime.block_on(serve(arguments.listen()))
}

async fn serve(listener: std::net::TcpListener) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(answer(stream));
    }
}

/// Ends with the connection, whichever way that ends. Frames that have come together are answered
/// with one write.
async fn answer(stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (answers, requests) = Framed::new(stream, LengthDelimitedCodec::new()).split();
    requests.map_ok(BytesMut::freeze).forward(answers).await
}
