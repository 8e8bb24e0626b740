//! How much memory is held, by what and for how long; and that no use sees the bytes of another.

use std::cell::RefCell;
use std::fs;
use std::io::{self, Read};
use std::panic::AssertUnwindSafe;
use std::sync::mpsc;
use std::{panic, thread};

use bytes::BufMut;
use netpoll_buffer::{FromRead, LinkBuffer, Source, Stats, released, stats, trim};

use crate::alone::alone;
use crate::steady::{arrive, echo};

pub(crate) const MIB: usize = 1 << 20;

pub(crate) fn filled(n: usize) -> LinkBuffer {
    let mut buffer = LinkBuffer::new();
    while buffer.len() < n {
        let missing = n - buffer.len();
        buffer.fill(missing, arrive(missing)).unwrap();
    }
    buffer
}

#[test]
fn malloced_memory_shows_no_bytes_of_another_use() {
    for n in [1, 100, 4096, 60_000, 2_000_000] {
        let mut secret = LinkBuffer::new();
        secret.malloc(n).fill(b's');
        drop(secret);
        let mut buffer = LinkBuffer::new();
        assert!(buffer.malloc(n).iter().all(|&byte| byte == 0));
        buffer.flush();
        assert!(buffer.chunks().flatten().all(|&byte| byte == 0));
    }
}

#[test]
fn discarded_bytes_are_zero_when_malloced_again() {
    let mut buffer = LinkBuffer::new();
    buffer.malloc(10).fill(b's');
    buffer.malloc_ack(0).unwrap();
    assert_eq!(buffer.malloc(10), [0; 10]);
}

#[test]
fn a_reader_that_lies_about_what_it_read_gets_zeros() {
    struct Liar;
    impl Read for Liar {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            Ok(out.len())
        }
    }
    drop(filled(8192));
    let mut source = FromRead::new(Liar);
    assert!(Source::next(&mut source, 4096).unwrap().iter().all(|&byte| byte == 0));
}

/// One byte at a time, as a peer can have it, fills blocks and does not take one each.
#[test]
fn a_reader_that_drips_holds_little() {
    alone("memory::a_reader_that_drips_holds_little", || {
        let mut source = FromRead::new(Dripping);
        source.until(b'\n', 5000).unwrap_err();
        assert!(stats().bytes_held <= 16 << 10, "{:?}", stats());
    });
}

struct Dripping;

impl Read for Dripping {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = out.len().min(1);
        out[..n].fill(b'x');
        Ok(n)
    }
}

#[test]
fn room_is_not_readable_before_it_is_written() {
    drop(filled(8192));
    let mut buffer = LinkBuffer::new();
    buffer.put_u8(1);
    buffer.fill(4096, |_| Ok(0)).unwrap();
    assert_eq!(buffer.chunks().collect::<Vec<_>>(), [[1]]);
}

#[test]
fn an_empty_buffer_holds_no_block() {
    alone("memory::an_empty_buffer_holds_no_block", || {
        let mut buffer = LinkBuffer::new();
        let mut out = vec![0; 100_000];
        let ways: [&mut dyn FnMut(&mut LinkBuffer); 9] = [
            &mut |buffer| buffer.consume(usize::MAX),
            &mut |buffer| buffer.skip(buffer.len()).unwrap(),
            &mut |buffer| assert_eq!(buffer.copy_to(&mut out), 100_000),
            &mut |buffer| drop(buffer.slice(buffer.len()).unwrap()),
            &mut |buffer| drop(buffer.read_bytes(buffer.len()).unwrap()),
            &mut |buffer| {
                buffer.next(buffer.len()).unwrap();
                buffer.release();
            },
            &mut |buffer| {
                buffer.next(buffer.len()).unwrap();
                assert_eq!(buffer.peek(0), Ok(&[][..]));
            },
            &mut LinkBuffer::clear,
            &mut |buffer| {
                buffer.malloc(9_000);
                buffer.malloc_ack(0).unwrap();
                buffer.consume(usize::MAX);
            },
        ];
        for empty in ways {
            buffer.append(filled(100_000));
            buffer.flush();
            assert!(stats().blocks_out > 0 && stats().bytes_held >= 100_000);
            empty(&mut buffer);
            assert!(buffer.is_empty());
            assert_eq!((stats().blocks_out, stats().bytes_held), (0, 0));
        }
    });
}

