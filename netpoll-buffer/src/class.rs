//! The sizes that blocks have, and how many blocks of each may rest.

/// A size of blocks, as an index into [`CLASSES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Class(u8);

/// How large the blocks of a class are, and how many of them may rest.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    pub(crate) capacity: usize,
    /// In the cache of each thread.
    pub(crate) local: usize,
    /// In the cache of a thread that waits for long.
    pub(crate) parked: usize,
    /// In the store that all threads share.
    pub(crate) shared: usize,
}

/// Less than 2.5 MiB rest in the cache of a thread, and 47 MiB in the store: see the test.
pub(crate) const CLASSES: [Size; Class::COUNT] = [
    size(0, 64, 8, 1024), // headers of foreign memory
    size(512, 64, 8, 1024),
    size(4 * KIB, 64, 4, 2048),
    size(16 * KIB, 16, 0, 512),
    size(64 * KIB, 8, 0, 256),
    size(256 * KIB, 1, 0, 16),
    size(1024 * KIB, 1, 0, 8),
];

const KIB: usize = 1 << 10;

pub(crate) const fn size(capacity: usize, local: usize, parked: usize, shared: usize) -> Size {
    Size { capacity, local, parked, shared }
}

impl Class {
    /// How many classes have blocks that rest.
    pub(crate) const COUNT: usize = 7;
    /// Blocks without bytes of their own.
    pub(crate) const FOREIGN: Self = Self(0);
    pub(crate) const SMALLEST: Self = Self(1);
    /// Blocks of any size that never rest.
    pub(crate) const LARGE: Self = Self(Self::COUNT as u8);

    /// The smallest class with room for `room` bytes.
    pub(crate) fn of(room: usize) -> Self {
        match room {
            0..=512 => Self(1),
            513..=0x1000 => Self(2),
            0x1001..=0x4000 => Self(3),
            0x4001..=0x1_0000 => Self(4),
            0x1_0001..=0x4_0000 => Self(5),
            0x4_0001..=0x10_0000 => Self(6),
            _ => Self::LARGE,
        }
    }

    /// The index of the first class of large blocks.
    pub(crate) const FIRST_LARGE: usize = 4;

    /// The capacity of the largest blocks that `n` bytes fill, up to `most`; of the smallest ones
    /// if they fill none.
    pub(crate) fn filled_by(n: usize, most: usize) -> usize {
        let filled = CLASSES[1..].iter().rev().map(|size| size.capacity);
        let smallest = CLASSES[1].capacity;
        filled.into_iter().find(|&capacity| capacity <= n.min(most)).unwrap_or(smallest)
    }

    /// How many bytes the class's blocks have; `None` when each has its own size.
    pub(crate) fn capacity(self) -> Option<usize> {
        CLASSES.get(self.index()).map(|size| size.capacity)
    }

    /// Bytes of a block of the class with this index.
    pub(crate) fn capacity_of(index: usize) -> u64 {
        CLASSES[index].capacity as u64
    }

    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_room_gets_the_smallest_class_that_has_it() {
        for (class, size) in (0..).zip(CLASSES).skip(1) {
            assert_eq!(Class::of(size.capacity), Class(class));
            assert_eq!(Class::of(size.capacity + 1), Class(class + 1));
        }
        assert_eq!(Class::of(0), Class(1));
        assert_eq!(Class::of(usize::MAX), Class::LARGE);
        assert_eq!(Class::LARGE.capacity(), None);
    }
}
