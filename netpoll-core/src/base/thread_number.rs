//! Small numbers of threads: two threads that live at the same time have different ones.

use std::cell::Cell;

use crate::base::sync::{Ordering, StaticU64};

/// The number of a thread that has none. No thread has this one, nor 0, nor one with all of the
/// lower 15 bits set or with the highest bit.
pub(crate) const NONE: u16 = 1;
const FIRST: u16 = 2;
/// How many numbers there are.
const MANY: usize = (i16::MAX as u16 - FIRST) as usize;

thread_local! {
    static NUMBER: Cell<u16> = const { Cell::new(NONE) };
    /// Its drop gives the number back as the thread ends.
    static LEASE: Cell<Option<Lease>> = const { Cell::new(None) };
}

/// Which numbers are taken.
static TAKEN: Numbers<{ MANY.div_ceil(64) }> = Numbers::new(MANY);

/// Numbers from [`FIRST`] on, a bit for each that is taken.
struct Numbers<const WORDS: usize> {
    taken: [StaticU64; WORDS],
    many: usize,
}

struct Lease(u16);

/// The number of this thread; one that no thread has if it has none yet. One load.
#[inline]
pub(crate) fn current() -> u16 {
    NUMBER.get()
}

/// The number of this thread, which gets one if it has none. `None` if the thread is about to end,
/// or if more than 32 000 threads have one.
#[cold]
pub(crate) fn assign() -> Option<u16> {
    let number = NUMBER.get();
    if number != NONE {
        return Some(number);
    }
    let number = TAKEN.take()?;
    if LEASE.try_with(|lease| lease.set(Some(Lease(number)))).is_err() {
        TAKEN.give_back(number);
        return None;
    }
    NUMBER.set(number);
    Some(number)
}

impl<const WORDS: usize> Numbers<WORDS> {
    const fn new(many: usize) -> Self {
        Self { taken: [const { StaticU64::new(0) }; WORDS], many }
    }

    fn take(&self) -> Option<u16> {
        for (index, word) in self.taken.iter().enumerate() {
            let mut taken = word.load(Ordering::Relaxed);
            while taken != u64::MAX {
                let bit = taken.trailing_ones();
                let number = index * 64 + bit as usize;
                if number >= self.many {
                    break;
                }
                taken = word.fetch_or(1 << bit, Ordering::Relaxed);
                if taken & (1 << bit) == 0 {
                    return Some(FIRST + number as u16);
                }
            }
        }
        None
    }

    fn give_back(&self, number: u16) {
        let number = usize::from(number - FIRST);
        self.taken[number / 64].fetch_and(!(1 << (number % 64)), Ordering::Relaxed);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        NUMBER.set(NONE);
        TAKEN.give_back(self.0);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::collections::HashSet;
    use std::thread;

    use super::*;
    use crate::base::sync::channel;

    #[test]
    fn threads_that_live_at_the_same_time_have_different_numbers() {
        const THREADS: usize = 50;
        let (tell, numbers) = channel::unbounded();
        let (hold, held) = channel::unbounded::<()>();
        let number = move || {
            assert_eq!(current(), NONE);
            let number = assign().expect("there are numbers left");
            assert_eq!((current(), assign()), (number, Some(number)));
            tell.send(number).expect("the test waits for it");
            let _ = held.recv();
        };
        let threads: Vec<_> = (0..THREADS).map(|_| thread::spawn(number.clone())).collect();
        let different: HashSet<_> = numbers.iter().take(THREADS).collect();
        assert_eq!(different.len(), THREADS);
        drop(hold);
        for thread in threads {
            thread.join().expect("no panic");
        }
    }

    #[test]
    fn numbers_come_back_and_run_out() {
        let numbers: Numbers<2> = Numbers::new(67);
        let all: Vec<_> = std::iter::from_fn(|| numbers.take()).collect();
        assert_eq!(all, (FIRST..FIRST + 67).collect::<Vec<_>>());
        numbers.give_back(7);
        assert_eq!([numbers.take(), numbers.take()], [Some(7), None]);
    }

    #[test]
    fn the_number_of_a_thread_that_has_ended_is_used_again() {
        let numbers = (0..1000).map(|_| thread::spawn(assign).join().expect("no panic"));
        let numbers: HashSet<_> =
            numbers.map(|number| number.expect("there are numbers")).collect();
        assert!(numbers.len() < 500, "{} numbers for one thread at a time", numbers.len());
    }
}
