//! The wheel: in which list a timer waits, and how it moves to finer levels as ticks go by.

use super::list::{Entries, List};
use crate::pure::slab::Token;

/// The number of digits of a tick: one per level.
const LEVELS: usize = 8;
const DIGIT_BITS: usize = 6;
/// A level has one slot for each value of its digit, and a bit of one word for each slot.
const SLOTS: usize = 1 << DIGIT_BITS;

/// The last tick.
pub(super) const LAST: u64 = (1 << (LEVELS * DIGIT_BITS)) - 1;

/// A hierarchical timing wheel (Varghese and Lauck, 1987). Timers wait at the level of the highest
/// digit in which their tick differs from the current one, in the slot of that digit.
///
/// ```text
///   current tick   0  0  0  0  0  0  2  5     digits of 6 bits
///   a timer        0  0  0  0  0  0  2  9     level 0, slot 9
///   another        0  0  0  0  0  0  7 30     level 1, slot 7
///   level          7  6  5  4  3  2  1  0
///
///   level 1  ┌──┬──┬──┬──┬──┬──┬──┬──┬─ ─┬──┐   a slot is 64 ticks
///            │  │  │▲ │  │  │  │  │■ │   │63│   its digit is reached: its timers move on
///            └──┴──┴──┴──┴──┴──┴──┴┼─┴─ ─┴──┘
///   level 0  ┌──┬──┬──┬──┬──┬──┬──┬▼─┬─ ─┬──┐   a slot is 1 tick
///            │  │  │  │  │  │▲ │  │  │ ■ │63│   its digit is reached: its timers are due
///            └──┴──┴──┴──┴──┴──┴──┴──┴─ ─┴──┘
/// ```
///
/// All digits above a timer's level equal those of the current tick, and the digit of its level is
/// greater. Three things follow: the timer's tick and the current one give its level and slot,
/// which need not be stored; a timer at a lower level is due before all at higher levels; and the
/// next slot is the lowest bit of the lowest level that has one, however many ticks away it is.
///
/// `advance` upholds this. The current tick never passes an occupied slot: it stops at the slot's
/// first tick, and `empty` moves the slot's timers to where they belong then. They keep their
/// order, in which they were armed; a timer that comes to a slot later was armed later, so the
/// lists need no sorting.
#[derive(Debug)]
pub(super) struct Wheel<T> {
    current: u64,
    /// A bit for each slot that is not empty; slot `n` has bit `n`.
    occupied: [u64; LEVELS],
    /// On the heap, since the core that owns the wheel moves between threads.
    slots: Box<[[List; SLOTS]; LEVELS]>,
    /// The timers that are due at the current tick.
    due: List,
    pub(super) entries: Entries<T>,
}

/// A slot by its level and the value of its digit.
#[derive(Clone, Copy)]
struct SlotIndex {
    level: usize,
    digit: usize,
}

impl<T> Wheel<T> {
    pub(super) fn new() -> Self {
        Self {
            current: 0,
            occupied: [0; LEVELS],
            slots: Box::new([[List::EMPTY; SLOTS]; LEVELS]),
            due: List::EMPTY,
            entries: Entries::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// `tick` is not beyond [`LAST`].
    pub(super) fn insert(&mut self, tick: u64, what: T) -> Token {
        let token = self.entries.insert(tick, what);
        self.link(token, tick);
        token
    }

    pub(super) fn remove(&mut self, token: Token) -> Option<T> {
        let tick = self.entries.tick(token)?;
        self.unlink(token, tick);
        self.entries.remove(token)
    }

    pub(super) fn pop_due(&mut self) -> Option<T> {
        self.remove(self.due.first()?)
    }

    /// Makes `tick` the current one and all timers up to it due; an earlier tick changes nothing.
    pub(super) fn advance(&mut self, tick: u64) {
        while let Some((place, start)) = self.next_slot()
            && start <= tick
        {
            self.current = start;
            self.empty(place);
        }
        self.current = self.current.max(tick);
    }

    /// The next tick at which a timer fires or moves.
    pub(super) fn next_tick(&self) -> Option<u64> {
        if self.due.first().is_some() {
            return Some(self.current);
        }
        self.next_slot().map(|(_, start)| start)
    }

    /// The next occupied slot, and its first tick.
    fn next_slot(&self) -> Option<(SlotIndex, u64)> {
        let level = self.occupied.iter().position(|&slots| slots != 0)?;
        let digit = self.occupied[level].trailing_zeros();
        let shift = level * DIGIT_BITS;
        let above = self.current >> (shift + DIGIT_BITS) << (shift + DIGIT_BITS);
        let start = above | u64::from(digit) << shift;
        Some((SlotIndex { level, digit: digit as usize }, start))
    }

    /// Moves the timers of a slot to where they belong now; its first tick is the current one.
    fn empty(&mut self, place: SlotIndex) {
        let mut list = std::mem::replace(&mut self.slots[place.level][place.digit], List::EMPTY);
        self.occupied[place.level] &= !place.bit();
        while let Some(token) = list.first() {
            self.entries.unlink(&mut list, token);
            if let Some(tick) = self.entries.tick(token) {
                self.link(token, tick);
            }
        }
    }

    fn link(&mut self, token: Token, tick: u64) {
        let Some(place) = self.place(tick) else {
            return self.entries.push_back(&mut self.due, token);
        };
        self.entries.push_back(&mut self.slots[place.level][place.digit], token);
        self.occupied[place.level] |= place.bit();
    }

    fn unlink(&mut self, token: Token, tick: u64) {
        let Some(place) = self.place(tick) else {
            return self.entries.unlink(&mut self.due, token);
        };
        let list = &mut self.slots[place.level][place.digit];
        self.entries.unlink(list, token);
        if list.first().is_none() {
            self.occupied[place.level] &= !place.bit();
        }
    }

    /// Where a timer of `tick` waits; `None` if it is due.
    fn place(&self, tick: u64) -> Option<SlotIndex> {
        if tick <= self.current {
            return None;
        }
        let level = (tick ^ self.current).ilog2() as usize / DIGIT_BITS;
        let digit = (tick >> (level * DIGIT_BITS)) as usize % SLOTS;
        Some(SlotIndex { level, digit })
    }
}

impl SlotIndex {
    fn bit(self) -> u64 {
        1 << self.digit
    }
}
