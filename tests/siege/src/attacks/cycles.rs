//! 100 servers in one process, one after the other: each serves and stops, and leaves nothing
//! behind.

use std::time::Duration;

use crate::confine::Confine;
use crate::process::{Process, role};
use crate::report::{Outcome, Problem, Row};
use crate::run::Siege;

pub(crate) fn run(siege: &Siege, row: &mut Row) -> Outcome {
    let times = if siege.long { "1000" } else { "100" };
    let mut process = Process::start(&role("cycles", &[times])?, &Confine::default())?;
    let before = process.says("warm ", Duration::from_secs(30));
    let before = before.ok_or_else(|| Problem::Broken(process.last_words()))?;
    // It prints what it reads of itself: descriptors, threads, MiB.
    let patience = Duration::from_secs(if siege.long { 300 } else { 60 });
    let after = process.says("done ", patience);
    let after = after.ok_or_else(|| Problem::Broken(process.last_words()))?;
    let numbers = |text: &str| -> Vec<usize> {
        text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
    };
    let (before, after) = (numbers(&before), numbers(&after));
    let [descriptors, threads, memory] = before[..] else { return Err(unreadable()) };
    let [descriptors_after, threads_after, memory_after] = after[..] else {
        return Err(unreadable());
    };
    row.note("times", times);
    row.note("took", format_args!("{} s", process.started.elapsed().as_secs()));
    row.equal("descriptors", descriptors_after, descriptors);
    row.equal("threads", threads_after, threads);
    row.below("memory more", memory_after.saturating_sub(memory) as u64, 8, "MiB");
    Ok(())
}

fn unreadable() -> Problem {
    Problem::broken("it says nothing of itself")
}
