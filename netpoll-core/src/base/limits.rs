//! The limits of a connection: each has a name, a unit and a default, and is checked once.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

use crate::base::error::{Error, Result};

/// The limits of a connection. `docs/limits.md` has them in one table, with the reason for each
/// default.
///
/// ```
/// use netpoll_core::Limits;
/// let limits = Limits { input_limit: 64 << 10, ..Limits::default() };
/// assert!(limits.validate().is_ok());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How long one read waits for all the bytes that it asked for. `None`, the default: for ever.
    pub read_timeout: Option<Duration>,
    /// How long a flush waits. It is also the time for which the peer of a served connection may
    /// take nothing while the output stands above its high-water mark; then the connection ends.
    /// Default 60 s; `None` is for ever.
    pub write_timeout: Option<Duration>,
    /// How long a connection may neither send nor receive a byte while no callback runs. The
    /// reactor looks four times in that span, so the connection ends up to a quarter later.
    /// `None`, the default: for ever.
    pub idle_timeout: Option<Duration>,
    /// How long a new connection may take to send its first byte. `None`, the default: for ever.
    pub first_byte_timeout: Option<Duration>,
    /// The least rate at which the rest of a request must come, once a part of it has come.
    /// `None`, the default: any rate.
    pub min_receive_rate: Option<ReceiveRate>,
    /// Bytes that may be buffered unread. Beyond that the kernel's receive window fills, and the
    /// peer waits. One read may not ask for more, either. Default 1 MiB.
    pub input_limit: usize,
    /// Bytes of received blocks that slices and `Bytes` of the input may keep alive; at this limit
    /// nothing more is received. Never less than `input_limit`. Default 16 MiB; `None` is no bound.
    /// A read that may wait receives all the same; one that may not returns `WouldBlock`.
    pub held_limit: Option<usize>,
    /// Bytes that all connections of an event loop together may hold: unread input, received
    /// blocks in live slices, and unsent output. Each block counts once, with all its memory. Above
    /// the budget nothing is received from connections that hold more than their share; reads in
    /// callbacks wait, and may fail with [`Error::NoMemory`](crate::Error::NoMemory); new
    /// connections are refused. A reserve of 1/16 above the budget serves connections that hold
    /// little. `None`, the default: no bound.
    pub memory_budget: Option<usize>,
    /// The water marks of the output queue.
    pub output: OutputLimits,
    /// How long an orderly close may take to send what was accepted. Default 10 s.
    pub linger: Duration,
    /// The work of one connection in one turn, before other connections have theirs.
    pub turn: TurnLimits,
    /// How old a connection may become. At its age it is told so by `on_shutdown`, and closes when
    /// it has nothing left to serve. `None`, the default: any age.
    pub max_age: Option<MaxAge>,
    /// Whether a connection stays open after its peer has ended its stream, until this side closes
    /// it or ends its own stream. `false`, the default: it closes after the last callback, when its
    /// output is sent.
    pub half_open: bool,
}

/// The water marks of a connection's output queue, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputLimits {
    /// When the queue falls below this mark, what waited because of `high` goes on. Default
    /// 256 KiB.
    pub low: usize,
    /// Above this mark `Handle::send` refuses, no callback is called for more input or receives
    /// any, and a flush of a dialled connection waits. A callback's flush waits above four times
    /// the mark. Default 1 MiB.
    pub high: usize,
}

/// How long one connection may use its loop or its worker before others have their turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TurnLimits {
    /// Rounds of one receive and one callback. Default 16.
    pub rounds: usize,
    /// Bytes received, by reads of the callback that do not wait as well; the round that reaches
    /// this is the last of the turn. Default 256 KiB. Where several connections of a loop reach it,
    /// one of them may have up to 16 turns in a row, within about 1 ms.
    pub bytes: usize,
}

/// A rate: at least `bytes` in each span of `per`, while a request is incomplete. A request is
/// incomplete while unread bytes are left in the buffer and no callback is busy with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceiveRate {
    /// Bytes.
    pub bytes: u32,
    /// The span. It is also the shortest time that a request has to come.
    pub per: Duration,
}

/// The age at which a connection ends as in a graceful shutdown: for clients that should connect
/// anew now and then, so that they spread over the servers of a fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxAge {
    /// The time from the accept, or the begin of the dial.
    pub age: Duration,
    /// Connections end earlier by a random time of up to this, so that those that came together do
    /// not all come back together. No more than `age`; 0 is none.
    pub jitter: Duration,
    /// How long a connection may take from its age to its end; one that takes longer ends at once,
    /// with [`Wait::Age`](crate::Wait::Age). `None` is for ever.
    pub grace: Option<Duration>,
}

