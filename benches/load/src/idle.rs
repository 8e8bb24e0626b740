//! Many connections that send one message each and then nothing: what they cost the server.

use std::io;
use std::time::{Duration, Instant};

use crate::options::Options;
use crate::pattern::{Framing, Pattern};
use crate::process::{Process, Usage};
use crate::progress::Progress;
use crate::report::Report;
use crate::schedule::{Share, Window};
use crate::tally::Live;
use crate::worker::{Run, Worker};

/// How long the answers to one message each may take.
const ANSWERS_TIMEOUT: Duration = Duration::from_secs(30);
/// Memory that stays the same for so long has settled.
const SETTLED: Duration = Duration::from_millis(300);
/// Memory that has not settled after so long is taken as it is.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often memory is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// The server's memory in bytes, in the order in which it was measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    /// Without the load generator's connections.
    pub(crate) before: u64,
    /// With all of them open, before any message.
    pub(crate) connected: u64,
    /// When each has got its answer.
    pub(crate) answered: u64,
    /// After the silence.
    pub(crate) silent: u64,
}

pub(crate) fn run(options: &Options) -> io::Result<Report<'_>> {
    let server = options.server_pid.map(Process::open).transpose()?;
    let rss = |server: Option<Process>| server.map(|server| server.rss()).transpose();
    let pattern = Pattern::new(options.size, Framing::Bare);
    let live = Live::default();
    let mut progress = Progress::new();
    let before = rss(server)?.unwrap_or_default();

    progress.show(|| format!("connecting {} times", options.connections));
    let run = Run { options, pattern: &pattern, live: &live };
    let mut worker = Worker::connect(run, Share::whole(options.connections))?;
    let connected = settle(&mut worker, server)?;

    let (own, now) = (Process::own()?, Instant::now());
    let (own_before, server_before) = (own.cpu()?, cpu(server)?);
    worker.release_one_each(Window::new(now, Duration::ZERO, ANSWERS_TIMEOUT));
    while worker.unanswered() > 0 && now.elapsed() < ANSWERS_TIMEOUT {
        worker.turn(Instant::now() + LOOK)?;
        progress.show(|| format!("{} answers to come", worker.unanswered()));
    }
    let answered = settle(&mut worker, server)?;

    let end = Instant::now() + options.seconds;
    while Instant::now() < end {
        worker.turn(end.min(Instant::now() + LOOK))?; // hears of connections that the server closes
        progress.show(|| format!("silent for {:.1} s more", (end - Instant::now()).as_secs_f64()));
    }
    let silent = rss(server)?.unwrap_or_default();
    let own_cpu = own.cpu()?.saturating_sub(own_before);
    let server_cpu = cpu(server)?.saturating_sub(server_before);
    drop(progress);

    let idle = Memory { before, connected, answered, silent };
    let usage = Usage { cpu: server_cpu, rss_before: before, rss_after: silent };
    let usage = server.map(|_| usage);
    Ok(Report { options, tally: worker.end(), own_cpu, server: usage, idle: Some(idle) })
}

fn cpu(server: Option<Process>) -> io::Result<Duration> {
    Ok(server.map(|server| server.cpu()).transpose()?.unwrap_or_default())
}

/// Lets the server accept, and free, what it has to: returns its memory once that stays the same.
fn settle(worker: &mut Worker<'_>, server: Option<Process>) -> io::Result<u64> {
    let Some(server) = server else {
        return Ok(0);
    };
    let start = Instant::now();
    let (mut rss, mut since) = (server.rss()?, start);
    while since.elapsed() < SETTLED && start.elapsed() < SETTLE_TIMEOUT {
        worker.turn(Instant::now() + LOOK)?;
        let new = server.rss()?;
        if new != rss {
            (rss, since) = (new, Instant::now());
        }
    }
    Ok(rss)
}

impl Memory {
    /// Bytes per connection that were added since there was none.
    pub(crate) fn each(&self, rss: u64, connections: u32) -> f64 {
        (rss as f64 - self.before as f64) / f64::from(connections)
    }
}
