//! An item that a line announces, and the numbers of a line.

use std::time::{Duration, Instant, SystemTime};

use netpoll::Bytes;

use crate::cache::{Cache, Entry};

/// The largest value, in bytes.
pub(crate) const ITEM_MAX: usize = 1 << 20;
pub(crate) const TOO_LARGE: &[u8] = b"SERVER_ERROR object too large for cache\r\n";
const KEY_MAX: usize = 250;
/// Times up to this are seconds from now, larger ones are seconds since 1970.
const MONTH: u64 = 30 * 24 * 60 * 60;

/// A value that a line has announced.
pub(crate) struct Item {
    verb: Box<[u8]>,
    key: Box<[u8]>,
    flags: u32,
    ends: Option<Instant>,
    pub(crate) length: usize,
    /// For `cas`: the version that the client saw.
    version: Option<u64>,
    pub(crate) is_quiet: bool,
}

impl Item {
    /// `VERB KEY FLAGS TIME LENGTH [VERSION]`.
    pub(crate) fn announced(words: &[&[u8]], is_quiet: bool) -> Option<Self> {
        let [verb, key, flags, time, length, version @ ..] = words else { return None };
        let fits = key.len() <= KEY_MAX && version.len() == usize::from(*verb == b"cas");
        fits.then_some(Self {
            verb: (*verb).into(),
            key: (*key).into(),
            flags: number(flags)?.try_into().ok()?,
            ends: if time.starts_with(b"-") { Some(Instant::now()) } else { end(number(time)?) },
            length: number(length)?.try_into().ok()?,
            version: version.first().map_or(Some(None), |it| number(it).map(Some))?,
            is_quiet,
        })
    }

    /// Stores the value, where the verb says so; returns the answer.
    pub(crate) fn store(&self, value: &[u8], cache: &mut Cache) -> &'static [u8] {
        let entry = match (&*self.verb, cache.get(&self.key).cloned()) {
            (b"cas", Some(old)) if self.version != Some(old.version) => return b"EXISTS\r\n",
            (b"cas", None) => return b"NOT_FOUND\r\n",
            (b"add", Some(_)) | (b"replace" | b"append" | b"prepend", None) => {
                return b"NOT_STORED\r\n";
            }
            (b"append", Some(old)) => Entry { value: [&old.value, value].concat().into(), ..old },
            (b"prepend", Some(old)) => Entry { value: [value, &old.value].concat().into(), ..old },
            // A slice would keep the block of the input.
            _ => {
                let value = Bytes::copy_from_slice(value);
                Entry { value, flags: self.flags, ends: self.ends, version: 0 }
            }
        };
        if entry.value.len() > ITEM_MAX {
            return TOO_LARGE;
        }
        cache.put(&self.key, entry);
        b"STORED\r\n"
    }
}

pub(crate) fn number(text: &[u8]) -> Option<u64> {
    let plain = text.iter().all(u8::is_ascii_digit);
    plain.then(|| str::from_utf8(text).ok()?.parse().ok())?
}

/// When an entry with that time ends; 0 is never.
pub(crate) fn end(time: u64) -> Option<Instant> {
    let since_1970 = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |it| it.as_secs());
    let left = if time > MONTH { time.saturating_sub(since_1970) } else { time };
    if time == 0 { None } else { Instant::now().checked_add(Duration::from_secs(left)) }
}