impl MaxAge {
    /// This age, less up to a tenth of it, and no bound for what is under way then.
    pub fn new(age: Duration) -> Self {
        Self { age, jitter: age / 10, grace: None }
    }

    /// The age of one connection.
    pub(crate) fn draw(self) -> Duration {
        // Each state is another one; its hash of nothing is a random number.
        let random = (RandomState::new().build_hasher().finish() >> 32) as u32;
        let share = f64::from(random) / f64::from(u32::MAX);
        self.age.saturating_sub(self.jitter.mul_f64(share))
    }

    fn validate(self) -> Result<()> {
        let Self { age, jitter, grace } = self;
        if age == Duration::ZERO {
            return Err(Error::config(
                "max_age is 0, so no connection would be served; None is any",
            ));
        }
        if jitter > age {
            return Err(Error::config(format!(
                "max_age has a jitter of {jitter:?}, more than the age of {age:?}"
            )));
        }
        if grace == Some(Duration::ZERO) {
            return Err(Error::config(
                "max_age has a grace of 0, so nothing under way would be served; None is for ever",
            ));
        }
        Ok(())
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            read_timeout: None,
            write_timeout: Some(Duration::from_secs(60)),
            idle_timeout: None,
            first_byte_timeout: None,
            min_receive_rate: None,
            input_limit: 1 << 20,
            held_limit: Some(16 << 20),
            memory_budget: None,
            output: OutputLimits { low: 256 << 10, high: 1 << 20 },
            linger: Duration::from_secs(10),
            turn: TurnLimits { rounds: 16, bytes: 256 << 10 },
            max_age: None,
            half_open: false,
        }
    }
}

/// One row of [`Limits::rows`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LimitRow {
    /// The field's name.
    pub name: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// Its value, in that unit; `none` for no limit.
    pub value: String,
}

impl Limits {
    /// All limits with their units and values, for a log line or a page of settings.
    ///
    /// ```
    /// use netpoll_core::Limits;
    /// let rows = Limits::default().rows();
    /// let linger = rows.iter().find(|row| row.name == "linger").unwrap();
    /// assert_eq!((linger.unit, &*linger.value), ("s", "10"));
    /// ```
    pub fn rows(&self) -> Vec<LimitRow> {
        let row = |name, unit, value| LimitRow { name, unit, value };
        let time = |name, time: Option<Duration>| row(name, "s", or_none(time.map(seconds)));
        let rate =
            self.min_receive_rate.map(|rate| format!("{} in {}", rate.bytes, seconds(rate.per)));
        vec![
            time("read_timeout", self.read_timeout),
            time("write_timeout", self.write_timeout),
            time("idle_timeout", self.idle_timeout),
            time("first_byte_timeout", self.first_byte_timeout),
            row("min_receive_rate", "bytes in s", or_none(rate)),
            row("input_limit", "bytes", self.input_limit.to_string()),
            row("held_limit", "bytes", or_none(self.held_limit)),
            row("memory_budget", "bytes", or_none(self.memory_budget)),
            row("output.low", "bytes", self.output.low.to_string()),
            row("output.high", "bytes", self.output.high.to_string()),
            time("linger", Some(self.linger)),
            row("turn.rounds", "callbacks", self.turn.rounds.to_string()),
            row("turn.bytes", "bytes", self.turn.bytes.to_string()),
            row("max_age", "s", or_none(self.max_age.map(|it| seconds(it.age)))),
            row("half_open", "yes or no", if self.half_open { "yes" } else { "no" }.to_owned()),
        ]
    }

