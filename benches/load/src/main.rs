//! `load`: measures a server from outside, over its sockets, and checks every byte it sends back.
//!
//! It is neutral: its epoll loop is its own and shares nothing with netpoll. `README.md` beside the
//! benches says what is measured and what is not.

#![expect(
    clippy::cast_precision_loss,
    reason = "what is divided is shown with fewer digits than a float has"
)]

mod bulk;
mod connection;
mod datagrams;
mod flood;
mod flow;
mod idle;
mod json;
mod measure;
mod options;
mod pattern;
mod poller;
mod process;
mod progress;
mod report;
mod schedule;
mod socket;
mod tally;
mod udp;
mod upgrade;
mod worker;

use std::io::{self, Write};
use std::process::ExitCode;

use options::{Mode, Options, USAGE};
use report::Report;

/// The exit status for arguments that make no sense; 1 is for a run that failed.
const WRONG_ARGUMENTS: u8 = 2;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--help" || argument == "-h") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let options = match Options::parse(arguments) {
        Ok(options) => options,
        Err(sentence) => {
            eprintln!("load: {sentence}\n\n{USAGE}");
            return ExitCode::from(WRONG_ARGUMENTS);
        }
    };
    match run(&options) {
        Ok(report) if report.tally.errors() > 0 => ExitCode::FAILURE, // the report names them
        Ok(report) if report.tally.requests == 0 => {
            eprintln!("load: nothing was answered within the time of measurement");
            ExitCode::FAILURE
        }
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> io::Result<Report<'_>> {
    socket::allow_descriptors(options.connections)?;
    let report = match options.mode {
        Mode::Idle => idle::run(options)?,
        _ => measure::run(options)?,
    };
    let text = if options.json { report.json() } else { report.table() };
    writeln!(io::stdout(), "{text}")?;
    Ok(report)
}
