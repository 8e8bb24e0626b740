//! Echoes of datagrams: flows with so many on the way each, and what is lost counted.
//!
//! A flow receives all that has come before it sends what the answers have released, so what is
//! released together leaves together: one call each, or with `--gso` as trains.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use crate::connection::Interest;
use crate::flow::{Answer, Flow};
use crate::pattern::SIZE_MIN;
use crate::poller::Poller;
use crate::schedule::{Share, Window};
use crate::tally::Tally;
use crate::udp::{RECEIVED_MAX, Udp, train};
use crate::worker::Run;

/// How often flows are looked at that may have lost something.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// One thread's share of the flows.
#[derive(Debug)]
pub(crate) struct Datagrams<'a> {
    run: Run<'a>,
    window: Window,
    poller: Poller,
    flows: Vec<(Flow, Udp)>,
    /// Datagrams that leave in one call at most.
    train: usize,
    received: Box<[u8]>,
    sent: Box<[u8]>,
    tally: Tally,
}

impl<'a> Datagrams<'a> {
    /// Opens the sockets of a share.
    pub(crate) fn connect(run: Run<'a>, share: Share) -> io::Result<Self> {
        let (now, options) = (Instant::now(), run.options);
        let open = |id: u32| Ok((Flow::new(id, now), Udp::connect(options.address)?));
        let flows = share.ids().map(open).collect::<io::Result<Vec<_>>>()?;
        let poller = Poller::new()?;
        for (index, (_, udp)) in flows.iter().enumerate() {
            poller.add(udp.socket().as_fd(), index, Interest::Answers)?;
        }
        let train = if options.gso { train(options.size) } else { 1 };
        Ok(Self {
            run,
            window: Window::new(now, Duration::ZERO, Duration::ZERO),
            poller,
            flows,
            train,
            received: vec![0; RECEIVED_MAX].into(),
            sent: vec![0; train * options.size].into(),
            tally: Tally::new(),
        })
    }

    /// Runs from the window's start to its end.
    ///
    /// # Errors
    ///
    /// If a socket fails: the server is gone.
    pub(crate) fn run(mut self, window: Window) -> io::Result<Tally> {
        self.window = window;
        for index in 0..self.flows.len() {
            self.send(index, self.run.options.depth as usize)?;
        }
        let mut look = Instant::now() + LOOK_EVERY;
        while Instant::now() < window.until {
            for at in 0..self.poller.wait(window.until.min(look), None)? {
                if let Some(event) = self.poller.event(at) {
                    self.go_on(event.index)?;
                }
            }
            if Instant::now() >= look {
                look = Instant::now() + LOOK_EVERY;
                self.give_up_lost()?;
            }
        }
        Ok(self.end())
    }

    fn end(mut self) -> Tally {
        let now = Instant::now();
        self.tally.measured = self.window.measured(now);
        let waiting = || self.flows.iter().flat_map(|(flow, _)| flow.waiting());
        self.tally.unanswered = waiting().count() as u64;
        let end = now.min(self.window.until);
        let oldest = waiting().min().map(|since| end.saturating_duration_since(since));
        self.tally.oldest = oldest.unwrap_or_default();
        self.tally.reordered = self.flows.iter().map(|(flow, _)| flow.reordered).sum();
        self.tally
    }

    /// Receives what has come on a flow, and sends what that has released.
    fn go_on(&mut self, index: usize) -> io::Result<()> {
        let mut released = 0;
        // No more can have come than was on the way, so this ends, however fast the server is.
        for _ in 0..self.run.options.depth {
            let (_, udp) = &mut self.flows[index];
            match udp.receive(&mut self.received)? {
                Some((bytes, size)) => released += self.take(index, bytes, size),
                None => break,
            }
        }
        self.send(index, released)
    }

    /// Checks what came in one call: how many datagrams it released.
    fn take(&mut self, index: usize, bytes: usize, size: usize) -> usize {
        let now = Instant::now();
        let (mut answered, mut wrong) = (0, None);
        let (flow, _) = &mut self.flows[index];
        if bytes == 0 {
            wrong = Some("an empty datagram came back".to_owned());
        }
        for datagram in self.received[..bytes].chunks(size.max(1)) {
            match check(flow, datagram, self.run, now) {
                Ok(Some(since)) => {
                    self.tally.answered(&self.window, since, now);
                    answered += 1;
                }
                Ok(None) => {}
                Err(error) => wrong = Some(error),
            }
        }
        if self.window.measures(now) {
            self.tally.requests += answered as u64;
            self.tally.bytes += (answered * self.run.options.size) as u64;
        }
        self.run.live.add(answered as u64, 0);
        if let Some(wrong) = wrong {
            self.error(index, &wrong);
        }
        answered
    }

    /// Sends the next datagrams of a flow.
    fn send(&mut self, index: usize, mut count: usize) -> io::Result<()> {
        let size = self.run.options.size;
        while count > 0 {
            let now = Instant::now();
            let (flow, udp) = &mut self.flows[index];
            let together = count.min(self.train);
            let sequence = flow.send(together, now);
            let bytes = &mut self.sent[..together * size];
            self.run.pattern.fill(flow.id, sequence * size as u64, bytes);
            udp.send(bytes, size)?;
            count -= together;
        }
        Ok(())
    }

    /// Sends anew where everything that was on the way is lost.
    fn give_up_lost(&mut self) -> io::Result<()> {
        let now = Instant::now();
        for index in 0..self.flows.len() {
            let lost = self.flows[index].0.give_up(now);
            if self.window.measures(now) {
                self.tally.lost += lost as u64;
            }
            self.send(index, lost)?;
        }
        Ok(())
    }

    fn error(&mut self, index: usize, text: &str) {
        self.tally.error(format!("flow {}: {text}", self.flows[index].0.id));
        self.run.live.add(0, 1);
    }
}

/// Whether a datagram is an answer, byte by byte: since when it was waited for.
fn check(
    flow: &mut Flow,
    datagram: &[u8],
    run: Run<'_>,
    now: Instant,
) -> Result<Option<Instant>, String> {
    let size = run.options.size;
    if datagram.len() != size {
        return Err(format!("{} bytes came back of a datagram of {size}", datagram.len()));
    }
    let sequence = datagram[SIZE_MIN - 8..SIZE_MIN].try_into().expect("eight bytes");
    let sequence = u64::from_le_bytes(sequence);
    let position = sequence.checked_mul(size as u64);
    let position = position.ok_or_else(|| format!("there is no datagram {sequence}"))?;
    run.pattern.check(flow.id, position, datagram).map_err(|mismatch| mismatch.to_string())?;
    match flow.answered(sequence, now) {
        Answer::Due(since) => Ok(Some(since)),
        Answer::Late => Ok(None),
        Answer::Unasked => Err(format!("datagram {sequence} came back unasked")),
    }
}