    /// Checks every limit.
    ///
    /// # Errors
    /// [`Error::Config`], one sentence that names the first option that can't be used.
    pub fn validate(&self) -> Result<()> {
        not_zero("read_timeout", self.read_timeout)?;
        not_zero("write_timeout", self.write_timeout)?;
        not_zero("idle_timeout", self.idle_timeout)?;
        not_zero("first_byte_timeout", self.first_byte_timeout)?;
        self.max_age.map_or(Ok(()), MaxAge::validate)?;
        if let Some(ReceiveRate { bytes, per }) = self.min_receive_rate
            && (bytes == 0 || per < Duration::from_millis(1))
        {
            return Err(Error::config(format!(
                "min_receive_rate is {bytes} bytes in {per:?}, but less than 1 byte or 1 ms \
                 measures nothing; None is no such limit"
            )));
        }
        if self.input_limit == 0 {
            return Err(Error::config("input_limit is 0 bytes, so nothing could ever be read"));
        }
        if self.held_limit == Some(0) {
            return Err(Error::config(
                "held_limit is 0 bytes, so no slice could outlive its callback; None is no bound",
            ));
        }
        if let Some(budget) = self.memory_budget
            && budget < self.input_limit
        {
            return Err(Error::config(format!(
                "memory_budget is {budget} bytes, less than the input_limit of {} that one \
                 connection may use; None is no bound",
                self.input_limit
            )));
        }
        let OutputLimits { low, high } = self.output;
        if high == 0 || low >= high {
            return Err(Error::config(format!(
                "output_limits are low {low} and high {high} bytes, but low must be less than high"
            )));
        }
        if self.turn.rounds == 0 || self.turn.bytes == 0 {
            return Err(Error::config("turn_limits has a 0, so no connection would have a turn"));
        }
        Ok(())
    }
}

fn not_zero(name: &str, timeout: Option<Duration>) -> Result<()> {
    if timeout == Some(Duration::ZERO) {
        return Err(Error::config(format!(
            "{name} is 0, so every wait would fail; None is for ever"
        )));
    }
    Ok(())
}

fn seconds(time: Duration) -> String {
    time.as_secs_f64().to_string()
}

fn or_none(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "none".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(limits: Limits) -> String {
        limits.validate().expect_err("limits that can't be used").to_string()
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        let good = Limits::default();
        assert!(good.validate().is_ok());
        let (zero, second) = (Some(Duration::ZERO), Duration::from_secs(1));
        let age = MaxAge::new(second);
        let rate = Some(ReceiveRate { bytes: 0, per: Duration::from_secs(1) });
        for (name, bad) in [
            ("read_timeout", Limits { read_timeout: zero, ..good }),
            ("write_timeout", Limits { write_timeout: zero, ..good }),
            ("idle_timeout", Limits { idle_timeout: zero, ..good }),
            ("first_byte_timeout", Limits { first_byte_timeout: zero, ..good }),
            ("min_receive_rate", Limits { min_receive_rate: rate, ..good }),
            ("input_limit", Limits { input_limit: 0, ..good }),
            ("held_limit", Limits { held_limit: Some(0), ..good }),
            ("memory_budget", Limits { memory_budget: Some(0), ..good }),
            ("output_limits", Limits { output: OutputLimits { low: 2, high: 2 }, ..good }),
            ("max_age", Limits { max_age: Some(MaxAge::new(Duration::ZERO)), ..good }),
            ("max_age", Limits { max_age: Some(MaxAge { jitter: 2 * second, ..age }), ..good }),
            ("max_age", Limits { max_age: Some(MaxAge { grace: zero, ..age }), ..good }),
            ("turn_limits", Limits { turn: TurnLimits { rounds: 0, bytes: 1 }, ..good }),
        ] {
            let text = complaint(bad);
            assert!(text.starts_with(name), "{name}: {text}");
        }
    }

    #[test]
    fn the_ages_of_connections_are_spread_over_the_jitter() {
        let second = Duration::from_secs(1);
        let age = MaxAge { age: 10 * second, jitter: 4 * second, grace: None };
        let drawn: Vec<_> = (0..1000).map(|_| age.draw()).collect();
        assert!(drawn.iter().all(|it| (6 * second..=10 * second).contains(it)));
        for quarter in 6..10 {
            let of_it = drawn.iter().filter(|it| it.as_secs() == quarter).count();
            assert!(of_it > 100, "{of_it} of 1 000 are {quarter} seconds old");
        }
        let exact = MaxAge { jitter: Duration::ZERO, ..age };
        assert_eq!(exact.draw(), 10 * second);
        let most = MaxAge { jitter: Duration::MAX, ..MaxAge::new(Duration::MAX) };
        assert!(most.validate().is_ok() && most.draw() <= Duration::MAX);
    }

    #[test]
    fn the_table_in_the_documents_has_every_limit_with_its_default() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/limits.md");
        let page = std::fs::read_to_string(path).expect("docs/limits.md");
        for LimitRow { name, unit, value } in Limits::default().rows() {
            let row = format!("| `{name}` | {unit} | {value} |");
            assert!(page.contains(&row), "docs/limits.md has no row that begins {row}");
        }
    }
}
