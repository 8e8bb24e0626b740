//! A client in straight-line blocking code: sends the lines that you type, prints what comes back.
//!
//! Shows `dial_connection` and a connection that the caller's own thread drives.
//!
//! ```text
//! cargo run --release --example echo_client -- [ADDRESS]      (start the example `echo` first)
//! ```

use std::io::{BufRead, Write};
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    match talk() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn talk() -> netpoll::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7000".into());
    let mut conn = netpoll::dial_connection("tcp", &address, Duration::from_secs(1))?;
    conn.set_read_timeout(Some(Duration::from_secs(5)));
    eprintln!("connected to {}, type lines (Ctrl-D ends)", conn.peer_addr());
    for line in std::io::stdin().lock().lines() {
        conn.write_all(line?.as_bytes())?;
        conn.write_all(b"\n")?;
        conn.flush()?;
        let answer = conn.reader().until(b'\n')?.to_vec();
        std::io::stdout().write_all(&answer)?;
    }
    Ok(())
}
