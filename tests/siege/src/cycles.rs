//! The child of `start-and-stop`: servers that start and stop in one process.

use std::fs;
use std::net::TcpStream;
use std::process::ExitCode;
use std::time::Duration;

use netpoll::{Connection, Dispatch, EventLoop, Listener, PoolOptions, Result};

use crate::pingers::Talk;
use crate::process::{pause, until};

/// Cycles before anything is counted: resources that are made once are made then.
const WARM: usize = 5;

/// `cycles TIMES`: prints `warm …`, and `done …` after so many more, each with the resources of the
/// process.
pub(crate) fn main(args: &[String]) -> ExitCode {
    let times = args.first().and_then(|times| times.parse().ok()).unwrap_or(1);
    match (0..WARM).try_for_each(cycle) {
        Ok(()) => println!("warm {}", settled()),
        Err(error) => return failed(&error),
    }
    match (0..times).try_for_each(cycle) {
        Ok(()) => println!("done {}", settled()),
        Err(error) => return failed(&error),
    }
    // The parent reads both lines while this process runs.
    pause(Duration::from_secs(2));
    ExitCode::SUCCESS
}

fn failed(error: &netpoll::Error) -> ExitCode {
    println!("failed: {error}");
    ExitCode::FAILURE
}

fn cycle(number: usize) -> Result<()> {
    let dispatch = match number % 3 {
        0 => Dispatch::default(),
        1 => Dispatch::Inline,
        _ => Dispatch::Pool(PoolOptions::default()),
    };
    let server = EventLoop::builder()
        .on_request(|(): &mut (), conn: &mut Connection| {
            let (mut reader, mut writer) = conn.split();
            writer.append(reader.slice(reader.len())?);
            writer.flush()
        })
        .dispatch(dispatch)
        .build()?
        .spawn(Listener::bind("tcp", "127.0.0.1:0")?)?;
    let address = server.address().to_string();
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = TcpStream::connect(&address)?;
        Talk::echo().once(&mut client, Duration::from_secs(5))?;
        clients.push(client);
    }
    // Half of them have gone before it stops.
    clients.truncate(2);
    server.shutdown(Duration::from_secs(5));
    server.wait().map(drop)
}

/// Descriptors, threads and MiB, once threads that end have ended.
fn settled() -> String {
    until(Duration::from_secs(2), || count("/proc/self/task") <= 1);
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = resident.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok());
    // The directory that is read is open meanwhile, both times.
    let (descriptors, threads) = (count("/proc/self/fd"), count("/proc/self/task"));
    format!("{descriptors} {threads} {}", kib.unwrap_or_default() >> 10)
}

fn count(directory: &str) -> usize {
    fs::read_dir(directory).map_or(0, Iterator::count)
}
