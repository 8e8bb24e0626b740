//! What another server answered: checked, kept without what is of that exchange alone, and written
//! for each client that asks.

use std::time::Duration;

use super::message::{HEADER, Query, UDP_MAX, key};
use super::record::{OPT, Record, number};
use super::reply::{ANSWER, OFFERED, TRUNCATED, edns, head};

/// Longer than so nothing is kept, whatever its records say.
const KEPT_MAX: Duration = Duration::from_secs(3600);

/// The records of an answer. Names in them lead to places of the message, so they stay where they
/// are: right behind a question of the same length.
#[derive(Debug, Clone)]
pub(crate) struct Forwarded {
    flags: u16,
    /// How many records of each section.
    counts: [u16; 3],
    records: Vec<u8>,
    /// Where in `records` each has its time to live.
    ttls: Vec<usize>,
    /// The least of those; none if it is not to be kept: it says that there is nothing, it was cut
    /// short, or it is large.
    pub(crate) keep: Option<Duration>,
}

impl Forwarded {
    /// Reads the answer to `question`, which stands in it as it was asked; `None` if it is none.
    pub(crate) fn read(message: &[u8], question: &[u8]) -> Option<Self> {
        let asked = message.get(HEADER..HEADER + question.len())?;
        let (flags, 1) = (number(message, 2)?, number(message, 4)?) else { return None };
        if flags & ANSWER == 0 || key(asked) != key(question) {
            return None;
        }
        let counts = [number(message, 6)?, number(message, 8)?, number(message, 10)?];
        let start = HEADER + question.len();
        let (mut at, mut ttls, mut least) = (start, Vec::new(), None);
        let mut kept = counts;
        let whole = counts.iter().map(|&count| usize::from(count)).sum();
        for index in 0..whole {
            let record = Record::read(message, at)?;
            if record.kind == OPT {
                // It is of our exchange with that server, and the last one everywhere.
                let is_last = index + 1 == whole && record.end == message.len();
                kept[2] = kept[2].checked_sub(1).filter(|_| is_last)?;
                break;
            }
            ttls.push(record.ttl_at - start);
            least = Some(least.map_or(record.ttl, |least: u32| least.min(record.ttl)));
            at = record.end;
        }
        let (rcode, cut) = (flags & 0x000F, flags & TRUNCATED != 0);
        let is_small = at <= UDP_MAX.into();
        let keep = least.filter(|_| rcode == 0 && !cut && counts[0] > 0 && is_small);
        let keep = keep.map(|ttl| Duration::from_secs(ttl.into()).min(KEPT_MAX));
        let records = message[start..at].to_vec();
        Some(Self { flags: rcode | (flags & TRUNCATED), counts: kept, records, ttls, keep })
    }

    /// The answer for a query of the same question, when its records have been kept for `age`.
    pub(crate) fn write(&self, query: &Query<'_>, age: Duration, limit: usize) -> Vec<u8> {
        let opt = if query.size.is_some() { edns(0) } else { Vec::new() };
        let flags = ANSWER | OFFERED | self.flags;
        let fits = HEADER + query.question.len() + self.records.len() + opt.len() <= limit;
        if !fits {
            return [head(query, flags | TRUNCATED, [0, 0]), opt].concat();
        }
        let mut out = head(query, flags, [self.counts[0], self.counts[1]]);
        let more = self.counts[2] + u16::from(query.size.is_some());
        out[10..HEADER].copy_from_slice(&more.to_be_bytes());
        let start = out.len();
        out.extend_from_slice(&self.records);
        for &at in &self.ttls {
            let ttl = &mut out[start + at..start + at + 4];
            let left = u32::from_be_bytes(ttl.try_into().expect("four bytes"));
            let left = u64::from(left).saturating_sub(age.as_secs());
            ttl.copy_from_slice(&(left as u32).to_be_bytes());
        }
        out.extend(opt);
        out
    }
}
