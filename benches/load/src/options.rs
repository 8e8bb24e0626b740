//! The command line: every option, its default and its limits.

use std::fmt::{self, Display};
use std::net::{SocketAddr, ToSocketAddrs};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use crate::pattern::SIZE_MIN;

pub(crate) const USAGE: &str = "\
usage: load ADDRESS [--mode echo|rpc|websocket|churn|idle|stream|up|down|udp|udp-flood]
            [--connections N] [--size BYTES] [--depth D] [--per M] [--every K] [--seconds S]
            [--warmup S] [--threads T] [--rate R] [--gso] [--server-pid PID] [--json]

  --mode echo      messages of BYTES, sent back as they are (the default)
         rpc       the same, each behind its length as 4 bytes, big-endian
         websocket the same, in binary frames behind a handshake
         churn     connect, one message there and back, close; again and again
         idle      connect N, one message each, then silence: the server's memory
         stream    write as fast as the server takes it, and read it back
         up        write BYTES again and again as fast as the server takes them; it counts
                   them, and answers the end of the stream with the count: 8 bytes, big-endian
         down      ask for pieces of BYTES (4 bytes, big-endian), and read them as fast as
                   they come, until we close; byte I of a piece is I modulo 251
         udp       datagrams of BYTES, sent back as they are; a connection is a socket of
                   its own, and what is not answered for 200 ms is lost
         udp-flood datagrams of BYTES as fast as they go; the server counts them, and answers
                   the datagram `count?` with their number and bytes: 8 bytes each, big-endian
  --connections N  at the same time (64)
  --size BYTES     of a message (64; stream: 16384; up, down: 65536;
                   udp-flood: 1200)
  --depth D        messages on the way per connection; echo, rpc, websocket and udp (1)
  --per M          messages per connection, one after the other; churn (1)
  --every K        only one in K connections sends, the others are silent; echo, rpc and
                   websocket (1)
  --seconds S      of measurement, fractions allowed (5)
  --warmup S       before it (1)
  --threads T      that share the connections (1)
  --rate R         an open loop: R messages per second over all connections, whatever the
                   answers do, with latency counted from when each was to be sent;
                   echo, rpc and churn (default: a closed loop)
  --server-pid PID also measure this process: CPU time and memory
  --gso            datagrams that go at the same time leave as one train; udp and udp-flood
  --json           one JSON object instead of a table";

const CONNECTIONS: RangeInclusive<u32> = 1..=1_000_000;
const SIZES: RangeInclusive<usize> = SIZE_MIN..=16 << 20;
/// What fits a packet of IPv4 behind its headers.
const DATAGRAM_MAX: usize = 65_507;
const DEPTHS: RangeInclusive<u32> = 1..=4096;
const PER: RangeInclusive<u64> = 1..=1_000_000;
const EVERY: RangeInclusive<u32> = 1..=1_000_000;
const SECONDS: RangeInclusive<f64> = 0.05..=86_400.0;
const WARMUPS: RangeInclusive<f64> = 0.0..=3_600.0;
const THREADS: RangeInclusive<u32> = 1..=1024;
const RATES: RangeInclusive<u64> = 1..=10_000_000;
/// The kernel has no larger ones.
const PIDS: RangeInclusive<i32> = 1..=4_194_304;

/// What to do to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Echo,
    Rpc,
    WebSocket,
    Churn,
    Idle,
    Stream,
    Up,
    Down,
    Udp,
    UdpFlood,
}

const MODES: [Mode; 10] = [
    Mode::Echo,
    Mode::Rpc,
    Mode::WebSocket,
    Mode::Churn,
    Mode::Idle,
    Mode::Stream,
    Mode::Up,
    Mode::Down,
    Mode::Udp,
    Mode::UdpFlood,
];

