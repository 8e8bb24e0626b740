//! System calls that are interrupted again and again: no byte is lost.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::PERIOD;
use super::restart::strace_works;
use crate::confine::Confine;
use crate::pingers::{Pingers, Talk};
use crate::process::{Server, command, example, pause};
use crate::report::{Outcome, Problem, Row};
use crate::run::Siege;

/// Stopped and continued 200 times a second: `epoll_wait` returns EINTR for it, without a handler.
pub(crate) fn stop_and_go(siege: &Siege, row: &mut Row) -> Outcome {
    let mut server = Server::example("echo", &["127.0.0.1:0"], &Confine::default())?;
    let pingers = Pingers::start(server.address, 50, &Talk::echo(), PERIOD)?;
    pause(Duration::from_secs(1));
    let alone = pingers.take();
    let begun = Instant::now();
    let mut storms = 0;
    while begun.elapsed() < Duration::from_secs(if siege.long { 30 } else { 3 }) {
        server.process.signal(Signal::SIGSTOP);
        pause(Duration::from_millis(1));
        server.process.signal(Signal::SIGCONT);
        pause(Duration::from_millis(4));
        storms += 1;
    }
    let beside = pingers.take();
    server.is_alive()?;
    row.note("interruptions", storms);
    beside.report(row, &alone);
    Ok(())
}

/// Every third call of each kind and thread returns EINTR. Not `futex`: the system never interrupts
/// one that wakes, and such a wake would be lost.
pub(crate) fn eintr(siege: &Siege, row: &mut Row) -> Outcome {
    let log = std::env::temp_dir().join(format!("siege-eintr-{}", std::process::id()));
    let log = log.display().to_string();
    let outcome = interrupted(siege, row, &log);
    let text = std::fs::read_to_string(&log).unwrap_or_default();
    let _ = std::fs::remove_file(&log);
    outcome?;
    let injected = text.matches("INJECTED").count();
    row.note("interruptions", injected);
    if injected < 100 {
        return Err(Problem::broken("next to no call was interrupted"));
    }
    Ok(())
}

fn interrupted(siege: &Siege, row: &mut Row, log: &str) -> Outcome {
    strace_works(log)?;
    let calls = "epoll_wait,accept4,recvfrom,readv,sendto,sendmsg,read,write";
    let (trace, inject) =
        (format!("trace={calls}"), format!("inject={calls}:error=EINTR:when=20+3"));
    let options = ["-f", "-qq", "-o", log, "-e", &trace, "-e", &inject];
    let mut words = command("strace", &options);
    words.extend(example("echo", &["127.0.0.1:0"])?);
    let mut server = Server::start(&words, &Confine::default())?;
    let talk = Talk::echo();
    let pingers = Pingers::start(server.address, 20, &talk, Duration::from_millis(100))?;
    let mut newcomers = 0;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(if siege.long { 20 } else { 3 }) {
        let served = talk.newcomer(server.address, Duration::from_secs(2));
        newcomers += usize::from(served.is_none());
        pause(Duration::from_millis(50));
    }
    let beside = pingers.take();
    server.is_alive()?;
    row.within("longest wait", beside.worst, Duration::from_secs(2));
    row.equal("pingers lost", beside.lost, 0);
    row.equal("newcomers not served", newcomers, 0);
    Ok(())
}
