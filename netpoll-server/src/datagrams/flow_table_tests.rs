//! The table against a model: a list of flows in the order of their activity.

use netpoll_core::clock;
use proptest::collection::vec;
use proptest::prelude::{Strategy, any, prop_oneof, proptest};

use super::*;

const IDLE: Duration = Duration::from_millis(50);

#[derive(Debug, Clone)]
enum Step {
    /// A datagram of this peer comes, after so many milliseconds.
    Datagram(u8, u64),
    Confirm(u8),
    Remove(u8),
    Evict,
    Expire(u64),
}

/// A flow of the model.
#[derive(Debug, Clone, PartialEq)]
struct Flow {
    number: u8,
    last: Instant,
    is_confirmed: bool,
}

fn key(number: u8) -> FlowKey {
    // The same peer comes to two addresses of this machine: these are two flows.
    let peer = Address::Inet(([192, 0, 2, number / 2], 9).into());
    FlowKey { peer, local: (number % 2 == 1).then(|| IpAddr::from([198, 51, 100, 1])) }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let number = || any::<u8>().prop_map(|it| it % 24);
    let step = prop_oneof![
        6 => (number(), 0..20_u64).prop_map(|(it, time)| Step::Datagram(it, time)),
        2 => number().prop_map(Step::Confirm),
        1 => number().prop_map(Step::Remove),
        1 => any::<bool>().prop_map(|_| Step::Evict),
        2 => (0..60_u64).prop_map(Step::Expire),
    ];
    vec(step, 0..200)
}

fn position(model: &[Flow], number: u8) -> Option<usize> {
    model.iter().position(|it| it.number == number)
}

fn take(table: &mut FlowTable<u8>, slot: Option<Slot>) -> Option<u8> {
    let (removed, session) = table.remove(slot?).expect("it is there");
    assert_eq!(removed, key(session));
    Some(session)
}

proptest! {
    #[test]
    fn it_does_what_a_list_does(steps in steps()) {
        let (mut table, mut model) = (FlowTable::new(), Vec::<Flow>::new());
        let mut now = clock::now();
        for step in steps {
            match step {
                Step::Datagram(number, time) => {
                    now += Duration::from_millis(time);
                    let slot = table.find(&key(number));
                    let known = position(&model, number).map(|it| model.remove(it));
                    assert_eq!(slot.is_some(), known.is_some());
                    match slot {
                        Some(slot) => table.touch(slot, now),
                        None => drop(table.insert(key(number), number, now)),
                    }
                    let is_confirmed = known.is_some_and(|it| it.is_confirmed);
                    model.push(Flow { number, last: now, is_confirmed });
                }
                Step::Confirm(number) => {
                    if let Some(slot) = table.find(&key(number)) {
                        table.confirm(slot, now);
                    }
                    if let Some(at) = position(&model, number) {
                        let flow = model.remove(at);
                        model.push(Flow { last: now, is_confirmed: true, ..flow });
                    }
                }
                Step::Remove(number) => {
                    let slot = table.find(&key(number));
                    let removed = take(&mut table, slot);
                    let known = position(&model, number).map(|it| model.remove(it).number);
                    assert_eq!(removed, known);
                }
                Step::Evict => {
                    let victim = table.victim();
                    let removed = take(&mut table, victim);
                    assert_eq!(removed.is_some(), !model.is_empty());
                    let Some(at) = removed.and_then(|it| position(&model, it)) else { continue };
                    let gone = model.remove(at);
                    let same = |it: &&Flow| it.is_confirmed == gone.is_confirmed;
                    assert!(!gone.is_confirmed || model.iter().all(|it| it.is_confirmed));
                    assert!(model.iter().filter(same).all(|it| it.last >= gone.last));
                }
                Step::Expire(time) => {
                    now += Duration::from_millis(time);
                    while let Some(slot) = table.expired(IDLE, now) {
                        let gone = take(&mut table, Some(slot)).expect("it was there");
                        let at = position(&model, gone).expect("the model has it");
                        assert!(model.remove(at).last + IDLE <= now, "too early");
                    }
                    assert!(model.iter().all(|it| it.last + IDLE > now), "one is left");
                }
            }
            assert_eq!(table.len(), model.len());
            let next = model.iter().map(|it| it.last + IDLE).min();
            assert_eq!(table.next_expiry(IDLE), next);
            for Flow { number, .. } in &model {
                let slot = table.find(&key(*number)).expect("it is there");
                assert_eq!(table.session(slot).copied(), Some(*number));
            }
        }
    }
}

#[test]
fn a_flood_of_forged_peers_takes_no_room_of_confirmed_ones() {
    let (mut table, now) = (FlowTable::new(), clock::now());
    let real = table.insert(key(0), 0_u32, now);
    table.confirm(real, now);
    for forged in 1..=1000 {
        if table.len() == 8 {
            let victim = table.victim().expect("it is full");
            table.remove(victim).expect("it is there");
        }
        let peer = Address::Inet(([10, 0, (forged >> 8) as u8, forged as u8], 1).into());
        table.insert(FlowKey { peer, local: None }, forged, now);
    }
    assert_eq!(table.session(real).copied(), Some(0));
    assert_eq!(table.len(), 8);
}

#[test]
fn a_time_that_goes_back_changes_no_order() {
    let (mut table, earlier) = (FlowTable::new(), clock::now());
    let now = earlier + Duration::from_secs(1);
    table.insert(key(0), 0, now);
    let second = table.insert(key(1), 1, earlier + Duration::from_millis(500));
    assert_eq!(table.next_expiry(IDLE), Some(now + IDLE));
    table.touch(second, earlier);
    assert!(table.expired(IDLE, now).is_none());
    assert!(table.expired(Duration::MAX, now + Duration::from_secs(9)).is_none(), "no overflow");
}

#[test]
fn an_empty_table_keeps_no_memory_of_a_flood() {
    let (mut table, now) = (FlowTable::new(), clock::now());
    let number = |it: u32| Address::Inet((it.to_be_bytes(), 1).into());
    for it in 0..10_000 {
        table.insert(FlowKey { peer: number(it), local: None }, it, now);
    }
    while let Some(slot) = table.victim() {
        table.remove(slot).expect("it is there");
    }
    assert!(table.entries.capacity() + table.places.capacity() <= KEPT);
}

/// What the table takes of 100 000 flows without a session, the room for more of them included.
#[test]
fn a_flow_takes_less_than_300_bytes() {
    const FLOWS: u32 = 100_000;
    let (mut table, now) = (FlowTable::new(), clock::now());
    for it in 0..FLOWS {
        let peer = Address::Inet((it.to_be_bytes(), 1).into());
        table.insert(FlowKey { peer, local: None }, (), now);
    }
    let entries = table.entries.capacity() * size_of::<Place<()>>();
    // Seven of eight places are used at most, each with a byte that says how.
    let places = (table.places.capacity() * 8).div_ceil(7).next_power_of_two();
    let taken = entries + places * (size_of::<(FlowKey, Slot)>() + 1);
    let each = taken / FLOWS as usize;
    println!("{each} bytes for each flow");
    assert!(each < 300, "{each} bytes");
    assert_eq!(table.len(), FLOWS as usize);
}
