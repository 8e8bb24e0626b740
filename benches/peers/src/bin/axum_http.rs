//! axum, after its examples: `/plaintext`, the files below `--files` by tower-http, and `/` as a
//! WebSocket that sends back what it gets.

use std::io;

use axum::Router;
use axum::extract::ws::{WebSocket, WebSocketUpgrade};
use axum::routing::{any, get};
use axum::serve::ListenerExt;
use netpoll_peers::Arguments;
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tower_http::services::ServeDir;

fn main() -> io::Result<()> {
    let arguments = Arguments::read(&["--files"]);
    let files = ServeDir::new(arguments.option("--files").unwrap_or("."));
    let routes = Router::new()
        .route("/plaintext", get(|| async { "Hello, World!" }))
        .route("/", any(|upgrade: WebSocketUpgrade| async { upgrade.on_upgrade(echo) }))
        .fallback_service(files);
    let runtime =
        Builder::new_multi_thread().worker_threads(arguments.threads).enable_all().build()?;
    runtime.block_on(serve(arguments.listen(), routes))
}

async fn serve(listener: std::net::TcpListener, routes: Router) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?.tap_io(|stream| {
        let _ = stream.set_nodelay(true);
    });
    axum::serve(listener, routes).await
}

/// Ends with the connection, whichever way that ends.
async fn echo(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        if socket.send(message).await.is_err() {
            return;
        }
    }
}
