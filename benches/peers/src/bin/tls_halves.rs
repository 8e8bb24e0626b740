//! How fast the owner of a connection opens records while another thread seals them on the same
//! connection: the two meet at one lock.
//!
//! ```text
//! tls_halves CHAIN KEY RECORD   MiB/s of the owner alone; of that, beside a thread that seals and
//!                               sends; beside one that only seals; and the longest seal, in µs
//! ```

use std::error::Error;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use netpoll::LinkBuffer;
use netpoll::filter::{Filter, FilterClient, FilterServer};
use netpoll::tls::{TlsClient, TlsConfig};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// What is sealed ahead, so that only the opening is measured.
const ROUND: usize = 8 << 20;
const ROUNDS: usize = 36;

/// What the other thread does meanwhile.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Beside {
    Nothing,
    /// It sends each record, to a socket from which nobody receives.
    Sender,
    Sealer,
}

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [chain, key, record] = &arguments[..] else { return Err("usage".into()) };
    let record: usize = record.parse()?;
    let server = TlsConfig::from_pem(chain.as_str(), key.as_str())?;
    let root = std::path::Path::new(chain).with_file_name("root.pem");
    let client = TlsClient::builder().roots(root).build()?;
    let peer = SocketAddr::from(([127, 0, 0, 1], 1)).into();
    let (client, server) = (client.dial("localhost:1", &peer)?, server.accept(&peer, None)?);
    shake_hands(&*client, &*server)?;

    let (mut rates, mut longest) = ([const { Vec::new() }; 3], Duration::ZERO);
    for round in 0..ROUNDS {
        let beside = [Beside::Nothing, Beside::Sender, Beside::Sealer][round % 3];
        let wire = seal(&*client, ROUND, record)?;
        let done = Arc::new(AtomicBool::new(beside == Beside::Nothing));
        let sender = {
            let (server, done) = (server.clone(), done.clone());
            thread::spawn(move || hammer(&*server, &done, record, beside))
        };
        rates[round % 3].push(open(&*server, wire)?);
        done.store(true, Ordering::Relaxed);
        longest = longest.max(sender.join().map_err(|_| "it panicked")?);
    }
    let [alone, sender, sealer] = rates.map(median);
    let micros = longest.as_secs_f64() * 1e6;
    println!("{alone:.0} {:.3} {:.3} {micros:.0}", sender / alone, sealer / alone);
    Ok(())
}

fn shake_hands(client: &dyn Filter, server: &dyn Filter) -> Outcome<()> {
    let (mut there, mut back, nothing) = (Vec::new(), Vec::new(), &mut LinkBuffer::new());
    for _ in 0..4 {
        there.extend(said(client));
        let used = server.open(&mut there, 1, nothing)?.used;
        there.drain(..used);
        back.extend(said(server));
        let used = client.open(&mut back, 1, nothing)?.used;
        back.drain(..used);
    }
    Ok(())
}

fn said(filter: &dyn Filter) -> Vec<u8> {
    let mut wire = LinkBuffer::new();
    filter.say(&mut wire);
    bytes(wire)
}

fn bytes(mut wire: LinkBuffer) -> Vec<u8> {
    wire.flush();
    wire.chunks().flatten().copied().collect()
}

/// As many plain bytes, as records of this length.
fn seal(filter: &dyn Filter, plain: usize, record: usize) -> Outcome<Vec<u8>> {
    let (message, mut wire) = (LinkBuffer::from(vec![b'x'; record]), LinkBuffer::new());
    for _ in 0..plain / record {
        let mut from = 0;
        while from < record {
            from += filter.seal(&message, from, &mut wire)?;
        }
    }
    Ok(bytes(wire))
}

/// MiB of plain bytes a second.
fn open(filter: &dyn Filter, mut wire: Vec<u8>) -> Outcome<f64> {
    let (begin, mut used, mut plain) = (Instant::now(), 0, 0);
    while used < wire.len() {
        // As much as one receive brings.
        let end = wire.len().min(used + (64 << 10));
        let mut opened = LinkBuffer::new();
        let taken = filter.open(&mut wire[used..end], usize::MAX, &mut opened)?.used;
        opened.flush();
        plain += opened.len();
        used += taken;
    }
    Ok(plain as f64 / (1 << 20) as f64 / begin.elapsed().as_secs_f64())
}

/// Seals until it is told to end; returns the longest time that one took.
fn hammer(filter: &dyn Filter, done: &AtomicBool, record: usize, beside: Beside) -> Duration {
    let nobody = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let out = UdpSocket::bind("127.0.0.1:0").expect("a port");
    out.connect(nobody.local_addr().expect("an address")).expect("it connects");
    let (message, mut longest) = (LinkBuffer::from(vec![b'y'; record]), Duration::ZERO);
    while !done.load(Ordering::Relaxed) {
        let begin = Instant::now();
        let mut wire = LinkBuffer::new();
        filter.seal(&message, 0, &mut wire).expect("the connection is open");
        longest = longest.max(begin.elapsed());
        if beside == Beside::Sender {
            out.send(&bytes(wire)).expect("it is dropped");
        }
    }
    longest
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}
