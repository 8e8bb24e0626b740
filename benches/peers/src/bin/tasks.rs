//! Tasks without a connection, on netpoll and on tokio: what a spawn, a wake and a task at rest
//! cost. Each figure is the median of interleaved rounds, in nanoseconds.
//!
//! `cargo run --release --features tasks --bin tasks`, alone on the machine. Its arguments are how
//! many rounds it measures, and parts of the names of the runtimes and of the measures, for some of
//! them.

use std::fs;
use std::future::{Future, pending};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use netpoll::futures::{Spawner, block_on, spawn, timeout, yield_now};
use netpoll::{Dispatch, HandOffOptions, LoadBalance, PollManager, PoolOptions};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;

/// How often a round repeats what it measures.
const REPEATS: u32 = 20_000;
/// How many tasks are at rest where their memory is measured.
const AT_REST: usize = 100_000;

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let rounds = arguments.first().map_or(9, |it| it.parse().expect("a number of rounds"));
    let part = |at: usize| arguments.get(at).map_or("", String::as_str);
    let mut all = runtimes();
    all.retain(|it| it.name().contains(part(1)));
    if rounds == 0 {
        return println!("{}", all[0].resident());
    }
    println!("{:24}{}", "", all.iter().map(|it| format!("{:>16}", it.name())).collect::<String>());
    for (name, measure) in MEASURES.iter().filter(|it| it.0.contains(part(2))) {
        let mut figures = vec![Vec::new(); all.len()];
        for _ in 0..rounds {
            for (of, runtime) in figures.iter_mut().zip(&all) {
                of.push(measure(runtime));
            }
        }
        let medians = figures.into_iter().map(|mut of| {
            of.sort_by(f64::total_cmp);
            format!("{:16.1}", of[of.len() / 2])
        });
        println!("{name:24}{}", medians.collect::<String>());
    }
}

const MEASURES: &[(&str, fn(&Any) -> f64)] = &[
    ("spawn + join, inside", |it| it.time(REPEATS, |it| spawn_and_join(it))),
    ("spawn 1000, join all", |it| it.time(REPEATS, |it| spawn_many(it))),
    ("spawn + join, outside", |it| it.time_outside(REPEATS / 10)),
    ("ping-pong", |it| it.time(REPEATS, |it| ping_pong(it))),
    ("yield", |it| it.time(REPEATS, |it| yields(it))),
    ("timeout, not reached", |it| it.time(REPEATS, |it| timeouts(it))),
    ("bytes of a task at rest", |it| it.memory()),
];

/// A runtime in which tasks run.
enum Any {
    Ours(&'static str, Spawner),
    Tokio(&'static str, Runtime),
}

/// What the tasks of a measurement need of it.
#[derive(Clone, Copy)]
enum Inside {
    Ours,
    Tokio,
}

fn runtimes() -> Vec<Any> {
    let ours = |name, loops, dispatch| {
        let manager = PollManager::new(loops, LoadBalance::default()).expect("loops");
        Any::Ours(name, Spawner::new(&Arc::new(manager), dispatch).expect("options"))
    };
    let multi = |name, workers| {
        let runtime = Builder::new_multi_thread().worker_threads(workers).enable_all().build();
        Any::Tokio(name, runtime.expect("a runtime"))
    };
    let current = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let hand_off = Dispatch::HandOff(HandOffOptions::default());
    vec![
        ours("ours, hand-off", 1, hand_off),
        ours("ours, inline", 1, Dispatch::Inline),
        ours("ours, pool", 1, Dispatch::Pool(PoolOptions::default())),
        Any::Tokio("tokio, current", current),
        multi("tokio, 1 worker", 1),
        multi("tokio, 2 workers", 2),
    ]
}

impl Any {
    fn name(&self) -> &'static str {
        match self {
            Self::Ours(name, _) | Self::Tokio(name, _) => name,
        }
    }

    /// Nanoseconds for each of the repeats that a task of the runtime counts.
    fn time<F>(&self, repeats: u32, body: impl FnOnce(Inside) -> F) -> f64
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let took = match self {
            Self::Ours(_, spawner) => {
                block_on(spawner.spawn(timed(body(Inside::Ours)))).expect("it ends")
            }
            Self::Tokio(_, runtime) => runtime
                .block_on(async { tokio::spawn(timed(body(Inside::Tokio))).await })
                .expect("it ends"),
        };
        took.as_nanos() as f64 / f64::from(repeats)
    }

