//! Floods of the smallest requests: a callback that takes them one by one in a loop always finds
//! another. Its answers must not pile up, and a client that reads gets them meanwhile.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::confine::Confine;
use crate::pingers::Talk;
use crate::process::{Server, pause};
use crate::report::{Outcome, Problem, Row};
use crate::run::Siege;

/// Bytes of requests.
const FRAMES: usize = 12 << 20;
const LINES: usize = 60 << 20;
/// Fewer where the client reads the answers, which are nine times as long.
const LINES_READ: usize = 16 << 20;
/// Memory that a server may take for a flood: its limits for one connection, and some.
const MEMORY: u64 = 48;

/// `rpc_server`: four bytes of zero are a whole request, and its answer.
pub(crate) fn empty_frames_unread(siege: &Siege, row: &mut Row) -> Outcome {
    unread(siege, row, "rpc_server", &[0; 4096], FRAMES, &frame())
}

pub(crate) fn empty_frames_read(_: &Siege, row: &mut Row) -> Outcome {
    read(row, "rpc_server", &[0; 4096], FRAMES, FRAMES)
}

/// `counter`: a byte is a whole line, and its answer has ten.
pub(crate) fn lines_unread(siege: &Siege, row: &mut Row) -> Outcome {
    unread(siege, row, "counter", &[b'\n'; 4096], LINES, &Talk::line())
}

pub(crate) fn lines_read(_: &Siege, row: &mut Row) -> Outcome {
    // The answers are longer than this.
    read(row, "counter", &[b'\n'; 4096], LINES_READ, 8 * LINES_READ)
}

fn frame() -> Talk {
    Talk { ask: b"\0\0\0\x04ping".to_vec(), answer: crate::pingers::Answer::Bytes(8) }
}

/// The client never reads.
fn unread(
    siege: &Siege,
    row: &mut Row,
    example: &str,
    chunk: &[u8],
    bytes: usize,
    talk: &Talk,
) -> Outcome {
    let mut server = Server::example(example, &["127.0.0.1:0"], &Confine::default())?;
    let before = server.process.resident();
    let mut client = TcpStream::connect(server.address)?;
    client.set_nonblocking(true)?;
    let begun = Instant::now();
    let (mut sent, mut peak) = (0, 0);
    while sent < bytes && begun.elapsed() < Duration::from_secs(if siege.long { 20 } else { 4 }) {
        match client.write(chunk) {
            Ok(bytes) => sent += bytes,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                pause(Duration::from_millis(1));
            }
            Err(error) => return Err(error.into()),
        }
        peak = peak.max(server.process.resident());
    }
    pause(Duration::from_millis(500));
    peak = peak.max(server.process.resident());
    let other = talk.newcomer(server.address, Duration::from_secs(2));
    server.is_alive()?;
    row.note("KiB taken", sent >> 10);
    row.below("memory", peak.saturating_sub(before), MEMORY, "MiB");
    row.soon("another client", other, Duration::from_secs(1));
    Ok(())
}

/// The client reads all the while, and counts what comes.
fn read(row: &mut Row, example: &str, chunk: &[u8], bytes: usize, answer: usize) -> Outcome {
    let mut server = Server::example(example, &["127.0.0.1:0"], &Confine::default())?;
    let before = server.process.resident();
    let begun = Instant::now();
    let mut client = TcpStream::connect(server.address)?;
    let hello = example == "counter";
    if hello {
        client.read_exact(&mut [0; 21])?;
    }
    let sender = send(client.try_clone()?, chunk.to_vec(), bytes);
    client.set_read_timeout(Some(Duration::from_secs(5)))?;
    let (mut received, mut first, mut peak, mut end) = (0, None, 0, String::new());
    let mut buffer = vec![0; 64 << 10];
    while received < answer && begun.elapsed() < Duration::from_secs(20) {
        match client.read(&mut buffer) {
            Ok(bytes) if bytes > 0 => received += bytes,
            ended => {
                end = format!(", then {ended:?}");
                break;
            }
        }
        first.get_or_insert(begun.elapsed());
        if received % 64 == 0 {
            peak = peak.max(server.process.resident());
        }
    }
    // Also ends the wait of the sender.
    let _ = client.shutdown(Shutdown::Both);
    drop(sender.join());
    server.is_alive()?;
    peak = peak.max(server.process.peak());
    row.note("MiB received", received >> 20);
    row.soon("first answer", first, Duration::from_secs(1));
    row.below("memory", peak.saturating_sub(before), MEMORY, "MiB");
    if received < answer {
        return Err(Problem::Broken(format!("{received} of {answer} bytes came back{end}")));
    }
    Ok(())
}

fn send(mut stream: TcpStream, chunk: Vec<u8>, bytes: usize) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        for _ in 0..bytes / chunk.len() {
            if stream.write_all(&chunk).is_err() {
                return;
            }
        }
    })
}
