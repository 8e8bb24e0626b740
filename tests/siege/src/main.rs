//! Attacks on servers of netpoll, each with its figures and its limits.
//!
//! ```text
//! cargo run --release -p siege -- [--long] [--list] [NAME…]
//! ```
//!
//! Each attack is one line of output, `ok`, `FAILED`, `NOT YET` (it is known not to hold) or `SKIP`
//! (this machine lacks what it needs). The last line counts them. The status is 0 if none failed.
//! `docs/reliability.md` says what each attack is for.

mod attacks;
mod confine;
mod crowd;
mod cycles;
mod pingers;
mod process;
mod report;
mod run;
mod serve;
mod trickle;

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    // The first word makes this program one of its own children.
    match args.split_first().map(|(role, rest)| (role.as_str(), rest)) {
        Some(("confine", rest)) => confine::main(rest),
        Some(("serve", rest)) => serve::main(rest),
        Some(("cycles", rest)) => cycles::main(rest),
        Some(("trickle", rest)) => trickle::main(rest),
        _ => run::main(&args),
    }
}
