//! Which loop a new connection goes to.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::base::panic::guard;
use crate::base::sync::{AtomicU64, Ordering};

/// How new connections are spread over the loops.
///
/// The loop is chosen once, on the thread that accepts or dials the connection. The choice reads
/// the load of each loop once at the most, and never blocks.
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum LoadBalance {
    /// Each loop in turn: after any number of picks the loops differ by one at most. The default;
    /// the spread is even where connections are alike.
    #[default]
    RoundRobin,
    /// A random loop.
    Random,
    /// The loop with the fewest connections, those on their way to it included; of several such
    /// loops, the next in turn. For connections that live long and end at different times.
    LeastConnections,
    /// The less loaded of two random loops: nearly as even as `LeastConnections`, at a cost that
    /// does not grow with the number of loops (Mitzenmacher's power of two choices).
    PowerOfTwoChoices,
    /// By the peer's IP address: the same client always comes to the same loop. When the number of
    /// loops changes from n to n + 1, one client in n + 1 moves, to the new loop (rendezvous
    /// hashing). Peers without an IP address, those of Unix sockets, go round robin.
    SourceHash,
    /// The loop that this [`Balance`] picks.
    Custom(Arc<dyn Balance>),
}

/// A load balance that the user writes; see [`LoadBalance::Custom`].
///
/// It runs on the threads that accept and dial, under no lock of the library, and must not block.
/// If it panics, the connection goes round robin. A closure is a load balance:
///
/// ```
/// use std::sync::Arc;
/// use netpoll_core::{LoadBalance, LoopLoad, PollManager};
///
/// let first = |_: Option<std::net::IpAddr>, _: &[LoopLoad]| 0;
/// let manager = PollManager::new(2, LoadBalance::Custom(Arc::new(first)))?;
/// # Ok::<(), netpoll_core::Error>(())
/// ```
pub trait Balance: Send + Sync {
    /// Returns the index in `loops` of the loop that a connection from `peer` goes to.
    ///
    /// `loops` is never empty. An index beyond its end wraps around to its start.
    fn pick(&self, peer: Option<IpAddr>, loops: &[LoopLoad]) -> usize;
}

impl<F> Balance for F
where
    F: Fn(Option<IpAddr>, &[LoopLoad]) -> usize + Send + Sync,
{
    fn pick(&self, peer: Option<IpAddr>, loops: &[LoopLoad]) -> usize {
        self(peer, loops)
    }
}

/// The load of one loop, as a load balance sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoopLoad {
    /// The loop's number. It never changes, and no other loop of the manager ever has it.
    pub number: usize,
    /// The number of its connections, those on their way to it included.
    pub connections: usize,
}

impl fmt::Debug for LoadBalance {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::RoundRobin => "RoundRobin",
            Self::Random => "Random",
            Self::LeastConnections => "LeastConnections",
            Self::PowerOfTwoChoices => "PowerOfTwoChoices",
            Self::SourceHash => "SourceHash",
            Self::Custom(_) => "Custom",
        })
    }
}

/// A load balance and the number of its picks.
#[derive(Debug)]
pub(crate) struct Balancer {
    kind: LoadBalance,
    picks: AtomicU64,
}

impl Balancer {
    pub(crate) fn new(kind: LoadBalance) -> Self {
        Self { kind, picks: AtomicU64::new(0) }
    }

    /// Whether `pick` runs the user's code.
    pub(crate) fn is_custom(&self) -> bool {
        matches!(self.kind, LoadBalance::Custom(_))
    }

    /// The index of one of `count` loops; `load` returns the load of each. `count` is not 0.
    pub(crate) fn pick(
        &self,
        peer: Option<IpAddr>,
        count: usize,
        load: impl Fn(usize) -> LoopLoad,
    ) -> usize {
        let pick = self.picks.fetch_add(1, Ordering::Relaxed);
        let turn = (pick % count as u64) as usize;
        // The mixed number of the pick is random enough, so threads share no generator.
        let chance = || mix(pick);
        match (&self.kind, peer) {
            (LoadBalance::RoundRobin, _) | (LoadBalance::SourceHash, None) => turn,
            (LoadBalance::Random, _) => below(count, chance()),
            (LoadBalance::LeastConnections, _) => {
                let in_turn = (0..count).map(|step| (turn + step) % count);
                in_turn.min_by_key(|&place| load(place).connections).unwrap_or(turn)
            }
            (LoadBalance::PowerOfTwoChoices, _) => {
                let first = below(count, chance());
                // A second loop, which differs from the first if there are several.
                let step = 1 + below((count - 1).max(1), mix(chance()));
                let second = (first + step) % count;
                let fewer = load(second).connections < load(first).connections;
                if fewer { second } else { first }
            }
            (LoadBalance::SourceHash, Some(peer)) => {
                let weight = |&place: &usize| mix(hash(peer) ^ mix(load(place).number as u64));
                (0..count).max_by_key(weight).unwrap_or(turn)
            }
            (LoadBalance::Custom(balance), _) => {
                let loads: Vec<_> = (0..count).map(load).collect();
                let chosen = guard("a load balance", || balance.pick(peer, &loads));
                chosen.map_or(turn, |place| place % count)
            }
        }
    }
}

