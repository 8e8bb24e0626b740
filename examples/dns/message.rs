//! What a message asks: its header, its one question, and the size that its sender takes (EDNS).

use super::name::Name;
use super::record::{OPT, Record, number};

pub(crate) const HEADER: usize = 12;
/// Bytes of an answer over UDP to a client that names no size (RFC 1035), and our bound for the
/// other clients: what passes every network without fragments.
const UDP_MIN: u16 = 512;
pub(crate) const UDP_MAX: u16 = 1232;

/// Why there is no answer to what was asked, as a header says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rcode {
    Format = 1,
    Failed = 2,
    NoName = 3,
    NotImplemented = 4,
    Refused = 5,
    /// Of EDNS: its upper bits stand in the `OPT` record.
    BadVersion = 16,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Query<'a> {
    pub(crate) id: u16,
    pub(crate) wants_recursion: bool,
    pub(crate) name: Name,
    pub(crate) kind: u16,
    pub(crate) class: u16,
    /// The question as it was written, to be repeated: case is the client's.
    pub(crate) question: &'a [u8],
    /// The size that the client takes over UDP, if it said one.
    pub(crate) size: Option<u16>,
}

/// What is no query that can be answered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Bad {
    /// An answer to it could go round for ever: it is an answer itself, or has no header.
    Silent,
    Refused(Rcode),
}

impl<'a> Query<'a> {
    pub(crate) fn read(message: &'a [u8]) -> Result<Self, Bad> {
        let Some(flags) = number(message, 2).filter(|flags| flags & 0x8000 == 0) else {
            return Err(Bad::Silent);
        };
        let counts = [4, 6, 8, 10].map(|at| number(message, at));
        let [Some(1), Some(0), Some(0), Some(more)] = counts else {
            let silent = message.len() < HEADER;
            return Err(if silent { Bad::Silent } else { Bad::Refused(Rcode::Format) });
        };
        if flags & 0x7800 != 0 {
            return Err(Bad::Refused(Rcode::NotImplemented)); // no query, but a notification or so
        }
        Self::parts(message, flags, more).unwrap_or(Err(Bad::Refused(Rcode::Format)))
    }

    /// What is behind the header; `None` if it is malformed.
    fn parts(message: &'a [u8], flags: u16, more: u16) -> Option<Result<Self, Bad>> {
        let (name, behind) = Name::read(message, HEADER)?;
        let (kind, class) = (number(message, behind)?, number(message, behind + 2)?);
        let question = &message[HEADER..behind + 4];
        let (mut at, mut edns) = (behind + 4, None);
        for _ in 0..more {
            let record = Record::read(message, at)?;
            if record.kind == OPT && (edns.is_some() || message[record.at] != 0) {
                return None; // one, of the root
            }
            edns = if record.kind == OPT { Some((record.class, record.ttl)) } else { edns };
            at = record.end;
        }
        if edns.is_some_and(|(_, ttl)| ttl & 0x00FF_0000 != 0) {
            return Some(Err(Bad::Refused(Rcode::BadVersion)));
        }
        let (id, wants_recursion) = (number(message, 0)?, flags & 0x0100 != 0);
        let size = edns.map(|(size, _)| size);
        let query = Self { id, wants_recursion, name, kind, class, question, size };
        (at == message.len()).then_some(Ok(query))
    }

    /// What is the same for all queries of one question, in whatever case it is written.
    pub(crate) fn key(&self) -> Vec<u8> {
        key(self.question)
    }

    /// Bytes that an answer over UDP may have.
    pub(crate) fn limit(&self) -> usize {
        self.size.map_or(UDP_MIN, |size| size.clamp(UDP_MIN, UDP_MAX)).into()
    }
}

/// The name of a question in lower case, and its type and class as they are: 65 is no `A` there.
pub(crate) fn key(question: &[u8]) -> Vec<u8> {
    let (name, rest) = question.split_at(question.len().saturating_sub(4));
    [&name.to_ascii_lowercase()[..], rest].concat()
}
