//! Which account is charged with which memory, and until when.

use std::cell::RefCell;
use std::panic::AssertUnwindSafe;
use std::sync::Barrier;
use std::{panic, thread};

use bytes::Bytes;
use netpoll_buffer::{Account, LinkBuffer, released, stats};

use crate::alone::alone;
use crate::steady::arrive;

const BLOCK: usize = 4096;

/// `n` bytes in blocks of 4 KiB.
fn blocks(n: usize) -> LinkBuffer {
    let full = vec![b'x'; BLOCK];
    let mut buffer = LinkBuffer::new();
    for piece in full.repeat(n.div_ceil(BLOCK))[..n].chunks(BLOCK) {
        let mut block = LinkBuffer::new();
        block.write_bytes(piece);
        buffer.append(block);
    }
    buffer.flush();
    buffer
}

fn foreign(n: usize) -> Bytes {
    Bytes::from(vec![b'f'; n])
}

#[test]
fn a_block_is_charged_until_its_last_owner_lets_go() {
    let account = Account::new();
    let mut buffer = blocks(3 * BLOCK);
    let mut slice = buffer.slice(BLOCK + 1).unwrap();
    assert_eq!(account.held(), 0);
    slice.charge(&account);
    assert_eq!(account.held(), 2 * BLOCK, "one block is the slice's own, and one shared");
    drop(slice);
    assert_eq!(account.held(), BLOCK);
    buffer.skip(BLOCK - 1).unwrap();
    assert_eq!(account.held(), 0);
    assert_eq!(buffer.len(), BLOCK);
}

#[test]
fn a_block_is_charged_once() {
    let (first, second) = (Account::new(), Account::new());
    let mut buffer = blocks(BLOCK);
    let mut slices: Vec<_> = (0..100).map(|_| buffer.slice(10).unwrap()).collect();
    for slice in &mut slices {
        slice.charge(&first);
        slice.charge(&first);
        slice.charge(&second);
    }
    buffer.charge(&second);
    assert_eq!((first.held(), second.held()), (BLOCK, 0));
    drop((buffer, slices));
    assert_eq!((first.held(), second.held()), (0, 0));
}

#[test]
fn what_arrives_later_in_a_charged_block_is_charged_with_it() {
    let account = Account::new();
    let mut buffer = LinkBuffer::new();
    buffer.fill(BLOCK, arrive(100)).unwrap();
    buffer.charge(&account);
    buffer.fill(BLOCK, arrive(100)).unwrap();
    let mut later = buffer.slice(200).unwrap().slice(150).unwrap();
    later.charge(&account);
    assert_eq!(account.held(), BLOCK);
    drop((buffer, later));
    assert_eq!(account.held(), 0);
}

#[test]
fn pending_and_lent_bytes_are_charged() {
    let account = Account::new();
    let mut buffer = blocks(BLOCK);
    buffer.next(BLOCK).unwrap();
    buffer.charge(&account);
    assert_eq!(account.held(), BLOCK, "lent out until the next operation");
    buffer.release();
    assert_eq!(account.held(), 0);

    buffer.malloc(3 << 20);
    buffer.charge(&account);
    assert_eq!(account.held(), 3 << 20, "a block of its own size");
    buffer.malloc_ack(0).unwrap();
    assert_eq!(account.held(), 0);
}

#[test]
fn foreign_memory_is_not_charged() {
    let account = Account::new();
    let mut buffer = LinkBuffer::from(foreign(10_000));
    buffer.append(blocks(BLOCK));
    buffer.write_shared(foreign(10_000));
    buffer.flush();
    buffer.charge(&account);
    assert_eq!(account.held(), BLOCK);
    let linked = buffer.read_bytes_charged(5_000, &account).unwrap();
    assert_eq!(account.held(), BLOCK);
    drop(buffer);
    assert_eq!((linked.len(), account.held()), (5_000, 0));
}

