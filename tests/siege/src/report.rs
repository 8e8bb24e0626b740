//! What an attack has measured: figures, some of them with a limit, and the verdict.

use std::fmt::{self, Display};
use std::io;
use std::time::Duration;

/// The figures of one attack.
#[derive(Default)]
pub(crate) struct Row {
    figures: Vec<String>,
    exceeded: usize,
    limits: usize,
}

/// Why an attack has no figures.
pub(crate) enum Problem {
    /// This machine lacks what the attack needs.
    Missing(String),
    /// The attack or the server did something unexpected.
    Broken(String),
}

pub(crate) type Outcome = Result<(), Problem>;

impl Row {
    /// A figure without a limit.
    pub(crate) fn note(&mut self, name: &str, value: impl Display) {
        self.figures.push(format!("{name} {value}"));
    }

    /// A figure that must stay below `limit`.
    pub(crate) fn below(&mut self, name: &str, value: u64, limit: u64, unit: &str) {
        self.limit(value < limit, &format!("{name} {value} {unit} (< {limit})"));
    }

    /// A time that must stay below `limit`.
    pub(crate) fn within(&mut self, name: &str, value: Duration, limit: Duration) {
        self.limit(value < limit, &format!("{name} {} (< {})", Time(value), Time(limit)));
    }

    /// The same of a time that may never have come.
    pub(crate) fn soon(&mut self, name: &str, value: Option<Duration>, limit: Duration) {
        match value {
            Some(value) => self.within(name, value, limit),
            None => self.limit(false, &format!("{name} never (< {})", Time(limit))),
        }
    }

    /// A count that must be exactly this.
    pub(crate) fn equal(&mut self, name: &str, value: usize, wanted: usize) {
        self.limit(value == wanted, &format!("{name} {value} (= {wanted})"));
    }

    fn limit(&mut self, holds: bool, text: &str) {
        self.limits += 1;
        self.exceeded += usize::from(!holds);
        self.figures.push(if holds { text.to_owned() } else { format!("!! {text}") });
    }

    /// Whether each figure with a limit is within it. Without any such figure the attack shows
    /// nothing.
    pub(crate) fn holds(&self) -> bool {
        self.limits > 0 && self.exceeded == 0
    }
}

impl Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.figures.join(", "))
    }
}

/// A duration in the unit that suits it.
pub(crate) struct Time(pub(crate) Duration);

impl Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_secs_f64() {
            seconds if seconds < 1.0 => write!(f, "{:.1} ms", seconds * 1e3),
            seconds => write!(f, "{seconds:.2} s"),
        }
    }
}

impl Problem {
    pub(crate) fn broken(why: impl Into<String>) -> Self {
        Self::Broken(why.into())
    }
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        Self::Broken(error.to_string())
    }
}
