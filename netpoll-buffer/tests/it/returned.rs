//! Memory that leaves the process again once no buffer holds it, without a `trim`.

use std::sync::Barrier;
use std::thread;

use netpoll_buffer::{LinkBuffer, Stats, bytes_existing, share_cache, shrink_store, stats};
use nix::sys::resource::{Resource, setrlimit};

use crate::alone::alone;
use crate::memory::{MIB, addresses, filled, resident, sanitized};

/// Blocks of one capacity each.
fn blocks(n: usize, capacity: usize) -> Vec<LinkBuffer> {
    let block = || {
        let mut buffer = LinkBuffer::new();
        buffer.malloc(capacity);
        buffer
    };
    (0..n).map(|_| block()).collect()
}

fn shrink() {
    share_cache();
    shrink_store();
    shrink_store();
}

/// An allocator would keep them: each thread has an arena of its own there, and something stays in
/// use at its end.
#[test]
fn what_many_threads_held_leaves_the_process() {
    alone("returned::what_many_threads_held_leaves_the_process", || {
        let start = resident();
        let in_step = &Barrier::new(17);
        let (peak, after) = thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(move || {
                    let mut held = Vec::new();
                    for _ in 0..16 {
                        held.push(filled(MIB));
                        held.extend(blocks(16, 16 << 10));
                        held.extend(blocks(64, 4 << 10));
                    }
                    let stays = vec![1_u8; 1000];
                    in_step.wait();
                    in_step.wait(); // the peak was looked at
                    drop(held);
                    share_cache();
                    in_step.wait();
                    in_step.wait(); // what is left was looked at
                    assert_eq!(stays.len(), 1000);
                });
            }
            in_step.wait();
            let peak = resident();
            in_step.wait();
            in_step.wait();
            shrink();
            let after = resident();
            in_step.wait();
            (peak, after)
        });
        println!("start {start}, peak {peak}, after {after}");
        assert!(peak > start + 300 * MIB);
        assert!(sanitized() || after < start + 16 * MIB, "{} MiB stay", (after - start) / MIB);
        assert_eq!(stats().bytes_held, 0);
    });
}

/// A block that is held keeps no neighbour in the process.
#[test]
fn every_free_block_leaves_though_its_neighbours_stay() {
    alone("returned::every_free_block_leaves_though_its_neighbours_stay", || {
        for capacity in [4 << 10, 16 << 10, 64 << 10, 256 << 10, MIB] {
            let start = resident();
            let mut held = blocks(128 * MIB / capacity, capacity);
            let peak = resident();
            assert!(peak > start + 120 * MIB, "{capacity}");
            let mut place = 0;
            held.retain(|_| {
                place += 1;
                place % 2 == 0
            });
            shrink();
            let half = resident();
            assert!(sanitized() || half < start + 72 * MIB, "{capacity}: {} MiB", half / MIB);
            drop(held);
            shrink();
            let after = resident();
            assert!(sanitized() || after < start + 4 * MIB, "{capacity}: {} MiB", after / MIB);
        }
    });
}

/// Blocks larger than the pool's are freed with their last byte.
#[test]
fn what_is_larger_than_any_class_leaves_at_once() {
    alone("returned::what_is_larger_than_any_class_leaves_at_once", || {
        // An allocator moves its threshold to map by what was freed.
        for _ in 0..4 {
            let start = resident();
            let mut held: Vec<_> = (0..8).map(|_| LinkBuffer::new()).collect();
            for buffer in &mut held {
                buffer.malloc(5 * MIB + 1).fill(1);
            }
            assert!(resident() > start + 36 * MIB);
            drop(held);
            assert!(sanitized() || resident() < start + MIB);
        }
        assert_eq!(stats().bytes_held, 0);
    });
}

/// What an address-space limit does not let us map comes from the allocator.
#[test]
fn where_no_mapping_is_to_be_had_the_allocator_helps() {
    alone("returned::where_no_mapping_is_to_be_had_the_allocator_helps", || {
        let limit = (addresses() + 3 * MIB) as u64;
        if !sanitized() {
            setrlimit(Resource::RLIMIT_AS, limit, limit).unwrap();
        }
        let held = blocks(24, 64 << 10);
        assert_eq!(stats().bytes_held, 24 << 16);
        drop(held);
        shrink();
        assert_eq!(bytes_existing(), 0);
        drop(blocks(24, 64 << 10));
    });
}

#[test]
fn the_store_keeps_what_is_needed_now_and_then() {
    alone("returned::the_store_keeps_what_is_needed_now_and_then", || {
        let hold = |n| {
            drop(blocks(n, 64 << 10));
            share_cache();
        };
        hold(100);
        shrink_store(); // from here on it counts
        hold(40);
        assert_eq!(shrink_store(), 60 << 16, "no thread needed them");
        let before = stats().blocks_allocated;
        hold(40);
        assert_eq!(stats().blocks_allocated, before);
        assert_eq!(shrink_store(), 0);
        assert_eq!(shrink_store(), 40 << 16);
        assert_eq!(bytes_existing(), 0);
    });
}

#[test]
fn what_a_waiting_thread_has_cached_is_for_others() {
    alone("returned::what_a_waiting_thread_has_cached_is_for_others", || {
        let all = || {
            let mut held = blocks(64, 4 << 10);
            held.extend(blocks(16, 16 << 10));
            held.extend(blocks(8, 64 << 10));
            held.extend(blocks(1, 256 << 10));
            held.extend(blocks(1, MIB));
            held
        };
        let waits = Barrier::new(2);
        thread::scope(|scope| {
            scope.spawn(|| {
                drop(all());
                share_cache();
                waits.wait();
                waits.wait();
            });
            waits.wait();
            let before = stats();
            let held = all();
            let Stats { blocks_allocated, .. } = stats();
            assert_eq!(blocks_allocated - before.blocks_allocated, 4, "it keeps 4 of 4 KiB");
            drop(held);
            waits.wait();
        });
    });
}

#[test]
fn all_memory_of_blocks_is_held_or_rests() {
    alone("returned::all_memory_of_blocks_is_held_or_rests", || {
        let held = blocks(10, 64 << 10);
        drop(blocks(5, 4 << 10));
        let Stats { bytes_held, bytes_resting, .. } = stats();
        assert_eq!((bytes_held, bytes_resting), (10 << 16, 5 << 12));
        assert_eq!(bytes_existing() as u64, bytes_held + bytes_resting);
        drop(held);
        let rest = (10 << 16) + (5 << 12);
        assert_eq!((stats().bytes_held, stats().bytes_resting), (0, rest));
    });
}
