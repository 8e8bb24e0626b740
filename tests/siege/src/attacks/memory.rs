//! How much memory bursts of clients that never read cost, and how much of it is given back.

use std::time::Duration;

use super::Mode;
use super::non_readers::{SEND_BUFFER, enough_memory};
use crate::confine::Confine;
use crate::crowd::{flood, non_readers};
use crate::process::{Server, pause, until};
use crate::report::{Outcome, Problem, Row};
use crate::run::Siege;

/// How much each sends: more than its output's high-water mark, 1 MiB, and its input's limit.
const BYTES_EACH: usize = 3 << 20;
/// How long after the last client has gone the memory is back, and to within how many MiB.
const BACK: Duration = Duration::from_secs(5);
const NEARLY: u64 = 16;

/// 100 clients a round; all leave before the next one.
pub(crate) fn rounds(siege: &Siege, row: &mut Row) -> Outcome {
    bursts(row, 100, if siege.long { 10 } else { 5 })
}

pub(crate) fn many(siege: &Siege, row: &mut Row) -> Outcome {
    bursts(row, 1_000, if siege.long { 3 } else { 1 })
}

fn bursts(row: &mut Row, clients: usize, rounds: usize) -> Outcome {
    enough_memory()?;
    let args = ["--echo", "--send-buffer", SEND_BUFFER];
    let mut server = Server::own(&args, &Confine::default())?;
    let before = server.process.resident();
    let sockets = server.process.sockets();
    let mut after = Vec::new();
    for _ in 0..rounds {
        let mut crowd = non_readers(server.address, clients)?;
        let time = Duration::from_millis(500 + clients as u64);
        flood(&mut crowd, BYTES_EACH, time);
        drop(crowd);
        let all_gone = || server.process.sockets() <= sockets;
        if until(Duration::from_secs(20), all_gone).is_none() {
            let kept = server.process.sockets() - sockets;
            return Err(Problem::Broken(format!("{kept} of {clients} sockets stay")));
        }
        after.push(server.process.resident().to_string());
    }
    let near = || server.process.resident() < before + NEARLY;
    let took = until(BACK, near);
    server.is_alive()?;
    row.note("rounds", format_args!("{rounds} of {clients}"));
    row.note("peak", format_args!("{} MiB", server.process.peak()));
    row.note("after each", format_args!("{} MiB", after.join(", ")));
    row.soon("back after", took, BACK + Duration::from_secs(1));
    let more = server.process.resident().saturating_sub(before);
    row.below("stays", more, NEARLY, "MiB");
    Ok(())
}

/// With a budget of 64 MiB the process takes that much for its connections, within a quarter.
pub(crate) fn budget(siege: &Siege, row: &mut Row, mode: Mode) -> Outcome {
    const BUDGET: u64 = 64;
    enough_memory()?;
    let bytes = (BUDGET << 20).to_string();
    let mut args = mode.with(&["--echo", "--send-buffer", "262144", "--memory-budget"]);
    args.push(&bytes);
    let mut server = Server::own(&args, &Confine::default())?;
    let before = server.process.resident();
    let mut crowd = Vec::new();
    // New clients are refused above the budget, so all connect before any sends.
    let clients = 2_000;
    crowd.extend(non_readers(server.address, clients)?);
    let time = Duration::from_secs(if siege.long { 20 } else { 4 });
    let sent = flood(&mut crowd, BYTES_EACH, time);
    pause(Duration::from_millis(500));
    server.is_alive()?;
    row.note("clients", clients);
    row.note("MiB sent", sent >> 20);
    row.note("before", format_args!("{before} MiB"));
    let more = server.process.peak().saturating_sub(before);
    row.below("memory for a budget of 64 MiB", more, BUDGET * 5 / 4, "MiB");
    if more < BUDGET / 2 {
        return Err(Problem::broken("the attack did not reach the budget"));
    }
    Ok(())
}
