//! A server by lines that waits for no client without a limit.
//!
//! Shows the limits in time, and how `on_disconnect` learns which of them ended a connection: the
//! first byte, a request that trickles in (slowloris), silence, and a time for the whole
//! connection. Besides, lines have 4 KiB at most, and 1 000 clients may connect.
//!
//! ```text
//! cargo run --release --example timeouts -- [ADDRESS]
//! nc 127.0.0.1 7005                                           (type nothing: first byte, 1 s)
//! (printf 'hello\n'; sleep 9) | nc 127.0.0.1 7005             (idle, 2 s)
//! (while printf x; do sleep 0.2; done) | nc 127.0.0.1 7005    (10 bytes a second are too few)
//! (while echo x; do sleep 0.2; done) | nc 127.0.0.1 7005      (deadline, 5 s)
//! ```

use std::process::ExitCode;
use std::time::{Duration, Instant};

use netpoll::{CloseReason, Connection, EventLoop, Listener, ReceiveRate, Result, Wait};

const FIRST_BYTE: Duration = Duration::from_secs(1);
const IDLE: Duration = Duration::from_secs(2);
/// How many bytes of a line that has begun must come in which time.
const RATE: ReceiveRate = ReceiveRate { bytes: 10, per: Duration::from_secs(1) };
/// For a connection as a whole.
const LIFE: Duration = Duration::from_secs(5);

/// When the connection came.
type Since = Instant;

fn report(since: Since, why: &CloseReason) {
    let what = match why {
        CloseReason::Timeout(Wait::FirstByte) => "said nothing",
        CloseReason::Timeout(Wait::Idle) => "fell silent",
        CloseReason::Timeout(Wait::Rate) => "sent too slowly",
        CloseReason::Timeout(Wait::Deadline) => "stayed too long",
        _ => "left",
    };
    println!("{what} after {:.1} s; {why}", since.elapsed().as_secs_f64());
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
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7005".into());
    let listener = Listener::bind("tcp", &address)?;
    println!("listening on {}", listener.local_addr()?);
    EventLoop::builder()
        .on_prepare(|conn: &Connection| {
            let now = Instant::now();
            conn.handle().close_at(Some(now + LIFE));
            Ok(now)
        })
        .on_request(|_: &mut Since, conn: &mut Connection| {
            let (mut reader, mut writer) = conn.split();
            loop {
                // `try_`: a line that is not whole yet must not hold a thread.
                writer.write_bytes(reader.try_until(b'\n')?);
            }
        })
        .on_disconnect(report)
        .first_byte_timeout(FIRST_BYTE)
        .idle_timeout(IDLE)
        .min_receive_rate(RATE)
        .input_limit(4 << 10)
        .max_connections(1000)
        .build()?
        .serve(listener)?;
    Ok(())
}
