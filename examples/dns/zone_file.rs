//! The lines of a zone file: what a record looks like, and what it is in a message.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::name::Name;
use super::reply::Resource;

const A: u16 = 1;
const NS: u16 = 2;
pub(crate) const CNAME: u16 = 5;
pub(crate) const SOA: u16 = 6;
const PTR: u16 = 12;
const MX: u16 = 15;
const TXT: u16 = 16;
const AAAA: u16 = 28;
const KINDS: [(&str, u16); 8] = [
    ("A", A),
    ("NS", NS),
    ("CNAME", CNAME),
    ("SOA", SOA),
    ("PTR", PTR),
    ("MX", MX),
    ("TXT", TXT),
    ("AAAA", AAAA),
];

/// A line up to the `;` that is not within quotes.
pub(crate) fn without_comment(line: &str) -> &str {
    let mut is_quoted = false;
    let end = line.find(|c| {
        is_quoted ^= c == '"';
        c == ';' && !is_quoted
    });
    &line[..end.unwrap_or(line.len())]
}

/// A record: name, time to live, type, and what that type says.
pub(crate) fn resource(line: &str, origin: &Name) -> Option<Resource> {
    let mut words = line.split_whitespace();
    let name = Name::parse(words.next()?, Some(origin)).filter(|name| name.is_within(origin))?;
    let (ttl, kind) = (words.next()?.parse().ok()?, words.next()?.to_uppercase());
    let (_, kind) = *KINDS.iter().find(|(name, _)| *name == kind)?;
    let data = data(kind, &words.collect::<Vec<_>>(), line, origin)?;
    Some(Resource { name, kind, ttl, data })
}

/// The data of a record, as a message has it.
fn data(kind: u16, words: &[&str], line: &str, origin: &Name) -> Option<Vec<u8>> {
    let name = |word: &str| Name::parse(word, Some(origin)).map(|name| name.wire().to_vec());
    match (kind, words) {
        (A, [address]) => Some(address.parse::<Ipv4Addr>().ok()?.octets().to_vec()),
        (AAAA, [address]) => Some(address.parse::<Ipv6Addr>().ok()?.octets().to_vec()),
        (NS | CNAME | PTR, [target]) => name(target),
        (MX, [preference, target]) => {
            Some([&preference.parse::<u16>().ok()?.to_be_bytes()[..], &name(target)?].concat())
        }
        (SOA, [primary, mailbox, numbers @ ..]) if numbers.len() == 5 => {
            let numbers = numbers.iter().map(|word| word.parse().ok().map(u32::to_be_bytes));
            let numbers: Option<Vec<[u8; 4]>> = numbers.collect();
            Some([name(primary)?, name(mailbox)?, numbers?.concat()].concat())
        }
        // Strings of at most 255 bytes, each behind its length.
        (TXT, [_, ..]) => {
            let text = line.split_once('"')?.1.strip_suffix('"')?.as_bytes();
            let strings = text.chunks(255).chain(text.is_empty().then_some(text));
            Some(strings.flat_map(|part| [&[part.len() as u8], part].concat()).collect())
        }
        _ => None,
    }
}
