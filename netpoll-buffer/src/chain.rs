//! Segments in a row: the first inline, the others in a list that is taken from the pool while it
//! is needed.

use std::collections::{VecDeque, vec_deque};
use std::iter::FusedIterator;
use std::ops::{Deref, DerefMut};

use crate::block::Segment;
use crate::pool;

/// The segments of a buffer, in order.
///
/// ```text
///   first: Option<Segment>      rest: Option<Box<Spill>>, from the pool, given back when empty
///   ┌─────────┐                 ┌─────────┬─────────┬─────────┐
///   │ block a │                 │ block b │ block c │ block b │
///   └─────────┘                 └─────────┴─────────┴─────────┘
///    read here                                        written here
/// ```
///
/// Most messages lie in one block, so most chains never need the list; and a chain that does need
/// it allocates nothing in the steady state. `rest` is in use only behind a `first`. Segments may
/// be empty (after `next` has just handed their bytes out, say).
#[derive(Debug, Default)]
pub(crate) struct Chain {
    first: Option<Segment>,
    rest: Option<Box<Spill>>,
}

/// The list behind a chain's first segment.
#[derive(Debug, Default)]
pub(crate) struct Spill(VecDeque<Segment>);

impl Chain {
    pub(crate) const fn new() -> Self {
        Self { first: None, rest: None }
    }

    #[inline]
    pub(crate) fn first(&self) -> Option<&Segment> {
        self.first.as_ref()
    }

    /// The first segment, if there is no other.
    #[inline]
    pub(crate) fn only(&self) -> Option<&Segment> {
        self.first.as_ref().filter(|_| self.rest.is_none())
    }

    #[inline]
    pub(crate) fn first_mut(&mut self) -> Option<&mut Segment> {
        self.first.as_mut()
    }

    #[inline]
    pub(crate) fn last_mut(&mut self) -> Option<&mut Segment> {
        match &mut self.rest {
            Some(rest) if !rest.is_empty() => rest.back_mut(),
            _ => self.first.as_mut(),
        }
    }

