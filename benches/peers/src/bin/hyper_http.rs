//! hyper, after its examples `hello` and `send_file`: `/plaintext`, and the files below `--files`.

use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::TryStreamExt;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use netpoll_peers::Arguments;
use tokio::fs::File;
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio_util::io::ReaderStream;

type Body = BoxBody<Bytes, io::Error>;

fn main() -> io::Result<()> {
    let arguments = Arguments::read(&["--files"]);
    let files = Arc::new(PathBuf::from(arguments.option("--files").unwrap_or(".")));
    let runtime =
        Builder::new_multi_thread().worker_threads(arguments.threads).enable_all().build()?;
    runtime.block_on(serve(arguments.listen(), files))
}

async fn serve(listener: std::net::TcpListener, files: Arc<PathBuf>) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let files = files.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(request, files.clone()));
            // Pipelined requests are answered with one write.
            let mut http = http1::Builder::new();
            http.pipeline_flush(true).serve_connection(TokioIo::new(stream), service).await
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    files: Arc<PathBuf>,
) -> Result<Response<Body>, Infallible> {
    if request.uri().path() == "/plaintext" {
        return Ok(Response::new(text("Hello, World!")));
    }
    let found = file(&files, request.uri().path()).await;
    Ok(found.unwrap_or_else(|_| {
        let mut missing = Response::new(text("Not Found"));
        *missing.status_mut() = StatusCode::NOT_FOUND;
        missing
    }))
}

fn text(words: &'static str) -> Body {
    Full::new(Bytes::from_static(words.as_bytes())).map_err(|never| match never {}).boxed()
}

async fn file(files: &Path, path: &str) -> io::Result<Response<Body>> {
    let file = File::open(files.join(path.trim_start_matches('/'))).await?;
    Ok(Response::new(StreamBody::new(ReaderStream::new(file).map_ok(Frame::data)).boxed()))
}