#[test]
fn an_account_is_charged_for_those_within() {
    let all = Account::new();
    let loops = [Account::within(&all), Account::within(&all)];
    let connection = Account::within(&loops[1]);
    let mut buffers = [blocks(1), blocks(2 * BLOCK), blocks(3 * BLOCK), blocks(4 * BLOCK)];
    let accounts = [&all, &loops[0], &loops[1], &connection];
    for (buffer, account) in buffers.iter_mut().zip(accounts) {
        buffer.charge(account);
    }
    let held = || accounts.map(|account| account.held() / BLOCK);
    assert_eq!(held(), [10, 2, 7, 4]);
    for buffer in buffers {
        drop(buffer);
    }
    assert_eq!(held(), [0; 4]);
}

#[test]
fn a_charge_outlives_the_handles_of_its_account() {
    let all = Account::new();
    let mut buffer = blocks(BLOCK);
    buffer.charge(&Account::within(&all));
    assert_eq!(all.held(), BLOCK);
    drop(buffer);
    assert_eq!(all.held(), 0);
}

#[test]
fn a_block_from_the_pool_is_on_no_account() {
    alone("account::a_block_from_the_pool_is_on_no_account", || {
        let (first, second) = (Account::new(), Account::new());
        let mut buffer = blocks(BLOCK);
        buffer.charge(&first);
        drop(buffer);
        let mut again = blocks(BLOCK);
        assert_eq!(stats().blocks_allocated, 1, "it is the same block");
        assert_eq!(first.held(), 0);
        again.charge(&second);
        assert_eq!((first.held(), second.held()), (0, BLOCK));
    });
}

#[test]
fn what_all_buffers_are_charged_with_is_what_they_hold() {
    alone("account::what_all_buffers_are_charged_with_is_what_they_hold", || {
        let account = Account::new();
        let mut buffer = LinkBuffer::new();
        while buffer.len() < 1_000_000 {
            buffer.fill(usize::MAX, arrive(70_000)).unwrap();
        }
        let mut slices: Vec<_> = (1..500).map(|n| buffer.slice(3 * n).unwrap()).collect();
        buffer.charge(&account);
        for slice in &mut slices {
            slice.charge(&account);
        }
        assert_eq!(account.held() as u64, stats().bytes_held);
        drop(buffer);
        assert_eq!(account.held() as u64, stats().bytes_held);
        drop(slices);
        assert_eq!((account.held(), stats().bytes_held), (0, 0));
    });
}

/// Else a handler could hold any amount of memory by looking at its slices.
#[test]
fn copies_of_charged_bytes_are_charged_to_the_same_account() {
    let account = Account::new();
    let mut slice = blocks(20 * BLOCK);
    slice.charge(&account);
    slice.peek(20 * BLOCK).unwrap();
    assert_eq!(account.held(), 256 << 10, "one block in place of twenty");
    let small = slice.slice(100).unwrap();
    drop(slice);
    assert_eq!((small.len(), account.held()), (100, 512), "cut off by a copy");
    drop(small);
    assert_eq!(account.held(), 0);

    // Foreign bytes are copied behind charged ones.
    let mut slice = blocks(BLOCK);
    slice.charge(&account);
    slice.write_shared(foreign(BLOCK));
    slice.flush();
    slice.peek(BLOCK + 1).unwrap();
    assert_eq!(account.held(), 16 << 10);
    drop(slice);
    assert_eq!(account.held(), 0);

    // Copied behind bytes that no account is charged with, into the room that there is.
    let mut mixed = LinkBuffer::new();
    mixed.write_bytes(b"uncharged");
    mixed.flush();
    let mut charged = blocks(BLOCK);
    charged.charge(&account);
    mixed.append(charged);
    mixed.flush();
    mixed.peek(100).unwrap();
    assert_eq!(account.held(), 2 * BLOCK);
    drop(mixed);
    assert_eq!(account.held(), 0);
}

