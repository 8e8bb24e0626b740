//! A web application on axum: items in SQLite, a page, its live events, and a WebSocket.
//!
//! Shows that an axum `Router` is served by one line, that handlers may block, as those here do in
//! SQLite and in files, and a shutdown that lets answers end.
//!
//! Its limits: 10 s for the head of a request, 1 MiB of a body, 30 s without progress of an output,
//! 4 096 clients.
//!
//! ```text
//! cd examples/futures
//! cargo run --release --bin axum_app -- [ADDRESS [DATABASE [DIRECTORY]]]
//! curl -d '{"name":"tea"}' -H 'content-type: application/json' http://127.0.0.1:7030/items
//! curl http://127.0.0.1:7030/items/1
//! curl -N http://127.0.0.1:7030/events
//! ```

mod files;
mod items;
mod live;

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::get;
use netpoll::Listener;
use netpoll_hyper::Http;
use nix::sys::signal::{SigSet, Signal};

use crate::files::Files;
use crate::items::Items;

fn main() -> Result<(), Box<dyn Error>> {
    // Before any thread starts, so that only the wait below gets them.
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
    signals.thread_block()?;

    let mut args = std::env::args().skip(1);
    let address = args.next().unwrap_or_else(|| "127.0.0.1:7030".into());
    let items = Items::open(args.next().unwrap_or_else(|| "/tmp/axum-app.sqlite".into()))?;
    let files = Files::below(args.next().unwrap_or_else(|| ".".into()))?;

    let app = Router::new()
        .route("/items", get(items::list).post(items::add))
        .route("/items/{id}", get(items::one).delete(items::remove))
        .with_state(Arc::new(items))
        .route("/events", get(live::events))
        .route("/echo", get(live::echo))
        .route("/files/{*path}", get(files::send).with_state(Arc::new(files)))
        .layer(DefaultBodyLimit::max(1 << 20));

    let server = Http::new()
        .header_read_timeout(Duration::from_secs(10))
        .event_loop(app)
        .write_timeout(Duration::from_secs(30))
        .max_connections(4096)
        .build()?
        .spawn(Listener::bind("tcp", &address)?)?;
    println!("listening on {}", server.address());

    let signal = signals.wait()?;
    println!("{signal}: answers end within 10 s");
    server.shutdown(Duration::from_secs(10));
    let report = server.wait()?;
    println!("{} connections closed in order, {} aborted", report.closed_in_order, report.aborted);
    Ok(())
}
