//! An echo server that shows what its loops do: a table, every second.
//!
//! Shows `PollManager::stats`: the loops' counters only grow, so what happened in a second is the
//! difference of two looks. A look costs the loops nothing.
//!
//! Its limits: 5 min without a byte either way, 1 000 clients.
//!
//! ```text
//! cargo run --release --example stats -- [ADDRESS]
//! head -c 1G /dev/zero | nc -N 127.0.0.1 7008 >/dev/null
//! ```

use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use netpoll::{
    Connection, EventLoop, Listener, LoadBalance, LoopStats, PollManager, Result, default_loops,
};

const SECOND: Duration = Duration::from_secs(1);

/// Prints what the loops did since `before`, a line for each.
fn print(before: &[LoopStats], now: &[LoopStats]) {
    println!("loop  connections  turns/s  events/s  callbacks/s  MB in/s  MB out/s");
    for (number, (before, now)) in before.iter().zip(now).enumerate() {
        println!(
            "{number:4}  {:11}  {:7}  {:8}  {:11}  {:7.1}  {:8.1}",
            now.connections,
            now.turns - before.turns,
            now.events - before.events,
            now.callbacks - before.callbacks,
            megabytes(now.received - before.received),
            megabytes(now.sent - before.sent),
        );
    }
}

#[expect(clippy::cast_precision_loss, reason = "a number to look at")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
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
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7008".into());
    let listener = Listener::bind("tcp", &address)?;
    println!("listening on {}", listener.local_addr()?);
    let manager = Arc::new(PollManager::new(default_loops(), LoadBalance::default())?);
    let watched = manager.clone();
    thread::spawn(move || {
        let mut before = watched.stats();
        loop {
            thread::sleep(SECOND); // sleep: a look a second
            let now = watched.stats();
            print(&before, &now);
            before = now;
        }
    });
    EventLoop::builder()
        .on_request(|(): &mut (), conn: &mut Connection| {
            let (mut reader, mut writer) = conn.split();
            writer.append(reader.slice(reader.len())?);
            writer.flush()
        })
        .manager(manager)
        .idle_timeout(Duration::from_secs(300))
        .max_connections(1000)
        .build()?
        .serve(listener)?;
    Ok(())
}
