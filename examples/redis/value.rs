//! Values: a text, which may be a number, or a list.

use std::collections::VecDeque;
use std::ops::Range;

/// Why a command can't be done, as the client gets it.
pub(crate) type Fault = &'static str;

const WRONG_TYPE: Fault = "WRONGTYPE Operation against a key holding the wrong kind of value";
const NO_INTEGER: Fault = "ERR value is not an integer or out of range";
const OVERFLOW: Fault = "ERR increment or decrement would overflow";

/// The value of a key. All of it is copied from the input.
pub(crate) enum Value {
    Text(Vec<u8>),
    List(List),
}

/// Items, and how much they take.
#[derive(Default)]
pub(crate) struct List {
    items: VecDeque<Box<[u8]>>,
    size: usize,
}

/// What an item takes beside its bytes: its place in the list, and what the allocator adds.
const ITEM: usize = 40;

/// Which end of a list.
#[derive(Clone, Copy)]
pub(crate) enum End {
    Left,
    Right,
}

impl Value {
    pub(crate) fn text(&self) -> Result<&[u8], Fault> {
        match self {
            Self::Text(text) => Ok(text),
            Self::List(_) => Err(WRONG_TYPE),
        }
    }

    pub(crate) fn list(&self) -> Result<&List, Fault> {
        match self {
            Self::List(list) => Ok(list),
            Self::Text(_) => Err(WRONG_TYPE),
        }
    }

    /// About how much memory it takes, in bytes.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::Text(text) => text.capacity(),
            Self::List(list) => list.size,
        }
    }

    /// Becomes that text, in the memory of the old one unless that is far too large.
    pub(crate) fn set(&mut self, text: &[u8]) {
        match self {
            Self::Text(old) if old.capacity() / 2 <= text.len() => {
                old.clear();
                old.extend_from_slice(text);
            }
            _ => *self = Self::Text(text.to_vec()),
        }
    }

    /// Adds to a number.
    pub(crate) fn add(&mut self, amount: i64) -> Result<i64, Fault> {
        let sum = number(self.text()?)?.checked_add(amount).ok_or(OVERFLOW)?;
        self.set(sum.to_string().as_bytes());
        Ok(sum)
    }

    /// Adds items to a list, one after the other. Returns how many it has then.
    pub(crate) fn push<'a>(
        &mut self,
        items: impl Iterator<Item = &'a [u8]>,
        end: End,
    ) -> Result<usize, Fault> {
        let Self::List(list) = self else { return Err(WRONG_TYPE) };
        for item in items {
            list.size += ITEM + item.len();
            match end {
                End::Left => list.items.push_front(item.into()),
                End::Right => list.items.push_back(item.into()),
            }
        }
        Ok(list.len())
    }
}

impl List {
    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    pub(crate) fn range(&self, places: Range<usize>) -> impl Iterator<Item = &[u8]> + Clone {
        self.items.range(places).map(|item| &**item)
    }
}

/// The number that a text is. There is one way to write each: `+1`, `01` and `-0` are texts.
pub(crate) fn number(text: &[u8]) -> Result<i64, Fault> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let plain = text == b"0" || matches!(digits.first(), Some(b'1'..=b'9'));
    let text = std::str::from_utf8(text).ok().filter(|_| plain);
    text.and_then(|text| text.parse().ok()).ok_or(NO_INTEGER)
}