/// A run, as the arguments describe it.
#[derive(Debug, PartialEq)]
pub(crate) struct Options {
    pub(crate) address: SocketAddr,
    pub(crate) mode: Mode,
    pub(crate) connections: u32,
    /// Bytes of a message, without its length in front.
    pub(crate) size: usize,
    /// Messages on the way per connection, in a closed loop.
    pub(crate) depth: u32,
    /// Messages of a connection, where it ends behind them.
    pub(crate) per: u64,
    /// One connection in so many sends.
    pub(crate) every: u32,
    pub(crate) seconds: Duration,
    pub(crate) warmup: Duration,
    pub(crate) threads: u32,
    /// Messages per second over all connections; `None` is a closed loop.
    pub(crate) rate: Option<u64>,
    pub(crate) server_pid: Option<i32>,
    /// Datagrams that may go at the same time leave as one train.
    pub(crate) gso: bool,
    pub(crate) json: bool,
}

/// The options given; the rest depends on the mode.
#[derive(Default)]
struct Given {
    address: Option<String>,
    mode: Option<Mode>,
    connections: Option<u32>,
    size: Option<usize>,
    depth: Option<u32>,
    per: Option<u64>,
    every: Option<u32>,
    seconds: Option<f64>,
    warmup: Option<f64>,
    threads: Option<u32>,
    rate: Option<u64>,
    server_pid: Option<i32>,
    gso: bool,
    json: bool,
}

impl Options {
    /// The error is one sentence for the user.
    pub(crate) fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let mut given = Given::default();
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            if argument == "--json" {
                given.json = true;
            } else if argument == "--gso" {
                given.gso = true;
            } else if argument.starts_with('-') {
                let value = arguments.next();
                given.set(&argument, value)?;
            } else if given.address.is_none() {
                given.address = Some(argument);
            } else {
                return Err(format!("`{argument}` is a second address, and there is one server."));
            }
        }
        given.complete()
    }
}

impl Given {
    fn set(&mut self, option: &str, value: Option<String>) -> Result<(), String> {
        let value = value.ok_or_else(|| format!("{option} needs a value."));
        match option {
            "--mode" => self.mode = Some(mode(&value?)?),
            "--connections" => self.connections = Some(number(option, &value?, CONNECTIONS)?),
            "--size" => self.size = Some(number(option, &value?, SIZES)?),
            "--depth" => self.depth = Some(number(option, &value?, DEPTHS)?),
            "--per" => self.per = Some(number(option, &value?, PER)?),
            "--every" => self.every = Some(number(option, &value?, EVERY)?),
            "--seconds" => self.seconds = Some(number(option, &value?, SECONDS)?),
            "--warmup" => self.warmup = Some(number(option, &value?, WARMUPS)?),
            "--threads" => self.threads = Some(number(option, &value?, THREADS)?),
            "--rate" => self.rate = Some(number(option, &value?, RATES)?),
            "--server-pid" => self.server_pid = Some(number(option, &value?, PIDS)?),
            _ => return Err(format!("There is no option `{option}`.")),
        }
        Ok(())
    }

    fn complete(self) -> Result<Options, String> {
        let mode = self.mode.unwrap_or(Mode::Echo);
        self.agree(mode)?;
        let connections = self.connections.unwrap_or(64);
        let threads = self.threads.unwrap_or(1);
        if threads > connections {
            return Err(format!("{threads} threads cannot share {connections} connections."));
        }
        let warmup = if mode == Mode::Idle { 0.0 } else { 1.0 };
        Ok(Options {
            address: resolve(&self.address.ok_or("The server's ADDRESS is missing.")?)?,
            mode,
            connections,
            size: self.size.unwrap_or_else(|| mode.usual_size()),
            depth: self.depth.unwrap_or(1),
            per: self.per.unwrap_or(1),
            every: self.every.unwrap_or(1),
            seconds: Duration::from_secs_f64(self.seconds.unwrap_or(5.0)),
            warmup: Duration::from_secs_f64(self.warmup.unwrap_or(warmup)),
            threads,
            rate: self.rate,
            server_pid: self.server_pid,
            gso: self.gso,
            json: self.json,
        })
    }

