//! Nothing is allocated per message once blocks are in use.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{self, IoSlice, IoSliceMut};

use netpoll_buffer::{Account, LinkBuffer};

use crate::alone::alone;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

#[expect(unsafe_code, reason = "an allocator that counts, by thread so that tests don't mix")]
// SAFETY: passes everything on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

/// A `readv` that finds `n` bytes.
pub(crate) fn arrive(n: usize) -> impl FnOnce(&mut [IoSliceMut<'_>]) -> io::Result<usize> {
    move |space| {
        let mut left = n;
        for piece in space {
            let now = left.min(piece.len());
            piece[..now].fill(b'x');
            left -= now;
        }
        Ok(n - left)
    }
}

pub(crate) fn echo(input: &mut LinkBuffer, output: &mut LinkBuffer, n: usize) {
    while input.len() < n {
        let missing = n - input.len();
        input.fill(1 << 20, arrive(missing)).unwrap();
    }
    let message = input.slice(n).unwrap();
    output.append(message);
    output.flush();
    while !output.is_empty() {
        let mut chunks = [IoSlice::new(&[]); 16];
        let count = output.gather(&mut chunks);
        let sent = chunks[..count].iter().map(|chunk| chunk.len()).sum();
        output.consume(sent);
    }
}

#[test]
fn an_echo_allocates_nothing() {
    // Large messages use the store that all threads share, of which other tests take blocks.
    alone("steady::an_echo_allocates_nothing", || {
        for n in [1, 64, 1024, 5_000, 100_000, 1 << 20] {
            let (mut input, mut output) = (LinkBuffer::new(), LinkBuffer::new());
            for _ in 0..8 {
                echo(&mut input, &mut output, n);
            }
            let count = allocations(|| (0..1000).for_each(|_| echo(&mut input, &mut output, n)));
            assert_eq!(count, 0, "for messages of {n} bytes");
        }
    });
}

#[test]
fn charging_allocates_nothing() {
    // As above.
    alone("steady::charging_allocates_nothing", || {
        let account = Account::within(&Account::new());
        let mut buffer = LinkBuffer::new();
        let mut charged = || {
            while buffer.len() < 300_000 {
                buffer.fill(1 << 20, arrive(300_000)).unwrap();
            }
            let mut slice = buffer.slice(buffer.len()).unwrap();
            slice.charge(&account);
            assert!(account.held() >= 300_000);
            drop(slice);
            assert_eq!(account.held(), 0);
        };
        (0..8).for_each(|_| charged());
        assert_eq!(allocations(charged), 0);
    });
}

#[test]
fn a_new_buffer_allocates_nothing_and_is_small() {
    assert_eq!(allocations(|| drop(LinkBuffer::new())), 0);
    assert!(size_of::<LinkBuffer>() <= 64);
}
