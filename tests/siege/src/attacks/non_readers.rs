//! 2 000 clients that send and never read, beside 100 that do.
//!
//! The siege's own server buffers little, so that 2 000 of them take little memory. `--long`
//! attacks the example `echo` as well, with its defaults.

use std::time::Duration;

use super::{Mode, PERIOD, PINGERS};
use crate::confine::Confine;
use crate::crowd::{flood, non_readers};
use crate::pingers::{Pingers, Talk};
use crate::process::{Server, pause};
use crate::report::{Outcome, Problem, Row, Time};
use crate::run::Siege;

/// How much a connection may have in the kernel, in bytes, which is also its high-water mark: so
/// low that output piles up in the server soon.
pub(super) const SEND_BUFFER: &str = "16384";
const HIGH: &str = "65536";

pub(crate) fn run(siege: &Siege, row: &mut Row, mode: Mode) -> Outcome {
    let args = mode.with(&["--echo", "--send-buffer", SEND_BUFFER, "--high", HIGH]);
    let own = Server::own(&args, &Confine::default())?;
    send_beside(siege, row, own, 2_000, 512 << 10)?;
    if siege.long {
        enough_memory()?;
        row.note("then with the defaults", "600 clients");
        let args = mode.with(&["127.0.0.1:0"]);
        let echo = Server::example("echo", &args, &Confine::default())?;
        // The kernel takes 2.5 MiB of it, and each mark is 1 MiB.
        send_beside(siege, row, echo, 600, 6 << 20)?;
    }
    Ok(())
}

fn send_beside(
    siege: &Siege,
    row: &mut Row,
    mut server: Server,
    clients: usize,
    bytes: usize,
) -> Outcome {
    let talk = Talk::echo();
    let pingers = Pingers::start(server.address, PINGERS, &talk, PERIOD)?;
    pause(Duration::from_secs(1));
    let alone = pingers.take();

    let mut crowd = non_readers(server.address, clients)?;
    let time = Duration::from_secs(if siege.long { 20 } else { 5 });
    let sent = flood(&mut crowd, bytes, time);
    let mut newcomers = Duration::ZERO;
    for _ in 0..4 {
        let served = talk.newcomer(server.address, Duration::from_secs(2));
        newcomers = newcomers.max(served.unwrap_or(Duration::from_secs(2)));
    }
    let beside = pingers.take();
    server.is_alive()?;
    beside.report(row, &alone);
    row.within("newcomers", newcomers, Duration::from_secs(1));
    row.note("threads", server.process.threads());
    row.note("MiB sent", sent >> 20);
    row.note("MiB", server.process.resident());
    row.note("answers", format_args!("{} in {}", beside.answers(), Time(time)));
    Ok(())
}

/// The memory that the largest attacks take, here and in the kernel, in KiB.
const MEMORY: u64 = 6 << 20;

pub(super) fn enough_memory() -> Outcome {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let available = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    match available {
        Some(available) if available >= MEMORY => Ok(()),
        _ => Err(Problem::Missing("6 GiB of memory".to_owned())),
    }
}