#[test]
fn bytes_are_charged_for_as_long_as_they_live() {
    let all = Account::new();
    let account = Account::within(&all);
    for (n, charged) in [
        (0, 0),
        (100, 100),             // copied: too few to share
        (1000, BLOCK),          // shared
        (BLOCK + 1, BLOCK + 1), // copied: in two blocks
    ] {
        let mut buffer = blocks(3 * BLOCK);
        let bytes = buffer.read_bytes_charged(n, &account).unwrap();
        assert_eq!((bytes.len(), buffer.len()), (n, 3 * BLOCK - n));
        drop(buffer);
        let part = bytes.slice(n / 2..);
        drop(bytes);
        assert_eq!((account.held(), all.held()), (charged, charged), "for {n} bytes");
        drop(part);
        assert_eq!((account.held(), all.held()), (0, 0), "for {n} bytes");
    }

    let mut buffer = blocks(10);
    buffer.read_bytes_charged(11, &account).unwrap_err();
    assert_eq!((buffer.len(), account.held()), (10, 0));
}

#[test]
fn few_bytes_of_a_huge_block_are_charged_with_their_size() {
    let account = Account::new();
    let mut buffer = LinkBuffer::new();
    buffer.malloc(1 << 20);
    buffer.flush();
    let bytes = buffer.read_bytes_charged(300, &account).unwrap();
    assert_eq!((bytes.len(), account.held()), (300, 300));
}

#[test]
fn a_charge_follows_what_it_stands_for() {
    let all = Account::new();
    let account = Account::within(&all);
    let mut charge = account.charge(100);
    let other = account.charge(1);
    for bytes in [100, 0, 5000, 20] {
        charge.resize(bytes);
        assert_eq!((account.held(), all.held()), (bytes + 1, bytes + 1));
    }
    drop(charge);
    assert_eq!((account.held(), all.held()), (1, 1));
    drop(other);
    assert_eq!((account.held(), all.held()), (0, 0));
}

#[test]
fn charges_are_released_on_whatever_thread() {
    let all = Account::new();
    let account = Account::within(&all);
    let mut buffer = blocks(8 * BLOCK);
    let mut parts: Vec<_> = (0..8).map(|_| buffer.slice(BLOCK - 1).unwrap()).collect();
    for part in &mut parts {
        part.charge(&account);
    }
    assert_eq!(all.held(), 8 * BLOCK);
    let bytes = parts.pop().unwrap().read_bytes_charged(1000, &account).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| drop(bytes));
        scope.spawn(|| drop(parts));
        scope.spawn(|| drop(buffer));
    });
    assert_eq!((account.held(), all.held()), (0, 0));
}

#[test]
fn threads_that_charge_at_once_charge_once() {
    let all = Account::new();
    let accounts = [Account::within(&all), Account::within(&all)];
    let start = Barrier::new(2);
    for _ in 0..200 {
        let mut buffer = blocks(64 * BLOCK);
        // Every block is shared by both.
        let mut halves = [LinkBuffer::new(), LinkBuffer::new()];
        for n in 0..128 {
            halves[n % 2].append(buffer.slice(BLOCK / 2).unwrap());
        }
        thread::scope(|scope| {
            for (half, account) in halves.iter_mut().zip(&accounts) {
                let start = &start;
                scope.spawn(move || {
                    start.wait();
                    half.charge(account);
                });
            }
        });
        let [one, other] = accounts.each_ref().map(Account::held);
        assert_eq!((one + other, all.held()), (64 * BLOCK, 64 * BLOCK));
        drop(halves);
        assert_eq!(all.held(), 0);
    }
}

#[test]
fn a_panic_of_foreign_memory_leaves_nothing_charged() {
    let account = Account::new();
    let touchy = || released(foreign(10_000), |_| panic!("at the release"));
    let ways: [fn(LinkBuffer); 4] = [
        drop,
        |mut buffer| buffer.clear(),
        |mut buffer| buffer.consume(usize::MAX),
        |mut buffer| _ = buffer.peek(buffer.len()),
    ];
    for way in ways {
        let mut buffer = blocks(2 * BLOCK);
        buffer.write_shared(touchy());
        buffer.append(blocks(2 * BLOCK));
        buffer.flush();
        buffer.charge(&account);
        assert_eq!(account.held(), 4 * BLOCK);
        panic::catch_unwind(AssertUnwindSafe(|| way(buffer))).unwrap_err();
        assert_eq!(account.held(), 0);
    }
}

