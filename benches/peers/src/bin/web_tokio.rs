//! hyper and axum on tokio, after their examples: `--stack hyper|axum`, `--http 1|2`, `--runtime
//! current|multi`. `--percent` of the requests of `/block` sleep, and `--blocking` says where:
//! `naive` in the handler, `spawn` in `spawn_blocking`, `in-place` in `block_in_place`.

use std::io;
use std::sync::Arc;

use axum::serve::ListenerExt;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use netpoll_peers::Arguments;
use netpoll_peers::web::{Blocking, Naive, Site};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};

const OPTIONS: [&str; 6] =
    ["--stack", "--http", "--runtime", "--percent", "--blocking", "--database"];

fn main() -> io::Result<()> {
    let arguments = Arguments::read(&OPTIONS);
    match arguments.option("--blocking") {
        None | Some("naive") => serve(&arguments, Naive),
        Some("spawn") => serve(&arguments, SpawnBlocking),
        _ => serve(&arguments, InPlace),
    }
}

fn serve(arguments: &Arguments, blocking: impl Blocking) -> io::Result<()> {
    let database = arguments.option("--database").unwrap_or("/tmp/web-tokio.sqlite");
    let site = Site::new(blocking, arguments.number("--percent", 0), database.as_ref());
    let listener = arguments.listen();
    listener.set_nonblocking(true)?;
    runtime(arguments)?.block_on(async {
        let listener = TcpListener::from_std(listener)?;
        match arguments.choice("--stack", &[("hyper", false), ("axum", true)]) {
            true => {
                let listener = listener.tap_io(|stream| stream.set_nodelay(true).unwrap_or(()));
                axum::serve(listener, site.router()).await
            }
            false => by_hyper(listener, arguments.number("--http", 1), site).await,
        }
    })
}

fn runtime(arguments: &Arguments) -> io::Result<Runtime> {
    let mut builder = match arguments.choice("--runtime", &[("multi", true), ("current", false)]) {
        true => Builder::new_multi_thread(),
        false => Builder::new_current_thread(),
    };
    builder.worker_threads(arguments.threads).enable_all().build()
}

async fn by_hyper<B: Blocking>(
    listener: TcpListener,
    version: usize,
    site: Arc<Site<B>>,
) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(connection(stream, version, site.clone()));
    }
}

async fn connection<B: Blocking>(stream: TcpStream, version: usize, site: Arc<Site<B>>) {
    let stream = TokioIo::new(stream);
    let service = service_fn(move |request| site.clone().answer(request));
    let _ = match version {
        1 => http1::Builder::new().timer(TokioTimer::new()).serve_connection(stream, service).await,
        _ => http2::Builder::new(TokioExecutor::new()).serve_connection(stream, service).await,
    };
}

#[derive(Clone)]
struct SpawnBlocking;

impl Blocking for SpawnBlocking {
    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        tokio::task::spawn_blocking(work).await.expect("no work panics")
    }
}

#[derive(Clone)]
struct InPlace;

impl Blocking for InPlace {
    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        tokio::task::block_in_place(work)
    }
}
