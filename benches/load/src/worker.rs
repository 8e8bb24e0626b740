//! One thread's loop: its share of the connections, an epoll instance and a timer.

use std::io;
use std::mem;
use std::time::{Duration, Instant};

use crate::connection::{Connection, Failure, Interest};
use crate::options::{Mode, Options};
use crate::pattern::Pattern;
use crate::poller::{Event, Poller};
use crate::schedule::{Share, Timetable, Window};
use crate::socket;
use crate::tally::{Live, Tally};
use crate::upgrade;

/// Bytes that one call sends or receives at most.
const BUFFER_SIZE: usize = 64 << 10;
/// Errors after which a thread that connects again and again stops trying.
const CHURN_ERRORS_MAX: u64 = 1000;

/// What releases messages.
#[derive(Debug)]
enum Pace {
    /// Each answer releases the next message, with so many on the way.
    Closed { depth: u32 },
    /// The clock, no matter what the answers do.
    Open(Timetable),
    /// Room in the socket.
    Saturating,
    /// The caller, by `release_one_each`.
    Driven,
}

/// What all workers of a run have in common.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run<'a> {
    pub(crate) options: &'a Options,
    pub(crate) pattern: &'a Pattern,
    pub(crate) live: &'a Live,
}

#[derive(Debug)]
pub(crate) struct Worker<'a> {
    run: Run<'a>,
    share: Share,
    /// Whether a connection ends behind its messages, and another one follows.
    churns: bool,
    pace: Pace,
    window: Window,
    poller: Poller,
    connections: Vec<Connection>,
    /// Connections, by index, that go on in the next turn.
    listed: Vec<usize>,
    /// Sockets that were opened to churn.
    opened: u64,
    /// Connections that have not failed.
    healthy: usize,
    buffer: Box<[u8]>,
    tally: Tally,
}

impl<'a> Worker<'a> {
    /// Opens the connections of a share, except where opening them is what is measured.
    pub(crate) fn connect(run: Run<'a>, share: Share) -> io::Result<Self> {
        let address = run.options.address;
        let churns = run.options.mode == Mode::Churn;
        let upgrades = run.options.mode == Mode::WebSocket;
        let open = |id: u32| {
            let socket = if churns { None } else { Some(socket::open(address, id.into())?) };
            if let Some(socket) = socket.as_ref().filter(|_| upgrades) {
                upgrade::ask(socket, address)?;
            }
            Ok(Connection::new(id, socket))
        };
        let connections: io::Result<Vec<_>> = share.ids().map(open).collect();
        let connections = connections.map_err(|error| {
            io::Error::new(error.kind(), format!("cannot connect to {address}: {error}"))
        })?;
        let now = Instant::now();
        let mut worker = Self {
            run,
            share,
            churns,
            pace: Pace::Driven,
            window: Window::new(now, Duration::ZERO, Duration::ZERO),
            poller: Poller::new()?,
            healthy: connections.len(),
            connections,
            listed: Vec::new(),
            opened: 0,
            buffer: vec![0; BUFFER_SIZE].into(),
            tally: Tally::new(),
        };
        worker.list_all();
        Ok(worker)
    }

    /// Runs from the window's start to its end, or until no connection is left.
    pub(crate) fn run(mut self, window: Window) -> io::Result<Tally> {
        self.begin(window);
        while Instant::now() < window.until && self.is_able() {
            self.turn(window.until)?;
        }
        Ok(self.end())
    }

    /// Releases one message on each connection, in a worker that is driven from outside.
    pub(crate) fn release_one_each(&mut self, window: Window) {
        self.window = window;
        let now = Instant::now();
        self.connections.iter_mut().for_each(|connection| connection.release(now));
        self.list_all();
    }

    /// Messages that are not answered.
    pub(crate) fn unanswered(&self) -> usize {
        self.connections.iter().map(|connection| connection.waiting().len()).sum()
    }

    /// Closes everything, and returns what was counted.
    pub(crate) fn end(mut self) -> Tally {
        let now = Instant::now();
        self.release_due(now); // what this thread was too late for is unanswered as well
        self.tally.measured = self.window.measured(now);
        self.tally.unanswered = self.unanswered() as u64;
        let oldest = self.connections.iter().filter_map(|connection| connection.waiting().front());
        let end = now.min(self.window.until);
        self.tally.oldest = oldest.min().map_or(Duration::ZERO, |&since| end - since);
        self.tally
    }

    /// Sends what may be sent, waits for events, at most until `until`, and handles them.
    pub(crate) fn turn(&mut self, until: Instant) -> io::Result<()> {
        let errors = self.tally.errors();
        self.release_due(Instant::now());
        for index in mem::take(&mut self.listed) {
            self.connections[index].listed = false;
            self.go_on(index);
        }
        let count = self.poller.wait(until, self.next_due())?;
        let mut answered = 0;
        for at in 0..count {
            if let Some(event) = self.poller.event(at) {
                answered += self.on_event(event);
            }
        }
        self.run.live.add(answered, self.tally.errors() - errors);
        Ok(())
    }