#[test]
fn a_consumed_block_goes_back_at_once() {
    alone("memory::a_consumed_block_goes_back_at_once", || {
        let mut buffer: LinkBuffer = (0..3).map(|_| filled(4096)).collect();
        assert_eq!(stats().blocks_out, 3);
        buffer.skip(4096).unwrap();
        assert_eq!(stats().blocks_out, 2);
        buffer.next(4096).unwrap();
        assert_eq!(stats().blocks_out, 2, "lent out until the next operation");
        buffer.peek(1).unwrap();
        assert_eq!(stats().blocks_out, 1);
    });
}

#[test]
fn a_small_slice_pins_no_huge_block() {
    alone("memory::a_small_slice_pins_no_huge_block", || {
        let mut buffer = LinkBuffer::new();
        buffer.malloc(8 * MIB);
        buffer.flush();
        let slice = buffer.slice(1).unwrap();
        let bytes = buffer.read_bytes(300).unwrap();
        drop(buffer);
        assert!(stats().bytes_held <= 4096, "{:?}", stats());
        drop((slice, bytes));

        // The rule: at most 64 times its size, or a block of 4 KiB, or it is more than 4 KiB
        // itself.
        for (block, n, copied) in [
            (4 << 10, 1, false),
            (64 << 10, 1023, true),
            (64 << 10, 1024, false),
            (MIB, 4096, true),
            (MIB, 4097, false),
        ] {
            let mut buffer = LinkBuffer::new();
            buffer.malloc(block);
            buffer.flush();
            let at = buffer.chunk().as_ptr();
            let slice = buffer.slice(n).unwrap();
            assert_eq!(slice.chunk().as_ptr() != at, copied, "{n} bytes of {block}");
        }
    });
}

#[test]
fn a_byte_after_a_large_message_holds_little() {
    alone("memory::a_byte_after_a_large_message_holds_little", || {
        for contiguous in [false, true] {
            let mut buffer = LinkBuffer::new();
            while buffer.len() <= 64 * MIB {
                let missing = 64 * MIB + 1 - buffer.len();
                buffer.fill(usize::MAX, arrive(missing)).unwrap();
            }
            if contiguous {
                buffer.next(64 * MIB).unwrap();
            } else {
                drop(buffer.slice(64 * MIB).unwrap());
            }
            buffer.release();
            assert_eq!(buffer.len(), 1);
            assert!(stats().bytes_held <= 64 << 10, "{:?}", stats());
        }
    });
}

/// The block that a pull-up made has room behind the message, and what comes next must not go
/// there.
#[test]
fn a_byte_after_a_message_that_was_pulled_up_holds_little() {
    alone("memory::a_byte_after_a_message_that_was_pulled_up_holds_little", || {
        let mut buffer = LinkBuffer::new();
        for size in [8, 10] {
            while buffer.len() < size * MIB {
                let missing = size * MIB - buffer.len();
                buffer.fill(missing, arrive(missing)).unwrap();
            }
            buffer.peek(size * MIB).unwrap();
        }
        buffer.fill(1, arrive(1)).unwrap();
        buffer.next(10 * MIB).unwrap();
        buffer.release();
        assert_eq!(buffer.len(), 1);
        assert!(stats().bytes_held <= 64 << 10, "{:?}", stats());
    });
}

#[test]
fn pull_ups_are_counted() {
    alone("memory::pull_ups_are_counted", || {
        let mut buffer: LinkBuffer = (0..3).map(|_| filled(1000)).collect();
        buffer.peek(1000).unwrap();
        assert_eq!(stats().bytes_copied, 0);
        buffer.peek(1500).unwrap();
        let first = stats().bytes_copied;
        assert!(first == 500 || first == 1500);
        buffer.peek(1500).unwrap();
        assert_eq!(stats().bytes_copied, first);
    });
}

#[test]
fn an_echo_finds_its_blocks_in_the_pool() {
    alone("memory::an_echo_finds_its_blocks_in_the_pool", || {
        let mut connections: Vec<_> =
            (0..100).map(|_| (LinkBuffer::new(), LinkBuffer::new())).collect();
        for round in 0..1000 {
            for (input, output) in &mut connections {
                echo(input, output, 64 << (round % 8));
            }
        }
        let Stats { blocks_taken, blocks_allocated, .. } = stats();
        println!("{blocks_allocated} of {blocks_taken} blocks allocated");
        assert!(blocks_allocated * 100 <= blocks_taken);
    });
}

#[test]
fn a_pair_of_threads_passes_blocks_in_a_circle() {
    alone("memory::a_pair_of_threads_passes_blocks_in_a_circle", || {
        let (sender, receiver) = mpsc::sync_channel(64);
        let releaser = thread::spawn(move || receiver.into_iter().for_each(drop::<LinkBuffer>));
        for _ in 0..100_000 {
            sender.send(filled(64)).unwrap();
        }
        drop(sender);
        releaser.join().unwrap();
        let Stats { blocks_out, blocks_taken, blocks_allocated, .. } = stats();
        println!("{blocks_allocated} of {blocks_taken} blocks allocated");
        assert_eq!(blocks_out, 0);
        // What is on the way and in both caches, and not one per message.
        assert!(blocks_allocated <= 400, "{blocks_allocated} of {blocks_taken}");
    });
}

