//! Counters, timers, gauges and sets of statsd, kept in memory and printed.
//!
//! Shows one callback for all that has come together, which takes a lock once for a batch. There is
//! one socket, since a gauge that rises and falls is one number: `reuse_port(false)`. Datagrams are
//! lent, and nothing of them is copied but new names.
//!
//! Its limits: 10 000 names of 200 bytes, and 10 000 such members of all sets; lines beyond them
//! are refused and counted, as are those that say nothing. There is no answer, so a forged sender's
//! address has no effect.
//!
//! ```text
//! cargo run --release --example statsd -- [ADDRESS] [SECONDS]
//! printf 'hits:1|c\ntook:12|ms\n' | nc -u -w 1 127.0.0.1 7125
//! ```

mod line;
mod metrics;

use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use metrics::Metrics;
use netpoll::{DatagramBatch, Datagrams, Error, EventLoop, Result};

fn main() -> ExitCode {
    let Err(error) = serve() else { return ExitCode::SUCCESS };
    eprintln!("{error}");
    ExitCode::FAILURE
}

fn serve() -> Result<()> {
    let (address, every) = options(std::env::args().skip(1))?;
    let metrics: Arc<Mutex<Metrics>> = Arc::default();
    let counted = metrics.clone();
    let service = Datagrams::options().reuse_port(false).bind("udp", &address)?.on_datagrams(
        move |(): &mut (), batch: &DatagramBatch<'_>| {
            let mut counted = lock(&counted); // once for a batch, and against the printer alone
            batch.iter().for_each(|datagram| counted.add_all(datagram.payload()));
            Ok(())
        },
    );
    let server = EventLoop::for_datagrams().loops(1).build()?.spawn(service)?;
    println!("listening on {}", server.address());
    let mut due = Instant::now();
    loop {
        due += every;
        std::thread::sleep(due.saturating_duration_since(Instant::now())); // sleep: a clock's tick
        let text = lock(&metrics).take();
        print!("{text}");
    }
}

fn options(mut args: impl Iterator<Item = String>) -> Result<(String, Duration)> {
    let address = args.next().unwrap_or_else(|| "127.0.0.1:7125".into());
    let seconds = args.next().map_or(Ok(10.0), |text| text.parse()).ok();
    let every = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let every = every.filter(|every| (Duration::from_millis(1)..YEAR).contains(every));
    Ok((address, every.ok_or_else(|| Error::config("usage: statsd [ADDRESS [SECONDS]]"))?))
}

/// What no clock's tick is longer than.
const YEAR: Duration = Duration::from_secs(365 * 86_400);

fn lock(metrics: &Mutex<Metrics>) -> MutexGuard<'_, Metrics> {
    metrics.lock().unwrap_or_else(PoisonError::into_inner)
}
