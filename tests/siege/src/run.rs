//! The command line: which attacks run, a line for each, and the count at the end.

use std::process::{Command, ExitCode};
use std::time::Instant;

use crate::attacks::{self, Attack};
use crate::crowd::raise_descriptors;
use crate::report::{Problem, Row};

const USAGE: &str = "usage: siege [--long] [--list] [NAME…]";

/// How the attacks are run.
pub(crate) struct Siege {
    /// Long enough to see what builds up slowly, rather than a few seconds each.
    pub(crate) long: bool,
}

#[derive(Default)]
struct Count {
    ok: usize,
    failed: usize,
    not_yet: usize,
    skipped: usize,
}

pub(crate) fn main(args: &[String]) -> ExitCode {
    let (flags, names): (Vec<&String>, Vec<&String>) =
        args.iter().partition(|arg| arg.starts_with('-'));
    let known = |flag: &&String| matches!(flag.as_str(), "--long" | "--list");
    let attacks = attacks::all();
    let chosen = |name: &str| names.is_empty() || names.iter().any(|it| name.contains(it.as_str()));
    let mut attacks: Vec<&Attack> = attacks.iter().filter(|it| chosen(it.name)).collect();
    if attacks.is_empty() || !flags.iter().all(known) {
        eprintln!("{USAGE}");
        return ExitCode::FAILURE;
    }
    if flags.iter().any(|flag| *flag == "--list") {
        attacks.drain(..).for_each(|attack| println!("{}", attack.name));
        return ExitCode::SUCCESS;
    }
    if let Err(why) = build_examples() {
        eprintln!("{why}");
        return ExitCode::FAILURE;
    }
    raise_descriptors();
    let siege = Siege { long: flags.iter().any(|flag| *flag == "--long") };
    let mut count = Count::default();
    let begun = Instant::now();
    for attack in attacks {
        carry_out(&siege, attack, &mut count);
    }
    let Count { ok, failed, not_yet, skipped } = count;
    let seconds = begun.elapsed().as_secs();
    println!("{ok} ok, {failed} FAILED, {not_yet} NOT YET, {skipped} SKIP in {seconds} s");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The attacks are on the current tree: under `cargo run` the examples are built first.
fn build_examples() -> Result<(), String> {
    let Some(cargo) = std::env::var_os("CARGO") else { return Ok(()) };
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--locked", "--package", "netpoll", "--examples"]);
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    let status = command.status().map_err(|error| format!("cargo: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("the examples: {status}")) }
}

fn carry_out(siege: &Siege, attack: &Attack, count: &mut Count) {
    let mut row = Row::default();
    let begun = Instant::now();
    let outcome = (attack.run)(siege, &mut row);
    let (name, seconds) = (attack.name, begun.elapsed().as_secs_f64());
    let (verdict, text) = match outcome {
        Err(Problem::Missing(what)) => {
            count.skipped += 1;
            ("SKIP", format!("this machine lacks {what}"))
        }
        Ok(()) if row.holds() => {
            count.ok += 1;
            (if attack.not_yet.is_some() { "ok now" } else { "ok" }, row.to_string())
        }
        outcome => {
            let why = match outcome {
                Err(Problem::Broken(why)) => format!("!! {why}; {row}"),
                _ => row.to_string(),
            };
            if let Some(since) = attack.not_yet {
                count.not_yet += 1;
                ("NOT YET", format!("{why} ({since})"))
            } else {
                count.failed += 1;
                ("FAILED", why)
            }
        }
    };
    println!("{verdict:<7} {name:<28} [{seconds:4.1} s] {text}");
}