    /// The first `n` bytes, segment by segment.
    #[inline]
    pub(crate) fn chunks(&self, n: usize) -> Chunks<'_> {
        let rest = self.rest.as_ref().map(|rest| rest.iter()).unwrap_or_default();
        Chunks { first: self.first.as_ref(), rest, left: n }
    }

    /// The segments behind the first.
    #[inline]
    pub(crate) fn rest(&self) -> impl Iterator<Item = &Segment> {
        self.rest.iter().flat_map(|rest| rest.iter())
    }

    #[inline]
    pub(crate) fn rest_mut(&mut self) -> impl Iterator<Item = &mut Segment> {
        self.rest.iter_mut().flat_map(|rest| rest.iter_mut())
    }

    /// How many bytes the first segments have, up to one that is not `fit`.
    pub(crate) fn len_while(&self, fit: fn(&Segment) -> bool) -> usize {
        let segments = self.first.iter().chain(self.rest());
        segments.take_while(|segment| fit(segment)).map(Segment::len).sum()
    }

    /// All segments, the last first.
    #[inline]
    pub(crate) fn backwards(&self) -> impl Iterator<Item = &Segment> {
        self.rest.iter().flat_map(|rest| rest.iter().rev()).chain(&self.first)
    }

    #[inline]
    pub(crate) fn backwards_mut(&mut self) -> impl Iterator<Item = &mut Segment> {
        self.rest.iter_mut().flat_map(|rest| rest.iter_mut().rev()).chain(&mut self.first)
    }

    #[inline]
    pub(crate) fn segments(&self) -> usize {
        usize::from(self.first.is_some()) + self.rest.as_ref().map_or(0, |rest| rest.len())
    }

    /// The last `n` segments, in order.
    #[inline]
    pub(crate) fn last_segments_mut(&mut self, n: usize) -> impl Iterator<Item = &mut Segment> {
        let before = self.segments() - n;
        let rest = self.rest.as_mut().map(|rest| rest.iter_mut()).unwrap_or_default();
        self.first.iter_mut().chain(rest).skip(before)
    }

    /// The last segment if it has room for `n` bytes, else a new one from a block of `block` bytes.
    #[inline]
    pub(crate) fn with_room(&mut self, n: usize, block: usize) -> &mut Segment {
        if self.last_mut().is_some_and(|last| last.room_len() >= n) {
            return self.last_mut().expect("it has room");
        }
        self.push_room(block)
    }

    /// Adds an empty segment with room for at least `room` bytes.
    ///
    /// It is made where it stays: moving a segment right after its fields were written costs a
    /// failed store forwarding, as much as all the rest.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "as said, and a call costs a receive 20 instructions")]
    pub(crate) fn push_room(&mut self, room: usize) -> &mut Segment {
        if self.first.is_none() {
            return self.first.insert(Segment::with_room(room));
        }
        let rest = self.rest.get_or_insert_with(pool::take_spill);
        rest.push_back(Segment::with_room(room));
        rest.back_mut().expect("it was just pushed")
    }

    /// Adds a segment behind the others; one that continues the last in its block becomes part of
    /// it.
    #[inline]
    pub(crate) fn push_back(&mut self, segment: Segment) {
        if self.first.is_none() {
            self.first = Some(segment);
        } else {
            self.push_behind(segment);
        }
    }

    fn push_behind(&mut self, segment: Segment) {
        let Some(last) = self.last_mut() else { return };
        if let Some(segment) = last.join(segment) {
            self.rest.get_or_insert_with(pool::take_spill).push_back(segment);
        }
    }

    #[inline]
    pub(crate) fn push_front(&mut self, segment: Segment) {
        if let Some(second) = self.first.replace(segment) {
            self.rest.get_or_insert_with(pool::take_spill).push_front(second);
        }
    }

    #[inline]
    pub(crate) fn pop_front(&mut self) -> Option<Segment> {
        let next = self.rest.as_mut().and_then(|rest| rest.pop_front());
        if next.is_none() {
            self.release_rest();
        }
        std::mem::replace(&mut self.first, next)
    }

    /// The first two segments.
    #[inline]
    pub(crate) fn first_two_mut(&mut self) -> (Option<&mut Segment>, Option<&mut Segment>) {
        let second = self.rest.as_mut().and_then(|rest| rest.front_mut());
        (self.first.as_mut(), second)
    }

    /// Drops the second segment. The drop comes last, since it may run code of the memory's owner.
    pub(crate) fn drop_second(&mut self) {
        let second = self.rest.as_mut().and_then(|rest| rest.pop_front());
        if self.rest.as_ref().is_some_and(|rest| rest.is_empty()) {
            self.release_rest();
        }
        drop(second);
    }

    /// As `pop_front`, without moving the segment.
    #[inline]
    pub(crate) fn drop_front(&mut self) {
        self.first = self.rest.as_mut().and_then(|rest| rest.pop_front());
        if self.first.is_none() {
            self.release_rest();
        }
    }

    pub(crate) fn pop_back(&mut self) -> Option<Segment> {
        match self.rest.as_mut().and_then(|rest| rest.pop_back()) {
            Some(last) => Some(last),
            None => self.pop_front(),
        }
    }

    #[inline]
    pub(crate) fn clear(&mut self) {
        self.first = None;
        if let Some(rest) = &mut self.rest {
            rest.clear();
            self.release_rest();
        }
    }

    #[inline]
    fn release_rest(&mut self) {
        if let Some(rest) = self.rest.take() {
            pool::put_spill(rest);
        }
    }
}

impl Drop for Chain {
    #[inline]
    fn drop(&mut self) {
        self.clear();
    }
}

/// The readable bytes of a buffer, block by block: see
/// [`LinkBuffer::chunks`](crate::LinkBuffer::chunks).
///
/// ```
/// # use netpoll_buffer::LinkBuffer;
/// let buffer: LinkBuffer = ["abc", "def"].into_iter().map(LinkBuffer::from).collect();
/// let mut chunks = buffer.chunks();
/// assert_eq!(chunks.next(), Some(&b"abc"[..]));
/// assert_eq!(chunks.clone().next(), Some(&b"def"[..]));
/// assert_eq!(chunks.flatten().count(), 3);
/// ```
#[derive(Clone, Debug)]
pub struct Chunks<'a> {
    first: Option<&'a Segment>,
    rest: vec_deque::Iter<'a, Segment>,
    /// How many bytes are still to come.
    left: usize,
}

impl<'a> Iterator for Chunks<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        while self.left > 0 {
            let segment = match self.first.take() {
                Some(first) => first,
                None => self.rest.next()?,
            };
            let bytes = segment.bytes();
            let n = bytes.len().min(self.left);
            self.left -= n;
            if n > 0 {
                return Some(&bytes[..n]);
            }
        }
        None
    }
}

impl FusedIterator for Chunks<'_> {}

impl Deref for Spill {
    type Target = VecDeque<Segment>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Spill {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}
