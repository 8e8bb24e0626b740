//! No room for further threads' stacks: the limit of addresses is met while callbacks block.

use std::io::Write;
use std::time::Duration;

use super::{Mode, PERIOD};
use crate::confine::Confine;
use crate::crowd::many;
use crate::pingers::{Pingers, Talk};
use crate::process::{Server, pause};
use crate::report::{Outcome, Row};
use crate::run::Siege;

/// Room for the server and some tens of stacks of 2 MiB.
const ADDRESSES: u64 = 512 << 20;

pub(crate) fn run(siege: &Siege, row: &mut Row, mode: Mode) -> Outcome {
    let confine = Confine { address_space: Some(ADDRESSES), ..Confine::default() };
    let mut server = Server::own(mode.args(), &confine)?;
    let talk = Talk::command(b'p', 0);
    let pingers = Pingers::start(server.address, 20, &talk, PERIOD)?;
    pause(Duration::from_secs(1));
    let alone = pingers.take();

    let mut crowd = many(server.address, 600)?;
    for client in &mut crowd {
        // Each is served once, so that its memory is allocated before the addresses are used up: an
        // allocation that fails ends any program of Rust.
        talk.once(client, Duration::from_secs(2))?;
    }
    for client in &mut crowd {
        client.write_all(b"h")?;
    }
    pause(Duration::from_secs(if siege.long { 10 } else { 2 }));
    let beside = pingers.take();
    let threads = server.process.threads();
    server.is_alive()?;
    drop(crowd);
    pause(Duration::from_secs(1));
    let after = talk.newcomer(server.address, Duration::from_secs(5));
    server.is_alive()?;
    row.note("MiB of addresses", ADDRESSES >> 20);
    row.note("threads", threads);
    beside.report(row, &alone);
    row.soon("newcomer after", after, Duration::from_secs(1));
    Ok(())
}