    fn begin(&mut self, window: Window) {
        self.window = window;
        let Run { options, .. } = self.run;
        self.pace = match (options.mode, options.rate) {
            (Mode::Stream, _) => Pace::Saturating,
            (_, Some(rate)) => Pace::Open(Timetable::new(window, rate, self.share)),
            (_, None) => Pace::Closed { depth: options.depth },
        };
        let now = Instant::now();
        let speaking = self.connections.iter_mut().zip(self.share.ids());
        for (connection, _) in speaking.filter(|(_, id)| id.is_multiple_of(options.every)) {
            match self.pace {
                Pace::Closed { depth } if !self.churns => {
                    (0..depth).for_each(|_| connection.release(now));
                }
                Pace::Saturating => connection.release_all(),
                // Churning releases a message when it connects.
                Pace::Closed { .. } | Pace::Open(_) | Pace::Driven => {}
            }
        }
    }

    fn is_able(&self) -> bool {
        self.healthy > 0 && !(self.churns && self.tally.errors() >= CHURN_ERRORS_MAX)
    }

    /// Releases the messages that are due.
    fn release_due(&mut self, now: Instant) {
        let Pace::Open(timetable) = &mut self.pace else {
            return;
        };
        while let Some((index, due)) = timetable.take(now) {
            let connection = &mut self.connections[index];
            // The turns of a connection that has failed are left out.
            if connection.is_open() || self.churns {
                connection.release(due);
                list(&mut self.listed, connection, index);
            }
        }
    }

    /// When there is something to do even if nothing happens; with a list, that is now.
    fn next_due(&self) -> Option<Instant> {
        match &self.pace {
            _ if !self.listed.is_empty() => Some(Instant::now()),
            Pace::Open(timetable) => Some(timetable.due()),
            Pace::Closed { .. } | Pace::Saturating | Pace::Driven => None,
        }
    }

    /// The number of messages that the event answered.
    fn on_event(&mut self, event: Event) -> u64 {
        let received = if event.answers { self.receive(event.index) } else { Ok(0) };
        match received {
            Ok(answered) => {
                self.go_on(event.index);
                answered
            }
            Err(failure) => {
                self.fail(event.index, &failure);
                0
            }
        }
    }

    fn receive(&mut self, index: usize) -> Result<u64, Failure> {
        let connection = &mut self.connections[index];
        let received = connection.receive(self.run.pattern, &mut self.buffer)?;
        let now = Instant::now();
        if self.window.measures(now) {
            self.tally.bytes += received.bytes;
            self.tally.requests += received.messages;
        }
        // One message at a time, so the last of a connection comes alone.
        let answered = connection.answered(self.run.pattern);
        let last = answered.is_multiple_of(self.run.options.per);
        let ends = self.churns && received.messages > 0 && last;
        for _ in 0..received.messages {
            if let Some(since) = connection.take_waiting() {
                self.tally.answered(&self.window, since, now);
            }
            if matches!(self.pace, Pace::Closed { .. }) && !ends {
                connection.release(now);
            }
        }
        if ends {
            connection.close();
            list(&mut self.listed, connection, index);
        }
        Ok(received.messages)
    }

    fn go_on(&mut self, index: usize) {
        if let Err(failure) = self.try_go_on(index) {
            self.fail(index, &failure);
        }
    }

    /// Sends what may be sent, on a new socket if that is due, and registers for the next events.
    fn try_go_on(&mut self, index: usize) -> Result<(), Failure> {
        let connection = &mut self.connections[index];
        if self.churns && !connection.is_open() {
            if self.window.until <= Instant::now() || connection.listed {
                return Ok(()); // it is over, or the next turn connects
            }
            if matches!(self.pace, Pace::Closed { .. }) {
                connection.release(Instant::now());
            }
            if connection.waiting().is_empty() {
                return Ok(());
            }
            let serial = self.opened * u64::from(self.share.stride) + u64::from(self.share.first);
            self.opened += 1;
            let socket = socket::start(self.run.options.address, serial).map_err(Failure::Io)?;
            connection.set_socket(socket);
        }
        let at_once = if self.churns { 1 } else { u64::MAX };
        let all_sent = connection.send(self.run.pattern, at_once, &mut self.buffer)?;
        let interest = if all_sent { Interest::Answers } else { Interest::AnswersAndRoom };
        self.poller.hear_of(connection, index, interest).map_err(Failure::Io)
    }

    /// Counts an error. The connection is given up, unless the next message gets a new one anyway.
    fn fail(&mut self, index: usize, failure: &Failure) {
        let connection = &mut self.connections[index];
        self.tally.error(connection.describe(failure));
        if self.churns {
            connection.close();
            connection.skip_message(self.run.pattern);
            list(&mut self.listed, connection, index);
        } else {
            connection.give_up();
            self.healthy -= 1;
        }
    }

    fn list_all(&mut self) {
        for (index, connection) in self.connections.iter_mut().enumerate() {
            list(&mut self.listed, connection, index);
        }
    }
}

fn list(listed: &mut Vec<usize>, connection: &mut Connection, index: usize) {
    if !mem::replace(&mut connection.listed, true) {
        listed.push(index);
    }
}
