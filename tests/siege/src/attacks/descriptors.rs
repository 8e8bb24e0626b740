//! More clients than descriptors, for a while: established connections are still served, no thread
//! spins, and new clients are served as soon as there is room again.

use std::time::Duration;

use super::Mode;
use crate::confine::Confine;
use crate::crowd::connect;
use crate::pingers::{Pingers, Talk};
use crate::process::{Server, pause, until};
use crate::report::{Outcome, Row};
use crate::run::Siege;

const DESCRIPTORS: u64 = 100;
const CLIENTS: usize = 500;

pub(crate) fn run(siege: &Siege, row: &mut Row, mode: Mode) -> Outcome {
    let confine = Confine { descriptors: Some(DESCRIPTORS), ..Confine::default() };
    let args = mode.with(&["127.0.0.1:0"]);
    let mut server = Server::example("echo", &args, &confine)?;
    let talk = Talk::echo();
    // Few requests, so that the processor time is mostly the server's own.
    let pingers = Pingers::start(server.address, 20, &talk, Duration::from_millis(500))?;
    pause(Duration::from_secs(1));
    let alone = pingers.take();

    let crowd: Result<Vec<_>, _> = (0..CLIENTS).map(|_| connect(server.address)).collect();
    let crowd = crowd?;
    pause(Duration::from_secs(1));
    let used = server.process.processor();
    let time = Duration::from_secs(if siege.long { 60 } else { 8 });
    pause(time);
    let used = server.process.processor().saturating_sub(used);
    let beside = pingers.take();
    server.is_alive()?;
    let full = server.process.sockets();
    drop(crowd);
    let newcomer = || talk.newcomer(server.address, Duration::from_millis(500)).is_some();
    let back = until(Duration::from_secs(5), newcomer);
    row.note("for", format_args!("{} s", time.as_secs()));
    row.note("sockets", full);
    beside.report(row, &alone);
    let share = used.as_millis() * 100 / time.as_millis();
    row.below("processor", share.try_into().unwrap_or(u64::MAX), 10, "%");
    row.soon("served again after", back, Duration::from_secs(2));
    Ok(())
}
