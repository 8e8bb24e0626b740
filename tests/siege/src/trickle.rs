//! The child of `stopped/clients`: streams numbered bytes through an echo server, and compares.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

/// Bytes that are streamed: more than all buffers on the way take.
const BYTES: usize = 256 << 20;
/// A prime, so that no buffer begins where another one does.
const PATTERN: usize = 65_521;

/// `trickle ADDRESS`: prints `streaming` after the first bytes, and `whole` after the last.
pub(crate) fn main(args: &[String]) -> ExitCode {
    let Some(address) = args.first() else { return ExitCode::FAILURE };
    match stream(address) {
        Ok(true) => {
            println!("whole");
            ExitCode::SUCCESS
        }
        outcome => {
            println!("other bytes, or an error: {outcome:?}");
            ExitCode::FAILURE
        }
    }
}

fn stream(address: &str) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let pattern: Vec<u8> = (0..PATTERN).map(|number| number.to_le_bytes()[number % 2]).collect();
    let (mut sender, sent) = (stream.try_clone()?, pattern.clone());
    let sending = thread::spawn(move || -> std::io::Result<()> {
        (0..BYTES / PATTERN).try_for_each(|_| sender.write_all(&sent))
    });
    let mut received = vec![0; PATTERN];
    for round in 0..BYTES / PATTERN {
        stream.read_exact(&mut received)?;
        if received != pattern {
            return Ok(false);
        }
        if round == 0 {
            println!("streaming");
        }
    }
    Ok(sending.join().is_ok_and(|sent| sent.is_ok()))
}
