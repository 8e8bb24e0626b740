//! A run in which threads keep the server busy for a window of time.

use std::io;
use std::sync::atomic::Ordering;
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use crate::bulk::Bulk;
use crate::datagrams::Datagrams;
use crate::flood::Flood;
use crate::options::{Mode, Options};
use crate::pattern::{Framing, Pattern};
use crate::process::{Process, Usage};
use crate::progress::{INTERVAL, Progress};
use crate::report::Report;
use crate::schedule::{Share, Window};
use crate::tally::{Live, Tally};
use crate::worker::{Run, Worker};

/// From the last connection to the start, so that every thread is there in time.
const LEAD: Duration = Duration::from_millis(5);

pub(crate) fn run(options: &Options) -> io::Result<Report<'_>> {
    let server = options.server_pid.map(Process::open).transpose()?;
    let rss_before = server.map(|server| server.rss()).transpose()?.unwrap_or_default();
    let pattern = Pattern::new(options.size, framing(options.mode));
    let live = Live::default();
    let mut progress = Progress::new();
    progress.show(|| format!("connecting {} times", options.connections));
    let workers = connect(Run { options, pattern: &pattern, live: &live })?;

    let window = Window::new(Instant::now() + LEAD, options.warmup, options.seconds);
    let meters = Meters { own: Process::own()?, server };
    thread::scope(|scope| {
        let workers: Vec<_> =
            workers.into_iter().map(|worker| scope.spawn(move || start(worker, window))).collect();
        let mut watch = |until| watch(until, &workers, || progress.show(|| line(&window, &live)));
        watch(window.from);
        let from = meters.read()?;
        watch(window.until);
        let until = meters.read()?;
        let rss_after = server.map(|server| server.rss()).transpose()?.unwrap_or_default();
        let tally = gather(workers)?;
        drop(progress);

        let server = until.server.zip(from.server).map(|(until, from)| until.saturating_sub(from));
        let usage = server.map(|cpu| Usage { cpu, rss_before, rss_after });
        let own_cpu = until.own.saturating_sub(from.own);
        Ok(Report { options, tally, own_cpu, server: usage, idle: None })
    })
}

fn framing(mode: Mode) -> Framing {
    match mode {
        Mode::Rpc => Framing::Length,
        Mode::WebSocket => Framing::WebSocket,
        _ => Framing::Bare,
    }
}

/// What one thread does.
enum Part<'a> {
    Worker(Worker<'a>),
    Bulk(Bulk<'a>),
    Datagrams(Datagrams<'a>),
    Flood(Flood<'a>),
}

impl<'a> Part<'a> {
    fn connect(run: Run<'a>, share: Share) -> io::Result<Self> {
        Ok(match run.options.mode {
            Mode::Up | Mode::Down => Self::Bulk(Bulk::connect(run, share)?),
            Mode::Udp => Self::Datagrams(Datagrams::connect(run, share)?),
            Mode::UdpFlood => Self::Flood(Flood::connect(run, share)?),
            _ => Self::Worker(Worker::connect(run, share)?),
        })
    }

    fn run(self, window: Window) -> io::Result<Tally> {
        match self {
            Self::Worker(worker) => worker.run(window),
            Self::Bulk(bulk) => bulk.run(window),
            Self::Datagrams(datagrams) => datagrams.run(window),
            Self::Flood(flood) => flood.run(window),
        }
    }
}

/// The clocks of both processes.
struct Meters {
    own: Process,
    server: Option<Process>,
}

struct Reading {
    own: Duration,
    server: Option<Duration>,
}

impl Meters {
    fn read(&self) -> io::Result<Reading> {
        let server = self.server.map(|server| server.cpu()).transpose()?;
        Ok(Reading { own: self.own.cpu()?, server })
    }
}

/// Every thread opens its own connections, all at the same time.
fn connect(run: Run<'_>) -> io::Result<Vec<Part<'_>>> {
    let Options { threads, connections, .. } = *run.options;
    thread::scope(|scope| {
        let shares = (0..threads).map(|first| Share { first, stride: threads, of: connections });
        let workers: Vec<_> =
            shares.map(|share| scope.spawn(move || Part::connect(run, share))).collect();
        workers.into_iter().map(join).collect()
    })
}

/// Shows the progress until `until`, or until all workers have ended.
fn watch<T>(until: Instant, workers: &[ScopedJoinHandle<'_, T>], mut show: impl FnMut()) {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || workers.iter().all(ScopedJoinHandle::is_finished) {
            return;
        }
        show();
        thread::sleep(left.min(INTERVAL)); // sleep: the workers work, this thread only looks on
    }
}

fn start(worker: Part<'_>, window: Window) -> io::Result<Tally> {
    // sleep: all threads are to start together, at a time that was agreed on
    thread::sleep(window.start.saturating_duration_since(Instant::now()));
    worker.run(window)
}

fn gather(workers: Vec<ScopedJoinHandle<'_, io::Result<Tally>>>) -> io::Result<Tally> {
    let mut all = Tally::new();
    for worker in workers {
        all.add(join(worker)?);
    }
    Ok(all)
}

fn join<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// What the progress line says.
fn line(window: &Window, live: &Live) -> String {
    let now = Instant::now();
    let (requests, errors) =
        (live.requests.load(Ordering::Relaxed), live.errors.load(Ordering::Relaxed));
    let elapsed = now.saturating_duration_since(window.start).as_secs_f64();
    let rate = if elapsed > 0.0 { requests as f64 / elapsed } else { 0.0 };
    let phase = if now < window.from { "warming up" } else { "measuring" };
    let whole = (window.until - window.start).as_secs_f64();
    format!("{elapsed:.1} of {whole:.1} s  {phase}  {rate:.0} requests/s  {errors} errors")
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    /// What the load generator is late by is not the server's fault, and counts all the same: no
    /// message that was due goes unsent, and none is taken for on time.
    #[test]
    fn an_open_loop_that_starts_late_says_so() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut peer, _) = listener.accept().unwrap();
            let mut message = [0; 64];
            while peer.read_exact(&mut message).is_ok() && peer.write_all(&message).is_ok() {}
        });
        let line = format!("{address} --connections 1 --rate 100");
        let options = Options::parse(line.split(' ').map(str::to_owned)).unwrap();
        let (pattern, live) = (Pattern::new(options.size, Framing::Bare), Live::default());
        let workers = connect(Run { options: &options, pattern: &pattern, live: &live }).unwrap();

        let late = Duration::from_secs(3);
        let start = Instant::now().checked_sub(late).unwrap();
        let window = Window::new(start, Duration::ZERO, 2 * late);
        let tally = workers.into_iter().next().unwrap().run(window).unwrap();
        assert!(tally.latencies.max() >= late.as_nanos() as u64);
        assert_eq!(tally.requests + tally.unanswered, 600);
    }
}