#[test]
fn a_thread_that_ends_leaves_its_blocks_to_the_others() {
    alone("memory::a_thread_that_ends_leaves_its_blocks_to_the_others", || {
        let hold = || drop((0..60).map(|_| filled(64)).collect::<Vec<_>>());
        thread::spawn(hold).join().unwrap();
        let before = stats().blocks_allocated;
        assert_eq!(before, 60);
        hold();
        assert_eq!(stats().blocks_allocated, before);
    });
}

#[test]
fn a_buffer_that_outlives_the_threads_cache_is_freed() {
    alone("memory::a_buffer_that_outlives_the_threads_cache_is_freed", || {
        thread_local! {
            static LATE: RefCell<LinkBuffer> = const { RefCell::new(LinkBuffer::new()) };
        }
        // The buffer's destructor is registered first, so it runs last.
        thread::spawn(|| LATE.with_borrow_mut(|late| late.append(filled(100_000)))).join().unwrap();
        assert_eq!(stats().blocks_out, 0);
    });
}

#[test]
fn a_block_goes_back_though_its_owner_panics() {
    alone("memory::a_block_goes_back_though_its_owner_panics", || {
        let touchy = released(vec![b'x'; 5000], |_| panic!("at the release"));
        panic::catch_unwind(|| drop(LinkBuffer::from(touchy))).unwrap_err();
        assert_eq!(stats().blocks_out, 0);
    });
}

#[test]
fn a_read_that_panics_leaves_no_block_behind() {
    alone("memory::a_read_that_panics_leaves_no_block_behind", || {
        let mut buffer = LinkBuffer::new();
        for (kept, blocks) in [(0, 0), (3, 1)] {
            buffer.fill(kept, arrive(kept)).unwrap();
            let fill = AssertUnwindSafe(|| buffer.fill(MIB, |_| panic!("at the read")));
            panic::catch_unwind(fill).unwrap_err();
            assert_eq!((buffer.len(), stats().blocks_out), (kept, blocks));
        }
    });
}

#[test]
fn a_burst_gives_its_memory_back() {
    alone("memory::a_burst_gives_its_memory_back", || {
        echo(&mut LinkBuffer::new(), &mut LinkBuffer::new(), MIB);
        let start = resident();
        let burst: Vec<_> = (0..256).map(|_| filled(MIB)).collect();
        let peak = resident();
        drop(burst);
        let after = resident();
        trim();
        let trimmed = resident();
        let mib = |bytes: usize| bytes.div_ceil(MIB);
        println!(
            "resident MiB: start {}, peak {}, after {}, trimmed {}",
            mib(start),
            mib(peak),
            mib(after),
            mib(trimmed)
        );
        assert!(peak > start + 250 * MIB);
        assert!(sanitized() || trimmed < start + 8 * MIB, "nothing rests after a trim");
    });
}

#[test]
fn what_rests_is_bounded() {
    alone("memory::what_rests_is_bounded", || {
        drop((0..512).map(|_| filled(MIB)).collect::<Vec<_>>());
        let before = stats();
        drop((0..512).map(|_| filled(MIB)).collect::<Vec<_>>());
        let after = stats();
        // The second time, what rested is used and the others are allocated anew.
        let taken = after.blocks_taken - before.blocks_taken;
        let allocated = after.blocks_allocated - before.blocks_allocated;
        println!("{allocated} of {taken} blocks allocated");
        // All 512 blocks of 4 KiB may rest; of those of 64 KiB, 8 here and 256 in the store.
        assert_eq!(taken - allocated, 512 + 8 + 256, "{allocated} of {taken}");
    });
}

/// The memory of this process: all addresses, and those in RAM.
fn memory() -> (usize, usize) {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    let mut bytes = statm.split(' ').map(|pages| pages.parse::<usize>().unwrap_or(0) * 4096);
    (bytes.next().unwrap(), bytes.next().unwrap())
}

pub(crate) fn resident() -> usize {
    memory().1
}

pub(crate) fn addresses() -> usize {
    memory().0
}

/// A sanitizer keeps what is freed. Its shadow takes more addresses than any machine has memory.
pub(crate) fn sanitized() -> bool {
    memory().0 > 1 << 42
}
