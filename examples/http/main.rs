//! A web server: HTTP/1.1 with keep-alive and pipelining, one constant text and the files of a
//! directory.
//!
//! Shows how a protocol of requests and answers is served: all requests of one look at the input
//! are answered with one flush, a large file goes out piece by piece as its client reads, and the
//! dispatch mode follows from what callbacks do.
//!
//! Its limits: a head of 8 KiB, no bodies, 10 s to the first byte, 64 bytes in 5 s of a head that
//! has begun, 60 s without a byte either way, 64 KiB of input and some 1 MiB of output for each of
//! 4 096 clients. What parsers could read in two ways is refused (`request.rs`).
//!
//! ```text
//! cargo run --release --example http -- [ADDRESS [DIRECTORY]]
//! curl -i http://127.0.0.1:7080/plaintext
//! wrk -c 64 -d 5 http://127.0.0.1:7080/plaintext
//! ```

mod answer;
mod files;
mod grammar;
mod request;
mod session;

use std::process::ExitCode;
use std::time::Duration;

use files::Files;
use netpoll::{Connection, Dispatch, EventLoop, HandOffOptions, Listener, ReceiveRate, Result};
use session::Session;

fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let address = args.next().unwrap_or_else(|| "127.0.0.1:7080".into());
    let files = Files::below(args.next())?;
    // A disk may keep a callback waiting; the constant text never does.
    let dispatch = if files.is_empty() {
        Dispatch::Inline
    } else {
        Dispatch::HandOff(HandOffOptions::default())
    };
    let listener = Listener::bind("tcp", &address)?;
    println!("listening on {}", listener.local_addr()?);
    EventLoop::builder()
        .on_prepare(|_: &Connection| Ok(Session::default()))
        .on_request(move |session: &mut Session, conn: &mut Connection| session.serve(&files, conn))
        .dispatch(dispatch)
        .first_byte_timeout(Duration::from_secs(10))
        .idle_timeout(Duration::from_secs(60))
        .min_receive_rate(ReceiveRate { bytes: 64, per: Duration::from_secs(5) })
        .input_limit(64 << 10)
        .max_connections(4096)
        .build()?
        .serve(listener)?;
    Ok(())
}
