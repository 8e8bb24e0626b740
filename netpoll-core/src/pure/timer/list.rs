//! The timers themselves, in linked lists from which each can be unlinked in O(1).

use crate::pure::slab::{Slab, Token};

/// The timers, in a slab. Each is in one list.
///
/// ```text
///   List.first ──► ┌───┐ ──► ┌───┐ ──► ┌───┐ ──┐      next
///                  │ a │     │ b │     │ c │   │
///            ┌──── └───┘ ◄── └───┘ ◄── └───┘   │      previous
///            │       ▲                   ▲     │
///            │       └───────────────────┼─────┘      so the last is `first.previous`
///            └───────────────────────────┘
/// ```
#[derive(Debug)]
pub(super) struct Entries<T> {
    slab: Slab<Entry<T>>,
    len: usize,
    /// How often an entry was looked at: the cost of a call, independent of the machine.
    #[cfg(test)]
    pub(super) steps: usize,
}

#[derive(Debug)]
struct Entry<T> {
    tick: u64,
    previous: Token,
    next: Token,
    what: T,
}

/// One of the lists; empty if `first` is [`Token::NONE`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct List {
    first: Token,
}

impl List {
    pub(super) const EMPTY: Self = Self { first: Token::NONE };

    pub(super) fn first(self) -> Option<Token> {
        (self != Self::EMPTY).then_some(self.first)
    }
}

impl<T> Entries<T> {
    pub(super) fn new() -> Self {
        Self {
            slab: Slab::new(),
            len: 0,
            #[cfg(test)]
            steps: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Adds an entry, which is in no list yet.
    pub(super) fn insert(&mut self, tick: u64, what: T) -> Token {
        self.len += 1;
        self.slab.insert(Entry { tick, previous: Token::NONE, next: Token::NONE, what })
    }

    /// Removes an entry that is in no list any more.
    pub(super) fn remove(&mut self, token: Token) -> Option<T> {
        let entry = self.slab.remove(token)?;
        self.len -= 1;
        Some(entry.what)
    }

    pub(super) fn tick(&mut self, token: Token) -> Option<u64> {
        Some(self.entry(token)?.tick)
    }

    pub(super) fn push_back(&mut self, list: &mut List, token: Token) {
        match list.first() {
            None => {
                list.first = token;
                self.join(token, token);
            }
            Some(first) => {
                let last = self.previous(first);
                self.join(last, token);
                self.join(token, first);
            }
        }
    }

    pub(super) fn unlink(&mut self, list: &mut List, token: Token) {
        let (previous, next) = (self.previous(token), self.next(token));
        if next == token {
            *list = List::EMPTY;
            return;
        }
        self.join(previous, next);
        if list.first == token {
            list.first = next;
        }
    }

    fn join(&mut self, previous: Token, next: Token) {
        if let Some(entry) = self.entry(previous) {
            entry.next = next;
        }
        if let Some(entry) = self.entry(next) {
            entry.previous = previous;
        }
    }

    fn next(&mut self, token: Token) -> Token {
        self.entry(token).map_or(Token::NONE, |entry| entry.next)
    }

    fn previous(&mut self, token: Token) -> Token {
        self.entry(token).map_or(Token::NONE, |entry| entry.previous)
    }

    fn entry(&mut self, token: Token) -> Option<&mut Entry<T>> {
        #[cfg(test)]
        {
            self.steps += 1;
        }
        self.slab.find_mut(token)
    }
}
