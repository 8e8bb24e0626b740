//! What the history promises: a bound of its cost for any sequence of callbacks.

use super::*;
use crate::base::chance::Random;

/// The cost of a sequence of callbacks that a history places, in hops; and the cost that it would
/// have had on the reactor alone, and on workers alone.
#[derive(Debug, Default, Clone, Copy)]
struct Bill {
    ours: i32,
    reactor: i32,
    workers: i32,
    hops: i32,
}

impl Bill {
    fn best_fixed(self) -> i32 {
        self.reactor.min(self.workers)
    }
}

fn serve(history: &History, loop_history: &LoopHistory, bill: &mut Bill, behaviour: Behaviour) {
    let dear = step(behaviour) + 1;
    bill.reactor += dear;
    bill.workers += 1;
    match history.place(loop_history) {
        Placement::Reactor => bill.ours += dear,
        Placement::Worker => {
            bill.ours += 1;
            bill.hops += 1;
        }
    }
    history.note(behaviour, loop_history);
}

impl Random {
    /// Blocks so many times in 10 000.
    fn behaviour(&mut self, share: u64) -> Behaviour {
        if self.below(10_000) < share { Behaviour::Blocked } else { Behaviour::Returned }
    }
}

/// 64 connections, each with that many callbacks of which a share blocks, taking turns.
fn crowd(share: u64, callbacks: usize) -> Bill {
    let mut random = Random(share + 1);
    let (connections, loop_history): (Vec<History>, _) =
        ((0..64).map(|_| History::default()).collect(), LoopHistory::default());
    let mut bill = Bill::default();
    for _ in 0..callbacks {
        for each in &connections {
            serve(each, &loop_history, &mut bill, random.behaviour(share));
        }
    }
    bill
}

#[test]
fn where_nothing_blocks_nothing_is_lost() {
    let bill = crowd(0, 10_000);
    assert_eq!((bill.ours, bill.hops), (0, 0));
}

#[test]
fn it_comes_near_the_best_fixed_choice_at_every_share() {
    for (share, factor) in
        [(1, 1.1), (5, 1.1), (10, 1.25), (100, 1.25), (200, 1.1), (1_000, 1.1), (10_000, 1.1)]
    {
        let bill = crowd(share, 10_000);
        let limit = f64::from(bill.best_fixed()) * factor;
        assert!(f64::from(bill.ours) <= limit, "{share} of 10 000: {bill:?}");
    }
}

/// The bound that the work function gives, for any sequence: here against an offline algorithm
/// that knows the whole sequence, may move at any time, and pays a block's cost for each move.
#[test]
fn no_sequence_costs_much_more_than_a_seer_pays() {
    for seed in 1..200 {
        let mut random = Random(seed);
        let (history, loop_history) = (History::default(), LoopHistory::default());
        let mut bill = Bill::default();
        // The offline algorithm: the least cost of being on the reactor, or on a worker, by now.
        let mut seer = [0, 0];
        for _ in 0..=random.below(60) {
            let (share, length) = (random.below(4), random.below(2_000));
            let share = [0, 20, 300, 10_000][share as usize];
            for _ in 0..length {
                let behaviour = random.behaviour(share);
                serve(&history, &loop_history, &mut bill, behaviour);
                seer = [seer[0] + step(behaviour) + 1, seer[1] + 1];
                seer = [seer[0].min(seer[1] + STOLEN), seer[1].min(seer[0] + STOLEN)];
            }
        }
        let least = seer[0].min(seer[1]);
        assert!(bill.ours <= 3 * least + 4 * STOLEN, "seed {seed}: {} for {least}", bill.ours);
    }
}

#[test]
fn connections_that_block_go_to_the_workers_and_the_others_stay() {
    let connections: Vec<History> = (0..64).map(|_| History::default()).collect();
    let (loop_history, mut random) = (LoopHistory::default(), Random(3));
    let mut bills = [Bill::default(); 2];
    for _ in 0..5_000 {
        for (number, each) in connections.iter().enumerate() {
            let blocks = number % 8 == 0;
            let behaviour = random.behaviour(if blocks { 5_000 } else { 0 });
            serve(each, &loop_history, &mut bills[usize::from(blocks)], behaviour);
        }
    }
    let [quiet, blocking] = bills;
    assert!(blocking.ours <= blocking.workers * 11 / 10, "{blocking:?}");
    assert!(quiet.hops <= quiet.workers / 20, "{quiet:?}");
}

#[test]
fn it_follows_a_change_within_some_hundred_callbacks_both_ways() {
    let (history, loop_history) = (History::default(), LoopHistory::default());
    let mut bill = Bill::default();
    for _ in 0..3 {
        let hops = bill.hops;
        (0..1_000).for_each(|_| serve(&history, &loop_history, &mut bill, Behaviour::Blocked));
        assert!(bill.hops - hops >= 995, "{bill:?}");
        let hops = bill.hops;
        (0..5_000).for_each(|_| serve(&history, &loop_history, &mut bill, Behaviour::Returned));
        assert!(bill.hops - hops <= 600, "{bill:?}");
    }
}

#[test]
fn a_new_connection_believes_what_the_others_have_shown() {
    let loop_history = LoopHistory::default();
    let mut bill = Bill::default();
    let mut random = Random(9);
    for _ in 0..2_000 {
        // One callback each.
        serve(&History::default(), &loop_history, &mut bill, random.behaviour(5_000));
    }
    assert!(bill.hops >= 1_900, "{bill:?}");
    assert_eq!(History::default().place(&loop_history), Placement::Worker);
    (0..5_000)
        .for_each(|_| serve(&History::default(), &loop_history, &mut bill, Behaviour::Returned));
    assert_eq!(History::default().place(&loop_history), Placement::Reactor);
}

#[test]
fn waits_that_pass_the_core_on_by_themselves_weigh_less() {
    let (history, loop_history) = (History::default(), LoopHistory::default());
    let mut bill = Bill::default();
    for turn in 0..20_000 {
        let behaviour = if turn % 20 == 0 { Behaviour::Waited } else { Behaviour::Returned };
        serve(&history, &loop_history, &mut bill, behaviour);
    }
    assert_eq!(bill.hops, 0, "a wait in 20 callbacks is cheaper than 20 hops");
    (0..1_000).for_each(|_| serve(&history, &loop_history, &mut bill, Behaviour::Waited));
    assert!(bill.hops > 900, "{bill:?}");
}

#[test]
fn a_level_survives_its_bits() {
    let history = History::default();
    for level in [QUIET, -1, 0, 1, BLOCKS] {
        for place in [Placement::Reactor, Placement::Worker] {
            history.write(level, place);
            assert_eq!(history.read(), (level, place));
        }
    }
}