    /// The same for tasks that another thread spawns and joins.
    fn time_outside(&self, repeats: u32) -> f64 {
        let begun = Instant::now();
        for _ in 0..repeats {
            match self {
                Self::Ours(_, spawner) => block_on(spawner.spawn(async {})).expect("it ends"),
                Self::Tokio(_, runtime) => {
                    runtime.block_on(runtime.spawn(async {})).expect("it ends");
                }
            }
        }
        begun.elapsed().as_nanos() as f64 / f64::from(repeats)
    }

    /// What [`resident`](Self::resident) says in a process of its own.
    fn memory(&self) -> f64 {
        let this = std::env::current_exe().expect("its path");
        let output = Command::new(this).args(["0", self.name()]).output().expect("it starts");
        let said = String::from_utf8(output.stdout).expect("text");
        said.trim().parse().expect("a number")
    }

    /// Resident bytes for each of many tasks that are never woken.
    fn resident(&self) -> f64 {
        let before = resident();
        let used = |after: usize| after.saturating_sub(before) as f64 / AT_REST as f64;
        match self {
            Self::Ours(_, spawner) => {
                let tasks: Vec<_> = (0..AT_REST).map(|_| spawner.spawn(pending::<()>())).collect();
                block_on(spawner.spawn(yield_now())).expect("it ends");
                let used = used(resident());
                drop(tasks);
                while spawner.live() > 0 {
                    std::thread::yield_now();
                }
                used
            }
            Self::Tokio(_, runtime) => runtime.block_on(async {
                let tasks: Vec<_> = (0..AT_REST).map(|_| tokio::spawn(pending::<()>())).collect();
                tokio::task::yield_now().await;
                let used = used(resident());
                for task in tasks {
                    task.abort();
                    let _ = task.await;
                }
                used
            }),
        }
    }
}

async fn timed(body: impl Future<Output = ()>) -> Duration {
    let begun = Instant::now();
    body.await;
    begun.elapsed()
}

async fn spawn_and_join(inside: Inside) {
    for _ in 0..REPEATS {
        match inside {
            Inside::Ours => spawn(async {}).await.expect("it ends"),
            Inside::Tokio => tokio::spawn(async {}).await.expect("it ends"),
        }
    }
}

async fn spawn_many(inside: Inside) {
    const AT_ONCE: u32 = 1000;
    for _ in 0..REPEATS / AT_ONCE {
        match inside {
            Inside::Ours => {
                let tasks: Vec<_> = (0..AT_ONCE).map(|_| spawn(async {})).collect();
                for task in tasks {
                    task.await.expect("it ends");
                }
            }
            Inside::Tokio => {
                let tasks: Vec<_> = (0..AT_ONCE).map(|_| tokio::spawn(async {})).collect();
                for task in tasks {
                    task.await.expect("it ends");
                }
            }
        }
    }
}

/// The same channel for all: that of tokio, which needs no runtime.
async fn ping_pong(inside: Inside) {
    let (ping, mut pinged) = mpsc::channel::<()>(1);
    let (pong, mut ponged) = mpsc::channel::<()>(1);
    let other = async move {
        while pinged.recv().await.is_some() {
            if pong.send(()).await.is_err() {
                break;
            }
        }
    };
    match inside {
        Inside::Ours => spawn(other).detach(),
        Inside::Tokio => drop(tokio::spawn(other)),
    }
    for _ in 0..REPEATS {
        ping.send(()).await.expect("the other task");
        ponged.recv().await.expect("the other task");
    }
}

async fn yields(inside: Inside) {
    for _ in 0..REPEATS {
        match inside {
            Inside::Ours => yield_now().await,
            Inside::Tokio => tokio::task::yield_now().await,
        }
    }
}

/// Each future is pending once, so that each timer is armed.
async fn timeouts(inside: Inside) {
    const LONG: Duration = Duration::from_secs(60);
    for _ in 0..REPEATS {
        match inside {
            Inside::Ours => timeout(LONG, yield_now()).await.expect("in time"),
            Inside::Tokio => {
                tokio::time::timeout(LONG, tokio::task::yield_now()).await.expect("in time");
            }
        }
    }
}

fn resident() -> usize {
    let pages = fs::read_to_string("/proc/self/statm").expect("proc is mounted");
    pages.split(' ').nth(1).and_then(|it| it.parse::<usize>().ok()).expect("a number") * 4096
}