#[test]
fn a_buffer_that_outlives_the_threads_cache_is_taken_off_its_account() {
    thread_local! {
        static LATE: RefCell<LinkBuffer> = const { RefCell::new(LinkBuffer::new()) };
    }
    let account = Account::new();
    thread::scope(|scope| {
        // The buffer's destructor is registered first, so it runs last.
        let late = scope.spawn(|| {
            LATE.with_borrow_mut(|late| late.append(blocks(3 * BLOCK)));
            LATE.with_borrow_mut(|late| late.charge(&account));
            assert_eq!(account.held(), 3 * BLOCK);
        });
        late.join().unwrap();
    });
    assert_eq!(account.held(), 0);
}

#[test]
fn what_is_added_is_charged_though_the_front_was() {
    let account = Account::new();
    let mut buffer = LinkBuffer::new();
    for _ in 0..20 {
        buffer.append(blocks(2 * BLOCK));
        buffer.charge_added(&account);
        buffer.write_shared(foreign(BLOCK)); // ends a look, and no more than that
        buffer.append(blocks(BLOCK));
        buffer.charge_added(&account);
    }
    buffer.flush();
    assert_eq!((account.held(), buffer.held()), (60 * BLOCK, 60 * BLOCK));
    assert_eq!(buffer.linked(), 20 * BLOCK);
}

/// A block of `capacity` bytes of which `n` are used.
fn loose(n: usize, capacity: usize) -> LinkBuffer {
    let mut buffer = LinkBuffer::new();
    buffer.malloc(capacity)[..n].fill(b'x');
    buffer.malloc_ack(n).unwrap();
    buffer.flush();
    buffer
}

#[test]
fn compaction_copies_what_fills_less_than_half_of_its_block() {
    for (n, capacity, held) in [
        (1, 4 << 10, 512),
        (300, 4 << 10, 512),
        (2048, 4 << 10, 2048),
        (2049, 4 << 10, 4 << 10),
        (20 << 10, 64 << 10, 20 << 10),
        (33 << 10, 64 << 10, 64 << 10),
        (200 << 10, 1 << 20, 256 << 10),
    ] {
        let account = Account::new();
        let mut buffer = loose(n, capacity);
        buffer.charge(&account);
        buffer.compact();
        assert!(buffer.held() <= held, "{n} of {capacity}: {}", buffer.held());
        assert_eq!(account.held(), buffer.held(), "{n} of {capacity}");
        assert_eq!((buffer.len(), buffer.chunks().flatten().count()), (n, n));
    }
    // Neighbours share what they are copied to.
    let mut many = LinkBuffer::new();
    (0..64).for_each(|_| many.append(loose(1 << 10, 64 << 10)));
    many.compact();
    assert_eq!((many.held(), many.malloc_len()), (64 << 10, 64 << 10));
}

/// A copy would hold memory on top of theirs.
#[test]
fn compaction_leaves_alone_what_others_hold() {
    let mut buffer = loose(100, 64 << 10);
    let slice = buffer.slice(50).unwrap();
    let mut buffer = loose(2000, 64 << 10);
    let shared = buffer.slice(1500).unwrap();
    let before = stats().bytes_copied;
    buffer.compact();
    assert_eq!(buffer.held(), 64 << 10);
    drop(shared);
    buffer.compact();
    assert_eq!(buffer.held(), 512);
    assert!(stats().bytes_copied >= before + 500);
    let mut memory = LinkBuffer::from(foreign(10_000));
    memory.skip(9_999).unwrap();
    memory.compact();
    assert_eq!(memory.linked(), 1);
    drop(slice);
}
