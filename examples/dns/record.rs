//! One record of a message, where it stands.

use super::name::Name;

/// The type of a record that is none: it carries what EDNS adds (RFC 6891).
pub(crate) const OPT: u16 = 41;

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) at: usize,
    pub(crate) kind: u16,
    pub(crate) class: u16,
    pub(crate) ttl: u32,
    /// Where its time to live stands.
    pub(crate) ttl_at: usize,
    /// Behind its data.
    pub(crate) end: usize,
}

impl Record {
    /// Reads the record of `message` at `at`.
    pub(crate) fn read(message: &[u8], at: usize) -> Option<Self> {
        let (_, behind) = Name::read(message, at)?;
        let (kind, class) = (number(message, behind)?, number(message, behind + 2)?);
        let ttl = u32::from(number(message, behind + 4)?) << 16;
        let ttl = ttl | u32::from(number(message, behind + 6)?);
        let end = behind + 10 + usize::from(number(message, behind + 8)?);
        let record = Self { at, kind, class, ttl, ttl_at: behind + 4, end };
        (end <= message.len()).then_some(record)
    }
}

/// Two bytes, big-endian.
pub(crate) fn number(message: &[u8], at: usize) -> Option<u16> {
    let bytes = message.get(at..at + 2)?;
    Some(u16::from_be_bytes([bytes[0], bytes[1]]))
}