    /// An option that would be ignored is an error: the user expects it to have an effect.
    fn agree(&self, mode: Mode) -> Result<(), String> {
        let paced = matches!(mode, Mode::Echo | Mode::Rpc | Mode::WebSocket);
        let datagrams = matches!(mode, Mode::Udp | Mode::UdpFlood);
        let pipelines = paced || mode == Mode::Udp;
        let ignored = [
            ("--depth", self.depth.is_some() && !pipelines),
            ("--per", self.per.is_some() && mode != Mode::Churn),
            ("--every", self.every.is_some() && !paced),
            ("--rate", self.rate.is_some() && !paced && mode != Mode::Churn),
            ("--warmup", self.warmup.is_some() && mode == Mode::Idle),
            ("--threads", self.threads.is_some() && matches!(mode, Mode::Idle | Mode::UdpFlood)),
            ("--gso", self.gso && !datagrams),
        ];
        if let Some((option, _)) = ignored.iter().find(|(_, ignored)| *ignored) {
            return Err(format!("{option} means nothing in the mode {mode}."));
        }
        if datagrams && self.size.is_some_and(|size| size > DATAGRAM_MAX) {
            return Err(format!("A datagram has at most {DATAGRAM_MAX} bytes."));
        }
        if self.depth.is_some() && self.rate.is_some() {
            return Err("--depth is of the closed loop; --rate asks for an open one.".into());
        }
        if self.every.is_some() && self.rate.is_some() {
            return Err("--every is of the closed loop; --rate asks for an open one.".into());
        }
        Ok(())
    }
}

fn mode(name: &str) -> Result<Mode, String> {
    let named = MODES.into_iter().find(|mode| mode.to_string() == name);
    named.ok_or_else(|| format!("There is no mode `{name}`."))
}

fn number<T>(option: &str, text: &str, range: RangeInclusive<T>) -> Result<T, String>
where
    T: FromStr + PartialOrd + Display,
{
    let number = text.parse().ok().filter(|number| range.contains(number));
    let (least, most) = (range.start(), range.end());
    number.ok_or_else(|| format!("{option} is a number from {least} to {most}, not `{text}`."))
}

fn resolve(address: &str) -> Result<SocketAddr, String> {
    let mut found = address.to_socket_addrs().map_err(|error| {
        format!("`{address}` is no address of the form HOST:PORT that resolves: {error}.")
    })?;
    found.next().ok_or_else(|| format!("`{address}` resolves to nothing."))
}

impl Mode {
    fn usual_size(self) -> usize {
        match self {
            Self::Echo | Self::Rpc | Self::WebSocket | Self::Churn | Self::Idle | Self::Udp => 64,
            Self::Stream => 16 << 10,
            Self::Up | Self::Down => 64 << 10,
            Self::UdpFlood => 1200,
        }
    }
}