/// Splitmix64's finalizer: each bit of the input changes half of the output's bits.
fn mix(seed: u64) -> u64 {
    let mut mixed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

fn hash(peer: IpAddr) -> u64 {
    let bits = match peer {
        IpAddr::V4(peer) => peer.to_ipv6_mapped().to_bits(),
        IpAddr::V6(peer) => peer.to_bits(),
    };
    mix(mix((bits >> 64) as u64) ^ bits as u64)
}

/// A number below `count`, by Lemire's multiplication.
fn below(count: usize, random: u64) -> usize {
    ((u128::from(random) * count as u128) >> 64) as usize
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::cell::RefCell;
    use std::net::Ipv4Addr;

    use super::*;

    /// How many connections each loop has after a burst of them, none of which closes.
    fn burst(kind: LoadBalance, count: usize, picks: u32) -> Vec<usize> {
        let balancer = Balancer::new(kind);
        let loads = RefCell::new(vec![0; count]);
        for number in 0..picks {
            let load =
                |place: usize| LoopLoad { number: place, connections: loads.borrow()[place] };
            let peer = IpAddr::V4(Ipv4Addr::from_bits(number));
            let place = balancer.pick(Some(peer), count, load);
            loads.borrow_mut()[place] += 1;
        }
        loads.into_inner()
    }

    fn spread(counts: &[usize]) -> usize {
        counts.iter().max().zip(counts.iter().min()).map_or(0, |(most, least)| most - least)
    }

    #[test]
    fn a_burst_spreads_as_evenly_as_promised() {
        for count in [1, 2, 3, 7, 64] {
            let of = |kind| spread(&burst(kind, count, 10_000));
            assert!(of(LoadBalance::RoundRobin) <= 1, "{count} loops");
            assert!(of(LoadBalance::LeastConnections) <= 1, "{count} loops");
            // ln ln n above the mean, with high probability.
            assert!(of(LoadBalance::PowerOfTwoChoices) <= 8, "{count} loops");
            let mean = 10_000 / count;
            for kind in [LoadBalance::Random, LoadBalance::SourceHash] {
                let counts = burst(kind.clone(), count, 10_000);
                let near = |&it: &usize| it.abs_diff(mean) <= mean / 2;
                assert!(counts.iter().all(near), "{kind:?}, {count} loops: {counts:?}");
            }
        }
    }

    #[test]
    fn least_connections_picks_the_loop_that_has_fewer() {
        let balancer = Balancer::new(LoadBalance::LeastConnections);
        let load = |place| LoopLoad { number: place, connections: [5, 3, 4][place] };
        assert!((0..10).all(|_| balancer.pick(None, 3, load) == 1));
    }

    #[test]
    fn a_source_keeps_its_loop_and_few_move_when_loops_change() {
        let balancer = Balancer::new(LoadBalance::SourceHash);
        let among = |peer, numbers: &[usize]| {
            let load = |place: usize| LoopLoad { number: numbers[place], connections: 0 };
            numbers[balancer.pick(Some(peer), numbers.len(), load)]
        };
        let mut moved = 0;
        for peer in (0..10_000).map(|it| IpAddr::V4(Ipv4Addr::from_bits(it))) {
            let of_four = among(peer, &[0, 1, 2, 3]);
            assert_eq!(of_four, among(peer, &[0, 1, 2, 3]));
            let of_five = among(peer, &[0, 1, 2, 3, 4]);
            assert!(of_five == of_four || of_five == 4, "moved between two that stay");
            moved += usize::from(of_five != of_four);
            let of_three = among(peer, &[0, 1, 3]);
            assert!(of_three == of_four || of_four == 2, "moved though its loop stays");
        }
        assert!((1600..2400).contains(&moved), "{moved} of 10 000 moved to the fifth of five");
    }

    #[test]
    fn a_custom_choice_beyond_the_end_counts_on_from_the_start() {
        let custom = |_: Option<IpAddr>, loops: &[LoopLoad]| loops.len() + 1;
        let balancer = Balancer::new(LoadBalance::Custom(Arc::new(custom)));
        assert_eq!(balancer.pick(None, 3, |place| LoopLoad { number: place, connections: 0 }), 1);
    }
}
