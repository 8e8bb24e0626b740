//! What was counted and timed since the last print.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashSet};
use std::fmt::Write;

use super::line::{Line, Value};

/// Names that are kept at most, and members of all sets: they come from any peer that can send.
const NAMES_MAX: usize = 10_000;
const MEMBERS_MAX: usize = 10_000;

/// All that is known, by name. A name has one type, that of its first line.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    metrics: BTreeMap<String, Metric>,
    /// How many members all sets have.
    members: usize,
    /// Lines that said nothing, or a name beyond the bound, or another type than before.
    refused: u64,
}

#[derive(Debug)]
enum Metric {
    Counter(f64),
    Timer { count: u32, sum: f64, least: f64, most: f64 },
    Gauge(f64),
    Set(HashSet<String>),
}

impl Metrics {
    /// Takes the lines of one datagram.
    pub(crate) fn add_all(&mut self, datagram: &[u8]) {
        let lines = datagram.split(|byte| *byte == b'\n');
        for line in lines.filter(|line| !line.is_empty()) {
            let added = super::line::parse(line).is_some_and(|line| self.add(&line));
            self.refused += u64::from(!added);
        }
    }

    /// Whether it was taken.
    fn add(&mut self, line: &Line<'_>) -> bool {
        let is_full = self.metrics.len() >= NAMES_MAX;
        let metric = match self.metrics.entry(line.name.to_owned()) {
            Entry::Vacant(_) if is_full => return false,
            Entry::Vacant(vacant) => vacant.insert(Metric::new(line.value)),
            Entry::Occupied(occupied) => occupied.into_mut(),
        };
        metric.add(line.value, &mut self.members)
    }

    /// Prints all, a line each, and begins anew; gauges stay.
    pub(crate) fn take(&mut self) -> String {
        let mut text = String::new();
        for (name, metric) in &self.metrics {
            let _ = match metric {
                Metric::Counter(count) => writeln!(text, "{name} counter {count}"),
                Metric::Timer { count, sum, least, most } => {
                    let mean = sum / f64::from(*count);
                    writeln!(text, "{name} timer {count} × {mean:.3} ms, {least} to {most}")
                }
                Metric::Gauge(value) => writeln!(text, "{name} gauge {value}"),
                Metric::Set(members) => writeln!(text, "{name} set {}", members.len()),
            };
        }
        if self.refused > 0 {
            let _ = writeln!(text, "refused {} lines", self.refused);
        }
        self.metrics.retain(|_, metric| matches!(metric, Metric::Gauge(_)));
        (self.members, self.refused) = (0, 0);
        text
    }
}

impl Metric {
    /// Of the type of a value, and nothing in it.
    fn new(value: Value<'_>) -> Self {
        match value {
            Value::Count(_) => Self::Counter(0.0),
            Value::Time(_) => Self::Timer { count: 0, sum: 0.0, least: f64::INFINITY, most: 0.0 },
            Value::Gauge(_) | Value::Change(_) => Self::Gauge(0.0),
            Value::Member(_) => Self::Set(HashSet::new()),
        }
    }

    /// Whether it is of this type, and there is room for it beside the `members` of all sets.
    fn add(&mut self, value: Value<'_>, members: &mut usize) -> bool {
        match (self, value) {
            (Self::Counter(all), Value::Count(more)) => *all += more,
            (Self::Timer { count, sum, least, most }, Value::Time(time)) => {
                (*count, *sum) = (count.saturating_add(1), *sum + time);
                (*least, *most) = (least.min(time), most.max(time));
            }
            (Self::Gauge(at), Value::Gauge(now)) => *at = now,
            (Self::Gauge(at), Value::Change(by)) => *at += by,
            (Self::Set(set), Value::Member(name)) if !set.contains(name) => {
                if *members == MEMBERS_MAX {
                    return false;
                }
                *members += 1;
                set.insert(name.to_owned());
            }
            (Self::Set(_), Value::Member(_)) => {}
            _ => return false,
        }
        true
    }
}
