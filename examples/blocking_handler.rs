//! A journal: `log TEXT` is answered when the line is on the disk, anything else at once.
//!
//! Shows callbacks that really block, in the system's `fdatasync`, beside others that don't, on the
//! same loops and without telling the framework: another thread goes on with the reactor while one
//! blocks, and connections that keep blocking go to workers. Fast answers stay fast.
//!
//! Its limits: lines of 4 KiB, a journal of 64 MiB, 60 s without a byte either way, 200 clients,
//! since each may keep a thread.
//!
//! ```text
//! cargo run --release --example blocking_handler -- [ADDRESS] [FILE]
//! printf 'ping\nlog something\n' | nc -N 127.0.0.1 7007
//! ```

use std::fs::File;
use std::io::Write;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use netpoll::{Connection, Dispatch, EventLoop, HandOffOptions, Listener, Result};

/// The longest journal, in bytes: clients must not fill the disk.
const JOURNAL_MAX: u64 = 64 << 20;

/// Appends a line, and returns when it would survive a power cut; or says that there is no room.
fn write_down(journal: &Mutex<File>, text: &[u8]) -> Result<bool> {
    let mut file = journal.lock().unwrap_or_else(PoisonError::into_inner);
    if file.metadata()?.len() + text.len() as u64 > JOURNAL_MAX {
        return Ok(false);
    }
    file.write_all(text)?;
    file.sync_data()?; // milliseconds
    Ok(true)
}

fn answer(journal: &Mutex<File>, conn: &mut Connection) -> Result<()> {
    let (mut reader, mut writer) = conn.split();
    loop {
        let line = reader.try_until(b'\n')?;
        if let Some(text) = line.strip_prefix(b"log ") {
            let written = write_down(journal, text)?;
            writer.write_string(if written { "written\n" } else { "full\n" });
        } else {
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
    let mut args = std::env::args().skip(1);
    let listener = Listener::bind("tcp", &args.next().unwrap_or("127.0.0.1:7007".into()))?;
    let path = args.next().unwrap_or_else(|| "journal.log".into());
    let journal = Mutex::new(File::options().create(true).append(true).open(path)?);
    println!("listening on {}", listener.local_addr()?);
    EventLoop::builder()
        .on_request(move |(): &mut (), conn: &mut Connection| answer(&journal, conn))
        .dispatch(Dispatch::HandOff(HandOffOptions::default()))
        .input_limit(4 << 10)
        .idle_timeout(Duration::from_secs(60))
        .max_connections(200)
        .loops(1) // so that a callback that blocks would delay all others
        .build()?
        .serve(listener)?;
    Ok(())
}