impl Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Echo => "echo",
            Self::Rpc => "rpc",
            Self::WebSocket => "websocket",
            Self::Churn => "churn",
            Self::Idle => "idle",
            Self::Stream => "stream",
            Self::Up => "up",
            Self::Down => "down",
            Self::Udp => "udp",
            Self::UdpFlood => "udp-flood",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, String> {
        Options::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn an_address_is_enough() {
        let options = parse("127.0.0.1:7000").unwrap();
        let expected = Options {
            address: ([127, 0, 0, 1], 7000).into(),
            mode: Mode::Echo,
            connections: 64,
            size: 64,
            depth: 1,
            per: 1,
            every: 1,
            seconds: Duration::from_secs(5),
            warmup: Duration::from_secs(1),
            threads: 1,
            rate: None,
            server_pid: None,
            gso: false,
            json: false,
        };
        assert_eq!(options, expected);
    }

    #[test]
    fn every_option_is_heard() {
        let options = "--mode rpc --connections 8 --size 1024 --depth 16 --seconds 0.5 \
                       --warmup 0 --threads 2 --server-pid 42 --json [::1]:80";
        let options = parse(options).unwrap();
        assert_eq!((options.mode, options.connections), (Mode::Rpc, 8));
        assert_eq!((options.size, options.depth, options.threads), (1024, 16, 2));
        assert_eq!(options.seconds, Duration::from_millis(500));
        assert_eq!(options.warmup, Duration::ZERO);
        assert_eq!((options.server_pid, options.json), (Some(42), true));
        assert!(options.address.is_ipv6());
        assert_eq!(parse("127.0.0.1:1 --mode churn --rate 99").unwrap().rate, Some(99));
        assert_eq!(parse("127.0.0.1:1 --mode churn --per 10").unwrap().per, 10);
        assert_eq!(parse("127.0.0.1:1 --mode websocket --every 2").unwrap().every, 2);
        let options = parse("127.0.0.1:1 --mode udp --gso --depth 64").unwrap();
        assert_eq!((options.gso, options.depth, options.size), (true, 64, 64));
        assert_eq!(parse("127.0.0.1:1 --mode udp-flood").unwrap().size, 1200);
    }

    #[test]
    fn a_stream_has_large_messages() {
        assert_eq!(parse("127.0.0.1:1 --mode stream").unwrap().size, 16 << 10);
        assert_eq!(parse("127.0.0.1:1 --mode stream --size 99").unwrap().size, 99);
        assert_eq!(parse("127.0.0.1:1 --mode up").unwrap().size, 64 << 10);
        assert_eq!(parse("127.0.0.1:1 --mode down").unwrap().size, 64 << 10);
    }

    #[test]
    fn wrong_arguments_get_a_sentence() {
        for (line, part) in [
            ("", "ADDRESS is missing"),
            ("127.0.0.1", "HOST:PORT"),
            ("127.0.0.1:1 127.0.0.1:2", "second address"),
            ("127.0.0.1:1 --fast", "no option `--fast`"),
            ("127.0.0.1:1 --size", "--size needs a value"),
            ("127.0.0.1:1 --size 11", "from 12 to 16777216, not `11`"),
            ("127.0.0.1:1 --seconds NaN", "not `NaN`"),
            ("127.0.0.1:1 --connections 0", "not `0`"),
            ("127.0.0.1:1 --connections 2 --threads 3", "3 threads cannot share 2"),
            ("127.0.0.1:1 --mode http", "no mode `http`"),
            ("127.0.0.1:1 --mode churn --depth 2", "--depth means nothing in the mode churn"),
            ("127.0.0.1:1 --mode stream --rate 2", "--rate means nothing in the mode stream"),
            ("127.0.0.1:1 --per 2", "--per means nothing in the mode echo"),
            ("127.0.0.1:1 --mode churn --every 2", "--every means nothing in the mode churn"),
            ("127.0.0.1:1 --every 2 --rate 2", "--every is of the closed loop"),
            ("127.0.0.1:1 --mode up --depth 2", "--depth means nothing in the mode up"),
            ("127.0.0.1:1 --mode idle --threads 1", "--threads means nothing in the mode idle"),
            ("127.0.0.1:1 --gso", "--gso means nothing in the mode echo"),
            ("127.0.0.1:1 --mode udp --rate 2", "--rate means nothing in the mode udp"),
            ("127.0.0.1:1 --mode udp-flood --depth 2", "--depth means nothing in the mode udp-f"),
            ("127.0.0.1:1 --mode udp --size 65508", "at most 65507 bytes"),
            ("127.0.0.1:1 --depth 2 --rate 2", "--depth is of the closed loop"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(part), "{line}: {error}");
            assert!(error.ends_with('.'), "{line}: {error}");
        }
    }
}
