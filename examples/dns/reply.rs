//! Answers, written: records behind the question, and no more bytes than the client takes.

use super::message::{HEADER, Query, Rcode, UDP_MAX};
use super::name::Name;
use super::record::OPT;

/// Bits of the flags: an answer, of a zone's own server, cut short, recursion wanted and offered.
pub(crate) const ANSWER: u16 = 0x8000;
const AUTHORITATIVE: u16 = 0x0400;
pub(crate) const TRUNCATED: u16 = 0x0200;
const WANTED: u16 = 0x0100;
pub(crate) const OFFERED: u16 = 0x0080;
/// The class of everything that is asked for: the Internet.
pub(crate) const IN: u16 = 1;

/// A record as a zone has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resource {
    pub(crate) name: Name,
    pub(crate) kind: u16,
    pub(crate) ttl: u32,
    pub(crate) data: Vec<u8>,
}

#[derive(Debug, Default)]
pub(crate) struct Reply<'a> {
    /// `None` is an answer that there is.
    pub(crate) rcode: Option<Rcode>,
    pub(crate) authoritative: bool,
    pub(crate) answers: Vec<&'a Resource>,
    pub(crate) authority: Vec<&'a Resource>,
}

impl Reply<'_> {
    pub(crate) fn refused(rcode: Rcode) -> Self {
        Self { rcode: Some(rcode), ..Self::default() }
    }

    /// The message. Beyond `limit` bytes it has no records, and says that it is cut short: the
    /// client asks again over TCP.
    pub(crate) fn write(&self, query: &Query<'_>, limit: usize) -> Vec<u8> {
        let mut flags = ANSWER | self.rcode.map_or(0, |rcode| rcode as u16);
        flags |= if self.authoritative { AUTHORITATIVE } else { 0 };
        let whole = self.message(query, flags, true);
        if whole.len() <= limit { whole } else { self.message(query, flags | TRUNCATED, false) }
    }

    fn message(&self, query: &Query<'_>, flags: u16, is_whole: bool) -> Vec<u8> {
        let records = if is_whole { [&self.answers[..], &self.authority] } else { [&[][..]; 2] };
        let counts = records.map(|records| records.len() as u16);
        let mut out = head(query, flags, counts);
        for resource in records.into_iter().flatten() {
            if resource.name == query.name {
                out.extend([0xC0, HEADER as u8]); // the question has the name already
            } else {
                out.extend_from_slice(resource.name.wire());
            }
            let (kind, length) = (resource.kind, resource.data.len() as u16);
            out.extend([kind.to_be_bytes(), IN.to_be_bytes()].concat());
            out.extend(resource.ttl.to_be_bytes());
            out.extend(length.to_be_bytes());
            out.extend_from_slice(&resource.data);
        }
        out.extend(query.size.map_or(Vec::new(), |_| edns(0)));
        out
    }
}

/// A header and the question of a query.
pub(crate) fn head(query: &Query<'_>, flags: u16, counts: [u16; 2]) -> Vec<u8> {
    let flags = flags | if query.wants_recursion { WANTED } else { 0 };
    let more = u16::from(query.size.is_some());
    let words = [query.id, flags, 1, counts[0], counts[1], more];
    let header = words.into_iter().flat_map(u16::to_be_bytes);
    header.chain(query.question.iter().copied()).collect()
}

/// The record of EDNS, with the upper bits of an rcode.
pub(crate) fn edns(upper: u8) -> Vec<u8> {
    let [size, kind] = [UDP_MAX, OPT].map(u16::to_be_bytes);
    [&[0], &kind[..], &size, &[upper, 0, 0, 0, 0, 0]].concat()
}

/// The answer to what could not be read: nothing of it is repeated but its id.
pub(crate) fn refusal(message: &[u8], rcode: Rcode) -> Vec<u8> {
    let mut out = vec![0; HEADER];
    out[..2].copy_from_slice(&message[..2]);
    out[2] = 0x80 | message[2] & 0x79; // an answer; what kind of a query it was, and what it wanted
    out[3] = rcode as u8 & 0x0F;
    if rcode == Rcode::BadVersion {
        out[11] = 1;
        out.extend(edns(rcode as u8 >> 4));
    }
    out
}
