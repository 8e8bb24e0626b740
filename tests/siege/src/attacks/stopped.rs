//! Processes that are stopped in the middle of something, and go on later.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::{PERIOD, PINGERS};
use crate::confine::Confine;
use crate::pingers::{Pingers, Talk};
use crate::process::{Process, Server, pause, role};
use crate::report::{Outcome, Row};
use crate::run::Siege;

/// Two client processes that stream through `echo` are stopped for a while; what they receive
/// afterwards is what they sent.
pub(crate) fn clients(siege: &Siege, row: &mut Row) -> Outcome {
    let mut server = Server::example("echo", &["127.0.0.1:0"], &Confine::default())?;
    let pingers = Pingers::start(server.address, PINGERS, &Talk::echo(), PERIOD)?;
    pause(Duration::from_secs(1));
    let alone = pingers.take();

    let address = server.address.to_string();
    let start = || Process::start(&role("trickle", &[&address])?, &Confine::default());
    let mut streams = [start()?, start()?];
    let mut streaming = true;
    for stream in &mut streams {
        streaming &= stream.says("streaming", Duration::from_secs(5)).is_some();
    }
    for stream in &streams {
        stream.signal(Signal::SIGSTOP);
    }
    pause(Duration::from_secs(if siege.long { 20 } else { 3 }));
    let beside = pingers.take();
    for stream in &streams {
        stream.signal(Signal::SIGCONT);
    }
    let mut whole = 0;
    for stream in &mut streams {
        whole += usize::from(stream.says("whole", Duration::from_secs(20)).is_some());
    }
    server.is_alive()?;
    row.note("streaming", streaming);
    row.equal("streams that came back whole", whole, 2);
    beside.report(row, &alone);
    Ok(())
}

/// The server itself is stopped: when it goes on, it answers all requests that were sent meanwhile.
pub(crate) fn server(siege: &Siege, row: &mut Row) -> Outcome {
    let mut server = Server::example("echo", &["127.0.0.1:0"], &Confine::default())?;
    let pingers = Pingers::start(server.address, PINGERS, &Talk::echo(), PERIOD)?;
    pause(Duration::from_secs(1));
    let time = Duration::from_secs(if siege.long { 10 } else { 2 });
    server.process.signal(Signal::SIGSTOP);
    pause(time);
    server.process.signal(Signal::SIGCONT);
    pause(Duration::from_secs(1));
    let stopped = pingers.take();
    pause(Duration::from_secs(1));
    let after = pingers.take();
    server.is_alive()?;
    row.note("stopped for", format_args!("{} s", time.as_secs()));
    row.within("longest wait", stopped.worst, time + Duration::from_secs(1));
    row.within("longest wait after", after.worst, Duration::from_secs(1));
    row.equal("pingers lost", after.lost, 0);
    Ok(())
}
