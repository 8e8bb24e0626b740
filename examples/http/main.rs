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

use std::fs::File;
use std::io::Read;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use files::Files;
use netpoll::{Connection, Dispatch, EventLoop, HandOffOptions, Listener, ReceiveRate, Result};

/// How much one callback writes, in bytes. The next one comes when the client has read.
const PIECE: usize = 256 << 10;
/// How long a client may go on sending behind its last request. A socket that is closed earlier
/// resets, and the client may lose the answer that it has not read yet.
const FAREWELL: Duration = Duration::from_secs(2);

/// A connection, between two callbacks.
#[derive(Default)]
struct Session {
    /// A file on its way, and how many bytes of it are still to come.
    sending: Option<(File, u64)>,
    /// No further request is answered.
    last: bool,
}

impl Session {
    fn serve(&mut self, files: &Files, conn: &mut Connection) -> Result<()> {
        let (mut reader, mut writer) = conn.split();
        if self.is_over() {
            return reader.try_skip(reader.len());
        }
        while !self.is_over() && writer.malloc_len() < PIECE {
            if let Some((file, left)) = &mut self.sending {
                let piece = usize::try_from(*left).map_or(PIECE, |left| left.min(PIECE));
                // Its length is promised, so a file that has shrunk ends the connection.
                file.read_exact(writer.malloc(piece))?;
                *left -= piece as u64;
                self.sending.take_if(|(_, left)| *left == 0);
                continue;
            }
            let window = reader.len().min(2 * request::HEAD_MAX);
            let answered = answer::all(reader.try_peek(window)?, files, writer.buf());
            reader.try_skip(answered.used)?;
            (self.sending, self.last) = (answered.file, answered.last);
            if answered.used == 0 && !self.last {
                return Ok(());
            }
        }
        if self.is_over() {
            conn.shutdown_write();
            conn.close_at(Some(Instant::now() + FAREWELL));
        } else {
            // There is more to do, once this is sent, and perhaps no event follows.
            conn.handle().wake();
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.last && self.sending.is_none()
    }
}

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
