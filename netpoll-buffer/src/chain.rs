//! Segments in a row: the first inline, the others in a list that is borrowed while it is needed.

use std::collections::VecDeque;
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
/// Most messages lie in one block, so most chains never need the list; and a chain that does need it
/// allocates nothing in the steady state. `rest` is in use only behind a `first`. Segments may be
/// empty (one whose bytes were just handed out by `next`, say).
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
        Self {
            first: None,
            rest: None,
        }
    }

    #[inline]
    pub(crate) fn first(&self) -> Option<&Segment> {
        self.first.as_ref()
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

    #[inline]
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Segment> + Clone {
        self.first
            .iter()
            .chain(self.rest.iter().flat_map(|rest| rest.iter()))
    }

    /// Adds a segment behind the others; one that continues the last in its block becomes part of it.
    #[inline]
    pub(crate) fn push_back(&mut self, segment: Segment) {
        let Some(last) = self.last_mut() else {
            self.first = Some(segment);
            return;
        };
        if let Some(segment) = last.join(segment) {
            self.rest
                .get_or_insert_with(pool::take_spill)
                .push_back(segment);
        }
    }

    #[inline]
    pub(crate) fn push_front(&mut self, segment: Segment) {
        if let Some(second) = self.first.replace(segment) {
            self.rest
                .get_or_insert_with(pool::take_spill)
                .push_front(second);
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
