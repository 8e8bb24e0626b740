//! 1 000 clients that send their request byte by byte, slower than the server's `min_receive_rate`:
//! each is cut off, and the others are served meanwhile.

use std::io::Write;
use std::time::{Duration, Instant};

use super::{Mode, PERIOD, PINGERS};
use crate::confine::Confine;
use crate::crowd::{is_over, many};
use crate::pingers::{Pingers, Talk};
use crate::process::{Server, pause};
use crate::report::{Outcome, Row};
use crate::run::Siege;

const CLIENTS: usize = 1_000;

pub(crate) fn run(siege: &Siege, row: &mut Row, mode: Mode) -> Outcome {
    // The server demands four bytes a second, two are sent; the first of them within two seconds.
    let args = mode.with(&["--first-byte", "2000", "--rate", "4"]);
    let mut server = Server::own(&args, &Confine::default())?;
    let pingers = Pingers::start(server.address, PINGERS, &Talk::command(b'p', 0), PERIOD)?;
    pause(Duration::from_secs(1));
    let alone = pingers.take();

    let (mut cut_off, mut last) = (0, Duration::ZERO);
    for _ in 0..if siege.long { 5 } else { 1 } {
        let mut crowd = many(server.address, CLIENTS)?;
        let begun = Instant::now();
        let mut round = 0;
        while !crowd.is_empty() && begun.elapsed() < Duration::from_secs(6) {
            let before = crowd.len();
            // Some never send anything.
            for (_, client) in crowd.iter_mut().enumerate().filter(|(number, _)| number % 10 > 0) {
                if round < 7 {
                    let _ = client.write(b"l"); // the next look checks whether it has ended
                }
            }
            crowd.retain_mut(|client| !is_over(client));
            if crowd.len() < before {
                last = last.max(begun.elapsed());
            }
            cut_off += before - crowd.len();
            round += 1;
            pause(Duration::from_millis(500));
        }
        row.equal("not cut off", crowd.len(), 0);
    }
    let beside = pingers.take();
    server.is_alive()?;
    row.note("cut off", cut_off);
    row.within("the last after", last, Duration::from_secs(6));
    beside.report(row, &alone);
    Ok(())
}
