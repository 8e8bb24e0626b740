//! Clients that connect, ask and reset without reading the answer, as fast as one thread can.

use std::io::Write;
use std::time::{Duration, Instant};

use super::{PERIOD, PINGERS};
use crate::confine::Confine;
use crate::crowd::{connect, reset};
use crate::pingers::{Pingers, Talk};
use crate::process::{Server, pause, until};
use crate::report::{Outcome, Row};
use crate::run::Siege;

pub(crate) fn run(siege: &Siege, row: &mut Row) -> Outcome {
    let mut server = Server::example("echo", &["127.0.0.1:0"], &Confine::default())?;
    let talk = Talk::echo();
    let pingers = Pingers::start(server.address, PINGERS, &talk, PERIOD)?;
    pause(Duration::from_secs(1));
    let alone = pingers.take();
    let before = server.process.sockets();

    let begun = Instant::now();
    let time = Duration::from_secs(if siege.long { 30 } else { 4 });
    let mut resets = 0;
    while begun.elapsed() < time {
        let mut client = connect(server.address)?;
        // Half of them have asked, and their answer may be on its way.
        if resets % 2 == 0 {
            client.write_all(&talk.ask)?;
        }
        reset(&client);
        resets += 1;
    }
    let beside = pingers.take();
    server.is_alive()?;
    until(Duration::from_secs(5), || server.process.sockets() == before);
    row.note("resets", resets);
    beside.report(row, &alone);
    row.equal("sockets that stay", server.process.sockets().saturating_sub(before), 0);
    row.below("memory at most", server.process.peak(), 64, "MiB");
    Ok(())
}
