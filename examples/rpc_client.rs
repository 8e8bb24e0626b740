//! Loads the example `rpc_server` in one of three ways, and prints what it reached.
//!
//! Shows `Pool`, where each request has a connection of its own while it lasts, and `Mux`, where
//! the requests of all threads share four.
//!
//! ```text
//! cargo run --release --example rpc_server &
//! cargo run --release --example rpc_client -- pool|idle|mux [ADDRESS] [THREADS] [SECONDS] [BYTES]
//!                                                 (pool 127.0.0.1:7010 64 5 1024)
//! ```
//! `pool`: long connections. `idle`: four times as many besides, which idle. `mux`: four in all.

use std::io;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use netpoll::{Connection, Dialer, Error, LinkBuffer, Mux, MuxProtocol, Pool, Pooled, Result};

const TIMEOUT: Duration = Duration::from_secs(5);
const USAGE: &str = "usage: rpc_client [pool|idle|mux] [ADDRESS] [THREADS] [SECONDS] [BYTES]";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Err(error) = load(&args) else { return ExitCode::SUCCESS };
    eprintln!("{error}");
    ExitCode::FAILURE
}

fn load(args: &[String]) -> Result<()> {
    let scenario = args.first().map_or("pool", String::as_str);
    let address = args.get(1).map_or("127.0.0.1:7010", String::as_str);
    let number = |at: usize, default| {
        let given = args.get(at).map_or(Ok(default), |it| it.parse::<u32>());
        given.map_err(|_| Error::config(USAGE))
    };
    let (threads, seconds, bytes) = (number(2, 64)? as usize, number(3, 5)?, number(4, 1024)?);
    let (time, body) = (Duration::from_secs(seconds.into()), vec![b'x'; bytes as usize]);
    if !["pool", "idle", "mux"].contains(&scenario) {
        return Err(Error::config(USAGE));
    }
    if scenario == "mux" {
        // Without `reconnect` a server that is not there is told of at once.
        let mux = Mux::<Frames>::builder().connections(4).reconnect(None);
        let mux = mux.build("tcp", address, Frames)?;
        mux.connect(TIMEOUT)?;
        return run(&|| mux.call(body.clone(), TIMEOUT).map(drop), threads, time);
    }
    let (pool, _idle) = keep(address, threads, scenario == "idle")?;
    run(&|| exchange(&mut *pool.checkout("tcp", address, TIMEOUT)?, &body), threads, time)
}

/// A pool with a connection for each thread, and those that idle.
fn keep(address: &str, threads: usize, idle: bool) -> Result<(Pool, Vec<Pooled>)> {
    let pool = Pool::builder().max_open(threads * 5).max_idle(threads);
    let pool = pool.build(Dialer::builder().build()?)?;
    let idle = 0..if idle { threads * 4 } else { 0 };
    let idle: Result<_> = idle.map(|_| pool.checkout("tcp", address, TIMEOUT)).collect();
    Ok((pool, idle?))
}

fn exchange(conn: &mut Connection, body: &[u8]) -> Result<()> {
    conn.set_read_timeout(Some(TIMEOUT));
    conn.writer().write_bytes(&(body.len() as u32).to_be_bytes());
    conn.writer().write_bytes(body);
    conn.writer().flush()?;
    conn.reader().skip(4 + body.len())
}

/// The id of a request is the first 4 bytes of its payload.
struct Frames;

impl MuxProtocol for Frames {
    type Request = Vec<u8>;
    type Response = LinkBuffer;

    fn encode(&self, id: u32, body: Vec<u8>, out: &mut LinkBuffer) -> Result<()> {
        out.write_bytes(&(4 + body.len() as u32).to_be_bytes());
        out.write_bytes(&id.to_be_bytes());
        out.write_bytes(&body);
        Ok(())
    }

    fn decode(&self, input: &mut LinkBuffer) -> Result<Option<(u32, LinkBuffer)>> {
        let Ok(head) = input.peek(8) else { return Ok(None) };
        let number = |four: &[u8]| u32::from_be_bytes([four[0], four[1], four[2], four[3]]);
        let (len, id) = (number(head) as usize, number(&head[4..]));
        if input.len() < 4 + len {
            return Ok(None);
        }
        input.consume(8);
        let len = len.checked_sub(4).ok_or(io::ErrorKind::InvalidData).map_err(io::Error::from)?;
        Ok(Some((id, input.slice(len).map_err(io::Error::from)?)))
    }
}

/// Calls from so many threads for so long, with a progress line; then prints the result.
fn run(call: &(dyn Fn() -> Result<()> + Sync), threads: usize, time: Duration) -> Result<()> {
    let (done, begun) = (AtomicU32::new(0), Instant::now());
    let rate = || f64::from(done.load(Ordering::Relaxed)) / begun.elapsed().as_secs_f64();
    let work = || -> Result<Vec<Duration>> {
        let mut took = Vec::new();
        while begun.elapsed() < time {
            let begun = Instant::now();
            call()?;
            took.push(begun.elapsed());
            done.fetch_add(1, Ordering::Relaxed);
        }
        Ok(took)
    };
    let mut took = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        while begun.elapsed() < time && !workers.iter().all(|it| it.is_finished()) {
            thread::sleep(Duration::from_millis(200)); // sleep: the pace of the progress line
            eprint!("\r{:.0?} of {time:?}: {:.0} requests/s ", begun.elapsed(), rate());
        }
        eprintln!();
        let took = workers.into_iter().map(|it| it.join().expect("no panic"));
        took.collect::<Result<Vec<_>>>().map(|took| took.concat())
    })?;
    took.sort_unstable();
    let below = |permille| took.get(took.len() * permille / 1000).copied().unwrap_or_default();
    let [p50, p99, p999] = [500, 990, 999].map(below);
    println!("{:.0} requests/s, p50 {p50:.0?}, p99 {p99:.0?}, p99.9 {p999:.0?}", rate());
    Ok(())
}
