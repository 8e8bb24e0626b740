//! A server that shuts down in order on a signal: it stops accepting, finishes what is under way,
//! says goodbye to idle clients, and gives up after ten seconds.
//!
//! Shows `spawn`, `on_shutdown`, and SIGTERM and SIGINT, which the library leaves to its user; and
//! what systemd is told, where it started the process (`graceful.service` is its unit).
//!
//! Its limits: lines of 4 KiB, 5 min without a byte either way, 200 clients, since each may keep a
//! thread for two seconds.
//!
//! ```text
//! cargo run --release --example graceful -- [ADDRESS]
//! nc 127.0.0.1 7020        # "sleep" answers after two seconds
//! kill -TERM PID           # does the same as Ctrl-C
//! ```

use std::process::ExitCode;
use std::time::Duration;

use netpoll::{CloseReason, Connection, EventLoop, Listener, Systemd};
use nix::sys::signal::{SigSet, Signal};

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> netpoll::Result<()> {
    // Before any thread starts, so that only the wait below gets them.
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
    signals.thread_block().map_err(std::io::Error::from)?;

    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7020".into());
    let server = EventLoop::builder()
        .on_request(|(): &mut (), conn: &mut Connection| {
            loop {
                // `?` is right for each error: `WouldBlock` waits for the rest of a line, and a
                // line that is too long is a reason to close, which `on_disconnect` gets.
                let line = conn.reader().try_until(b'\n')?.to_vec();
                if line.starts_with(b"sleep") {
                    // sleep: it represents work that takes a while
                    std::thread::sleep(Duration::from_secs(2));
                }
                conn.writer().write_bytes(&line);
                conn.writer().flush()?;
            }
        })
        .on_shutdown(|(): &mut (), conn: &mut Connection| {
            conn.writer().write_bytes(b"goodbye\n");
            Ok(())
        })
        .on_disconnect(|(): (), why: &CloseReason| println!("a client has left: {why}"))
        .input_limit(4 << 10)
        .idle_timeout(Duration::from_secs(300))
        .max_connections(200)
        .systemd(Systemd::from_env()?)
        .build()?
        .spawn(Listener::bind("tcp", &address)?)?;
    println!("listening on {}", server.address());

    let signal = signals.wait().map_err(std::io::Error::from)?;
    println!("{signal}: {} connections are open", server.stats().connections);
    server.shutdown(Duration::from_secs(10));
    let report = server.wait()?;
    println!(
        "stopped: {} connections closed in order, {} aborted",
        report.closed_in_order, report.aborted
    );
    Ok(())
}
