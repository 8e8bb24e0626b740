//! Datagrams in one direction, as fast as they go, to a server that counts them.
//!
//! ```text
//!   ──► size bytes, again and again, on each flow in turn
//!   ──► "count?": asks for the counts
//!   ◄── how many datagrams of another size came, and their bytes: 8 bytes each, big-endian
//! ```
//!
//! What was sent in the window and not counted at its end was dropped.

use std::io;
use std::time::{Duration, Instant};

use crate::schedule::{Share, Window};
use crate::tally::Tally;
use crate::udp::{Udp, train};
use crate::worker::Run;

/// What asks for the count. It is shorter than any datagram of a flood.
const QUESTION: &[u8; 6] = b"count?";
/// How long one answer may take, and how often it is asked for: a full buffer drops questions, too.
const ANSWER_WITHIN: Duration = Duration::from_millis(100);
const QUESTIONS_MAX: u32 = 50;
/// Datagrams between two looks at the clock, unless a train has more.
const BURST: usize = 32;

#[derive(Debug)]
pub(crate) struct Flood<'a> {
    run: Run<'a>,
    flows: Vec<Udp>,
    /// Asks, on a port of its own.
    asking: Udp,
    /// Datagrams of one call, ready to be sent.
    bytes: Box<[u8]>,
    train: usize,
}

/// What the server has counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Count {
    datagrams: u64,
    bytes: u64,
}

impl<'a> Flood<'a> {
    /// Opens the sockets; the one thread has all of them.
    pub(crate) fn connect(run: Run<'a>, share: Share) -> io::Result<Self> {
        let options = run.options;
        let open = |_| Udp::connect(options.address);
        let flows = share.ids().map(open).collect::<io::Result<Vec<_>>>()?;
        let train = if options.gso { train(options.size) } else { 1 };
        let mut bytes = vec![0; train * options.size];
        run.pattern.fill(0, 0, &mut bytes);
        let asking = Udp::connect(options.address)?;
        Ok(Self { run, flows, asking, bytes: bytes.into(), train })
    }

    /// Runs from the window's start to its end.
    pub(crate) fn run(mut self, window: Window) -> io::Result<Tally> {
        let mut tally = Tally::new();
        self.send_until(window.from)?;
        let before = self.ask()?;
        let sent = self.send_until(window.until)?;
        tally.measured = window.measured(Instant::now());
        let after = self.ask()?;
        tally.requests = after.datagrams.saturating_sub(before.datagrams);
        tally.bytes = after.bytes.saturating_sub(before.bytes);
        tally.sent = Some(sent);
        tally.lost = sent.saturating_sub(tally.requests);
        let expected = tally.requests * self.run.options.size as u64;
        if tally.requests > sent || tally.bytes != expected {
            tally.error(format!(
                "the server counted {} datagrams and {} bytes, of {sent} datagrams of {} bytes",
                tally.requests, tally.bytes, self.run.options.size
            ));
        }
        Ok(tally)
    }

    /// How many datagrams were sent.
    fn send_until(&self, until: Instant) -> io::Result<u64> {
        let mut sent = 0;
        for flow in self.flows.iter().cycle() {
            if Instant::now() >= until {
                break;
            }
            for _ in 0..BURST.div_ceil(self.train) {
                flow.send(&self.bytes, self.run.options.size)?;
                sent += self.train as u64;
            }
            self.run.live.add(BURST.next_multiple_of(self.train) as u64, 0);
        }
        Ok(sent)
    }

    /// What the server has counted of all that was sent before.
    fn ask(&mut self) -> io::Result<Count> {
        let mut answer = [0; 64];
        for _ in 0..QUESTIONS_MAX {
            self.asking.send(QUESTION, QUESTION.len())?;
            let until = Instant::now() + ANSWER_WITHIN;
            while Instant::now() < until {
                match self.asking.receive(&mut answer)? {
                    Some((16, _)) => return Ok(Count::read(&answer)),
                    Some((bytes, _)) => {
                        let text = format!("the server answered a question with {bytes} bytes");
                        return Err(io::Error::other(text));
                    }
                    // The server may have this core alone to answer on.
                    None => std::thread::yield_now(),
                }
            }
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "the server did not say what it has counted"))
    }
}

impl Count {
    fn read(answer: &[u8; 64]) -> Self {
        let number = |at: usize| {
            let bytes = answer[at..at + 8].try_into().expect("eight bytes");
            u64::from_be_bytes(bytes)
        };
        Self { datagrams: number(0), bytes: number(8) }
    }
}
