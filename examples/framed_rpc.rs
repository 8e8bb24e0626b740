//! A minimal server of remote calls: a request is a frame, and so is its answer.
//!
//! Shows `on_frame` with a 4-byte big-endian length: frames that arrive together are answered with
//! one flush, and a frame that is too long closes the connection with a reason. A call that begins
//! with `later` is answered after a second, by a `Reply`, and no other call waits for it.
//!
//! Its limits: frames of 64 KiB, 1 KiB in 5 s of one that has begun, 60 s without a byte either
//! way, 100 calls under way on a connection, 1 000 clients.
//!
//! ```text
//! cargo run --release --example framed_rpc -- [ADDRESS]
//! printf '\0\0\0\5later\0\0\0\5hello' | nc -N 127.0.0.1 7002 | xxd
//! ```

use std::process::ExitCode;
use std::time::Duration;

use netpoll::codec::{Frame, LengthPrefix};
use netpoll::{
    CloseReason, Connection, EventLoop, Framed, Listener, Out, ReceiveRate, Result, on_frame,
};

/// The longest call and the longest answer, in bytes.
const LONGEST: usize = 64 << 10;

/// How many calls of one client may be under way.
const CALLS: usize = 100;

/// What the server knows of one client.
#[derive(Debug, Default)]
struct Caller {
    calls: u64,
}

/// Answers one call, with the request itself.
fn answer(caller: &mut Caller, call: Frame<'_>, out: &mut Out<'_, LengthPrefix>) -> Result<()> {
    caller.calls += 1;
    let mut call = call.into_buffer();
    if !call.peek(5).is_ok_and(|begin| begin == b"later") {
        return out.send_buffer(call); // moves blocks, copies nothing
    }
    // Usually another thread or another server makes the answer; here it is a timer.
    let reply = out.defer();
    let handle = reply.handle().clone();
    handle.run_after(Duration::from_secs(1), move |_| reply.send_buffer(call))?;
    Ok(())
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
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7002".into());
    let listener = Listener::bind("tcp", &address)?;
    println!("listening on {}", listener.local_addr()?);
    let codec = LengthPrefix::new(4, LONGEST)?;
    EventLoop::builder()
        .on_prepare(|_: &Connection| Ok(Framed::new(Caller::default())))
        .on_request(on_frame(codec, answer).max_outstanding(CALLS))
        .on_disconnect(|caller: Framed<LengthPrefix, Caller>, why: &CloseReason| {
            println!("{} calls, then {why}", caller.calls);
        })
        .min_receive_rate(ReceiveRate { bytes: 1 << 10, per: Duration::from_secs(5) })
        .idle_timeout(Duration::from_secs(60))
        .max_connections(1000)
        .build()?
        .serve(listener)?;
    Ok(())
}
