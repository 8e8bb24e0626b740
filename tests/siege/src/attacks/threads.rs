//! The system refuses threads: from the start, or once the server serves.

use std::io::Write;
use std::time::Duration;

use super::half_requests::greeting;
use super::{Mode, PERIOD};
use crate::confine::Confine;
use crate::crowd::many;
use crate::pingers::{Pingers, Talk};
use crate::process::{Process, Server, pause, role};
use crate::report::{Outcome, Problem, Row};
use crate::run::Siege;

/// What a server under a limit of threads did.
enum Did {
    /// It printed that it can't serve, and ended.
    Refused,
    Serves,
    /// It printed that it listens, and ended.
    Announced,
    /// It runs, and answers no client.
    Deaf,
}

/// With each limit, from one thread on, the server serves, or it ends with an error.
pub(crate) fn at_start(siege: &Siege, row: &mut Row, mode: Mode) -> Outcome {
    let (mut refused, mut serve, mut announced, mut deaf) = (0, 0, 0, 0);
    let most = if siege.long { 24 } else { 10 };
    for threads in 1..=most {
        let confine = Confine { threads: Some(threads), ..Confine::default() };
        match start(mode, &confine)? {
            Did::Refused => refused += 1,
            Did::Serves => serve += 1,
            Did::Announced => announced += 1,
            Did::Deaf => deaf += 1,
        }
    }
    row.note("limits", format_args!("1 to {most}"));
    row.note("refused by name", refused);
    row.note("serve", serve);
    row.equal("run and answer no client", deaf, 0);
    row.equal("end after they said that they listen", announced, 0);
    if serve == 0 {
        return Err(Problem::broken("not one server served"));
    }
    Ok(())
}

fn start(mode: Mode, confine: &Confine) -> Result<Did, Problem> {
    let mut server = match Server::own(mode.args(), confine) {
        Ok(server) => server,
        Err(Problem::Broken(why)) if why.starts_with("it ended") => return Ok(Did::Refused),
        Err(problem) => return Err(problem),
    };
    let talk = Talk::command(b'p', 0);
    // Two, as there are several loops.
    for _ in 0..2 {
        if talk.newcomer(server.address, Duration::from_secs(1)).is_none() {
            let ended = server.process.ended().is_some();
            return Ok(if ended { Did::Announced } else { Did::Deaf });
        }
    }
    Ok(Did::Serves)
}

/// Callbacks block, and the system refuses threads for them: the other connections are still
/// served.
pub(crate) fn refused(siege: &Siege, row: &mut Row, mode: Mode) -> Outcome {
    let least = least(mode)?;
    let confine = Confine { threads: Some(least + 4), ..Confine::default() };
    let mut server = Server::own(mode.args(), &confine)?;
    let pingers = Pingers::start(server.address, 20, &Talk::command(b'p', 0), PERIOD)?;
    pause(Duration::from_secs(1));
    let alone = pingers.take();

    let mut crowd = many(server.address, 600)?;
    for client in &mut crowd {
        client.write_all(b"h")?;
    }
    pause(Duration::from_secs(if siege.long { 10 } else { 2 }));
    let beside = pingers.take();
    drop(crowd);
    pause(Duration::from_secs(1));
    let after = Talk::command(b'p', 0).newcomer(server.address, Duration::from_secs(5));
    server.is_alive()?;
    row.note("threads at most", least + 4);
    beside.report(row, &alone);
    row.soon("newcomer after", after, Duration::from_secs(1));
    Ok(())
}

/// The least limit with which a server of that mode starts.
pub(super) fn least(mode: Mode) -> Result<u64, Problem> {
    for threads in 1..40 {
        let confine = Confine { threads: Some(threads), ..Confine::default() };
        match Process::start(&role("serve", mode.args())?, &confine)?
            .says("listening on ", Duration::from_secs(3))
        {
            Some(_) => return Ok(threads),
            None if threads == 1 => missing(mode)?,
            None => {}
        }
    }
    Err(Problem::broken("it does not start with 39 threads"))
}

/// Without the right to limit threads the attack shows nothing.
fn missing(mode: Mode) -> Outcome {
    let confine = Confine { threads: Some(500), ..Confine::default() };
    Server::own(mode.args(), &confine).map(drop)
}

/// 600 clients of `socks5` that send a byte and leave: afterwards it serves as before.
pub(crate) fn socks5(siege: &Siege, row: &mut Row) -> Outcome {
    let limits: &[u64] = if siege.long { &[14, 20, 40, 100, 250] } else { &[14, 40] };
    for &limit in limits {
        let confine = Confine { threads: Some(limit), ..Confine::default() };
        let mut proxy = Server::example("socks5", &["127.0.0.1:0"], &confine)?;
        let mut crowd = many(proxy.address, 600)?;
        for client in &mut crowd {
            client.write_all(&[5])?;
        }
        pause(Duration::from_millis(500));
        drop(crowd);
        pause(Duration::from_secs(1));
        let after = greeting(proxy.address, Duration::from_secs(3));
        proxy.is_alive()?;
        let name = format!("{limit} threads: newcomer after");
        row.soon(&name, after, Duration::from_secs(1));
    }
    Ok(())
}
