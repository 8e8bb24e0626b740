//! Slots with generations: a token that outlives its value finds nothing.

/// Names one slot of one slab, between one filling and the next emptying.
///
/// ```text
///    63 ................ 32 31 ................. 0
///   [ generation           ][ slot                ]
/// ```
/// The generation counts how often the slot was emptied. An event for a connection that has been
/// closed, even earlier in the same batch, carries an old generation and is dropped (nginx has one
/// bit for this, `HAProxy` 32).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Token(u64);

impl Token {
    /// A token that finds nothing in any slab.
    pub(crate) const NONE: Self = Self(u64::MAX);

    pub(crate) fn new(slot: u32, generation: u32) -> Self {
        Self(u64::from(generation) << 32 | u64::from(slot))
    }

    /// The number that epoll carries for the token.
    pub(crate) fn to_u64(self) -> u64 {
        self.0
    }

    pub(crate) fn from_u64(bits: u64) -> Self {
        Self(bits)
    }

    fn slot(self) -> usize {
        (self.0 & u64::from(u32::MAX)) as usize
    }

    fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// Values, found by token. Insert, find and remove cost O(1). Slots are reused, the one emptied
/// last first.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

#[derive(Debug)]
pub(crate) struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

impl<T> Slab<T> {
    pub(crate) fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }

    pub(crate) fn insert(&mut self, value: T) -> Token {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, value: None });
            (self.slots.len() - 1) as u32
        });
        let entry = &mut self.slots[slot as usize];
        entry.value = Some(value);
        Token::new(slot, entry.generation)
    }

    pub(crate) fn find_mut(&mut self, token: Token) -> Option<&mut T> {
        let slot = self.slots.get_mut(token.slot())?;
        if slot.generation == token.generation() { slot.value.as_mut() } else { None }
    }

    pub(crate) fn remove(&mut self, token: Token) -> Option<T> {
        self.find_mut(token)?;
        let slot = &mut self.slots[token.slot()];
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(token.slot() as u32);
        slot.value.take()
    }

    /// The tokens of all values for which `wanted` returns `true`.
    pub(crate) fn tokens(&self, wanted: impl Fn(&T) -> bool) -> Vec<Token> {
        let slots = self.slots.iter().enumerate();
        let filled = slots.filter(|(_, slot)| slot.value.as_ref().is_some_and(&wanted));
        filled.map(|(place, slot)| Token::new(place as u32, slot.generation)).collect()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().filter_map(|slot| slot.value.as_ref())
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.slots.iter_mut().filter_map(|slot| slot.value.as_mut())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_token_finds_nothing_though_its_slot_is_taken_again() {
        let mut slab = Slab::new();
        let old = slab.insert("old");
        assert_eq!(slab.remove(old), Some("old"));
        let new = slab.insert("new");
        assert_eq!(new.slot(), old.slot());
        assert_eq!(slab.find_mut(old), None);
        assert_eq!(slab.remove(old), None);
        assert_eq!(slab.find_mut(new), Some(&mut "new"));
        assert_eq!(slab.iter().count(), 1);
    }

    #[test]
    fn a_token_survives_the_way_through_epoll() {
        let token = Token::new(7, u32::MAX);
        assert_eq!(Token::from_u64(token.to_u64()), token);
        assert_eq!((token.slot(), token.generation()), (7, u32::MAX));
    }

    #[test]
    fn generations_wrap_without_a_panic() {
        let mut slab = Slab::new();
        let token = slab.insert(());
        slab.slots[0].generation = u32::MAX;
        assert_eq!(slab.find_mut(token), None);
        assert_eq!(slab.remove(Token::new(0, u32::MAX)), Some(()));
        assert_eq!(slab.insert(()), Token::new(0, 0));
    }

    #[test]
    fn no_token_is_the_token_of_nothing() {
        assert_eq!(Slab::<()>::new().find_mut(Token::NONE), None);
    }
}
