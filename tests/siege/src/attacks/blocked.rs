//! A callback sleeps on the only loop, and the server can't ask the system whether the thread
//! sleeps: /proc is empty, or no descriptor is left to read it.

use std::io::Write;
use std::time::Duration;

use super::PERIOD;
use crate::confine::Confine;
use crate::crowd::{connect, is_over};
use crate::pingers::{Pingers, Talk};
use crate::process::{Server, pause};
use crate::report::{Outcome, Problem, Row};
use crate::run::Siege;

/// How long the callback sleeps, and how often a new client asks for that.
const SLEEP: u32 = 1_500;
const TIMES: u32 = 3;

pub(crate) fn with_proc(siege: &Siege, row: &mut Row) -> Outcome {
    sleep_beside(siege, row, &Confine::default(), 0)
}

pub(crate) fn no_proc(siege: &Siege, row: &mut Row) -> Outcome {
    sleep_beside(siege, row, &Confine { no_proc: true, ..Confine::default() }, 0)
}

pub(crate) fn no_descriptors(siege: &Siege, row: &mut Row) -> Outcome {
    sleep_beside(siege, row, &Confine { descriptors: Some(64), ..Confine::default() }, 100)
}

fn sleep_beside(siege: &Siege, row: &mut Row, confine: &Confine, crowd: usize) -> Outcome {
    let mut server = Server::own(&["--loops", "1"], confine)?;
    let talk = Talk::command(b'p', 0);
    let pingers = Pingers::start(server.address, 10, &talk, PERIOD)?;
    let times = TIMES * if siege.long { 4 } else { 1 };
    let mut sleepers = Vec::new();
    for _ in 0..times {
        // Each is served once, so that it has its descriptor.
        let mut sleeper = connect(server.address)?;
        talk.once(&mut sleeper, Duration::from_secs(5))?;
        sleepers.push(sleeper);
    }
    let mut crowd: Result<Vec<_>, _> = (0..crowd).map(|_| connect(server.address)).collect();
    pause(Duration::from_secs(1));
    let alone = pingers.take();

    let sleep = Talk::command(b's', SLEEP);
    for sleeper in &mut sleepers {
        sleeper.write_all(&sleep.ask)?;
        pause(Duration::from_millis(u64::from(SLEEP) + 200));
    }
    let beside = pingers.take();
    server.is_alive()?;
    if let Ok(crowd) = &mut crowd
        && let Some(last) = crowd.last_mut()
        && is_over(last)
    {
        return Err(Problem::broken("the descriptors were not used up"));
    }
    row.note("sleeps", format_args!("{times} of {SLEEP} ms"));
    row.note("wait alone", format_args!("{} ms", alone.worst.as_millis()));
    row.within("longest wait", beside.worst, Duration::from_millis(750));
    row.equal("pingers lost", beside.lost, 0);
    Ok(())
}
