//! tokio-tungstenite, after its example `echo-server`: a task per connection.

use std::error::Error;
use std::io;

use futures_util::{StreamExt, TryStreamExt, future};
use netpoll_peers::Arguments;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio_tungstenite::accept_async;

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
        tokio::spawn(echo(stream));
    }
}

/// Ends with the connection, whichever way that ends.
async fn echo(stream: TcpStream) -> Result<(), Box<dyn Error + Send + Sync>> {
    stream.set_nodelay(true)?;
    let (write, read) = accept_async(stream).await?.split();
    let messages = read.try_filter(|message| {
        future::ready(message.is_text() || message.is_binary()) // the crate answers the others
    });
    Ok(messages.forward(write).await?)
}
