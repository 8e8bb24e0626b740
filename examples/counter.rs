//! A server with a session per connection: numbers the lines that each client sends.
//!
//! Shows four callbacks of a connection's life and the session that they share.
//!
//! Its limits: lines of 4 KiB, 5 min without a byte either way, 1 000 clients.
//!
//! ```text
//! cargo run --release --example counter -- [ADDRESS]
//! nc 127.0.0.1 7001
//! ```

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use netpoll::{Address, CloseReason, Connection, EventLoop, Listener, Result};

struct Session {
    peer: Address,
    lines: u64,
}

impl Session {
    fn serve(&mut self, conn: &mut Connection) -> Result<()> {
        let (mut reader, mut writer) = conn.split();
        loop {
            // With no whole line left this is `WouldBlock`: "call me again when there is more".
            let line = reader.try_until(b'\n')?;
            self.lines += 1;
            write!(writer, "{}: ", self.lines)?;
            writer.write_bytes(line);
        }
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
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7001".into());
    let listener = Listener::bind("tcp", &address)?;
    println!("listening on {}", listener.local_addr()?);
    EventLoop::builder()
        .on_prepare(|conn: &Connection| Ok(Session { peer: conn.peer_addr(), lines: 0 }))
        .on_connect(|_: &mut Session, conn: &mut Connection| {
            conn.writer().write_bytes(b"hello, send me lines\n");
            Ok(())
        })
        .on_request(|session: &mut Session, conn: &mut Connection| session.serve(conn))
        .on_disconnect(|session: Session, why: &CloseReason| {
            println!("{} sent {} lines; {why}", session.peer, session.lines);
        })
        .input_limit(4 << 10)
        .idle_timeout(Duration::from_secs(300))
        .max_connections(1000)
        .build()?
        .serve(listener)?;
    Ok(())
}
