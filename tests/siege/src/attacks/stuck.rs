//! Callbacks that never return, up to as many as may block and beyond.

use std::io::Write;
use std::time::Duration;

use super::{Mode, PERIOD};
use crate::confine::Confine;
use crate::crowd::many;
use crate::pingers::{Pingers, Talk};
use crate::process::{Server, pause};
use crate::report::{Outcome, Row};
use crate::run::Siege;

const MAX_THREADS: usize = 16;

/// One callback less than may block: the other connections are served.
pub(crate) fn up_to(siege: &Siege, row: &mut Row, mode: Mode) -> Outcome {
    let mut server = server(mode)?;
    let pingers = Pingers::start(server.address, 20, &Talk::command(b'p', 0), PERIOD)?;
    pause(Duration::from_secs(1));
    let alone = pingers.take();

    let mut crowd = many(server.address, MAX_THREADS - 1)?;
    for client in &mut crowd {
        client.write_all(&Talk::command(b'f', 0).ask)?;
    }
    pause(Duration::from_secs(if siege.long { 10 } else { 3 }));
    let beside = pingers.take();
    server.is_alive()?;
    row.note("stuck", MAX_THREADS - 1);
    row.note("max_threads", MAX_THREADS);
    beside.report(row, &alone);
    Ok(())
}

/// Four times as many as may block. Under hand-off the other connections are still served; in a
/// pool all wait, which costs no processor time.
pub(crate) fn beyond(siege: &Siege, row: &mut Row, mode: Mode) -> Outcome {
    let mut server = server(mode)?;
    let pingers = Pingers::start(server.address, 20, &Talk::command(b'p', 0), PERIOD)?;
    pause(Duration::from_secs(1));
    let alone = pingers.take();

    let mut crowd = many(server.address, 4 * MAX_THREADS)?;
    for client in &mut crowd {
        client.write_all(&Talk::command(b'f', 0).ask)?;
    }
    let time = Duration::from_secs(if siege.long { 10 } else { 3 });
    pause(time);
    let beside = pingers.take();
    row.note("stuck", 4 * MAX_THREADS);
    row.note("max_threads", MAX_THREADS);
    if matches!(mode, Mode::HandOff) {
        beside.report(row, &alone);
    }
    drop(pingers);
    let used = server.process.processor();
    pause(time);
    let used = server.process.processor().saturating_sub(used);
    server.is_alive()?;
    let share = used.as_millis() * 100 / time.as_millis();
    row.below("processor", share.try_into().unwrap_or(u64::MAX), 4, "%");
    row.note("threads", server.process.threads());
    Ok(())
}

fn server(mode: Mode) -> Result<Server, crate::report::Problem> {
    Server::own(&mode.with(&["--max-threads", "16"]), &Confine::default())
}
