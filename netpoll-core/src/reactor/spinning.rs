//! One spin: a reactor looks again and again for a while before it sleeps.

use std::thread;
use std::time::Duration;

use crate::base::clock;
use crate::pure::spin::Spun;

/// After so many looks, each of which is a system call, other threads may have the processor.
const LOOKS: u64 = 8;
/// If another thread has the processor for longer, a sleep would have ended sooner.
const PREEMPTED: Duration = Duration::from_micros(200);

/// Looks until there is something to do, at most for `limit`; `look` says whether there is. Other
/// threads have the processor now and then, if they want it.
pub(super) fn spin<E>(
    limit: Duration,
    mut look: impl FnMut() -> Result<bool, E>,
) -> Result<Spun, E> {
    let begun = clock::now();
    for looks in 1u64.. {
        if look()? {
            return Ok(Spun { found: true, away: Duration::ZERO });
        }
        let looked = clock::now();
        if looked.duration_since(begun) >= limit {
            break;
        }
        if looks.is_multiple_of(LOOKS) {
            thread::yield_now();
            let away = clock::now().duration_since(looked);
            if away >= PREEMPTED {
                return Ok(Spun { found: look()?, away });
            }
        }
    }
    Ok(Spun { found: false, away: Duration::ZERO })
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_spin_ends_with_what_it_looks_for_or_with_its_time() {
        let mut looks = 0;
        // Others may keep the processor, which ends one as well.
        while !spin(Duration::MAX, || {
            looks += 1;
            Ok::<_, ()>(looks == 100)
        })
        .unwrap()
        .found
        {}
        assert_eq!(looks, 100);
        let spun = spin(Duration::from_micros(50), || Ok::<_, ()>(false));
        assert!(!spun.unwrap().found);
        assert_eq!(spin(Duration::MAX, || Err(1)), Err(1));
    }
}
