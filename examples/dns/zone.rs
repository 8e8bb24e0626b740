//! A zone of a few records, read from a file, and what it says to a query.
//!
//! ```text
//!   $ORIGIN example.test.
//!   @    3600  SOA    ns hostmaster 1 3600 600 86400 60
//!   www  60    A      192.0.2.1          ; names that do not end in a dot are below the origin
//! ```

use std::collections::BTreeMap;

use super::message::{Query, Rcode};
use super::name::Name;
use super::reply::{IN, Reply, Resource};
use super::zone_file::{CNAME, SOA, resource, without_comment};

const ANY: u16 = 255;
/// Aliases of aliases that an answer follows.
const ALIASES_MAX: usize = 8;

#[derive(Debug)]
pub(crate) struct Zone {
    origin: Name,
    records: BTreeMap<Name, Vec<Resource>>,
}

impl Zone {
    /// Reads a file; the error names the line.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut origin = None;
        let mut records: BTreeMap<Name, Vec<Resource>> = BTreeMap::new();
        for (number, line) in text.lines().enumerate() {
            let line = without_comment(line).trim();
            let bad = || format!("line {}: no record: {line}", number + 1);
            if let Some(name) = line.strip_prefix("$ORIGIN ") {
                origin = Some(Name::parse(name.trim(), None).ok_or_else(bad)?);
            } else if !line.is_empty() {
                let record = origin.as_ref().and_then(|origin| resource(line, origin));
                let record = record.ok_or_else(bad)?;
                records.entry(record.name.clone()).or_default().push(record);
            }
        }
        let origin = origin.ok_or("there is no line `$ORIGIN NAME.`")?;
        Ok(Self { origin, records })
    }

    /// Whether a name is this zone's to answer.
    pub(crate) fn has(&self, name: &Name) -> bool {
        name.is_within(&self.origin)
    }

    /// The answer to a query for one of its names.
    pub(crate) fn answer(&self, query: &Query<'_>) -> Reply<'_> {
        let mut reply = Reply { authoritative: true, ..Reply::default() };
        let mut name = &query.name;
        let mut alias;
        for _ in 0..=ALIASES_MAX {
            let Some(all) = self.records.get(name).filter(|_| query.class == IN) else {
                // Of an alias that leads elsewhere, the client finds the rest itself.
                let missing = reply.answers.is_empty() && !self.is_above(name);
                reply.rcode = missing.then_some(Rcode::NoName);
                break;
            };
            let wanted = |kind| query.kind == kind || query.kind == ANY;
            let before = reply.answers.len();
            reply.answers.extend(all.iter().filter(|resource| wanted(resource.kind)));
            let aliases = all.iter().find(|resource| resource.kind == CNAME && !wanted(CNAME));
            let Some(resource) = aliases.filter(|_| reply.answers.len() == before) else { break };
            reply.answers.push(resource);
            let Some((next, _)) = Name::read(&resource.data, 0) else { break };
            alias = next;
            name = &alias;
        }
        if reply.answers.is_empty() {
            // It says how long a client may remember that there is nothing.
            let top = self.records.get(&self.origin).into_iter().flatten();
            reply.authority.extend(top.filter(|resource| resource.kind == SOA));
        }
        reply
    }

    /// Whether there are names below one that has no records itself.
    fn is_above(&self, name: &Name) -> bool {
        self.records.keys().any(|below| below.is_within(name))
    }
}
