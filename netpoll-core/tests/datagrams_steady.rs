//! Nothing is allocated per datagram once a loop is at work, whatever the datagrams are.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use netpoll_core::socket::DatagramSocketOptions;
use netpoll_core::{
    Address, ConnectionGroup, DatagramBatch, DatagramCallbacks, DatagramHandle, DatagramLimits,
    DatagramSocket, Dispatch, Dispatcher, HandOffOptions, Limits, LoadBalance, OnDatagrams,
    PollManager, serve_datagrams,
};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

#[expect(unsafe_code, reason = "an allocator that counts, by thread so that others don't mix in")]
// SAFETY: passes everything on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The loop's thread has allocated so often up to its last callback.
static SEEN: AtomicU64 = AtomicU64::new(0);

fn echo((): &mut (), batch: &DatagramBatch<'_>) -> netpoll_core::Result<()> {
    for datagram in batch {
        datagram.reply(datagram.payload())?;
    }
    SEEN.store(ALLOCATIONS.get(), Ordering::Relaxed);
    Ok(())
}

/// As `echo`, with an answer of the same length that is not copied where it is long.
fn lend((): &mut (), batch: &DatagramBatch<'_>) -> netpoll_core::Result<()> {
    static LENT: [u8; 60_000] = [0; 60_000];
    for datagram in batch {
        datagram.reply_bytes(Bytes::from_static(&LENT[..datagram.payload().len()]))?;
    }
    SEEN.store(ALLOCATIONS.get(), Ordering::Relaxed);
    Ok(())
}

/// Bursts of `count` datagrams, there and back.
fn exchange(client: &UdpSocket, count: usize, size: usize) {
    let mut into = vec![0; 65_536];
    for _ in 0..count {
        client.send(&into[..size]).expect("it is sent");
    }
    for _ in 0..count {
        assert_eq!(client.recv(&mut into).expect("it comes back"), size);
    }
}

/// Serves in this mode; returns how many allocations 3 000 bursts have cost after the first ones.
fn allocations_in(
    dispatch: Dispatch,
    local: &Address,
    callback: impl OnDatagrams<()>,
    bursts: &[(usize, usize)],
) -> u64 {
    let manager = PollManager::new(1, LoadBalance::default()).expect("a loop");
    let dispatcher = Dispatcher::new(dispatch).expect("a mode");
    let group = ConnectionGroup::served(Limits::default(), dispatcher).expect("a group");
    let socket = DatagramSocket::bind(local, &DatagramSocketOptions::default()).expect("a socket");
    let callbacks = DatagramCallbacks::new(|_: &DatagramHandle| Ok(()), callback);
    let limits = DatagramLimits::default();
    let handle = serve_datagrams(socket, callbacks, limits, &group, &manager.pick(None));
    let handle = handle.expect("it serves");
    let clients: Arc<[UdpSocket]> = (0..3).map(|_| client_of(&handle)).collect();
    let round = || {
        for client in &*clients {
            for &(count, size) in bursts {
                exchange(client, count, size);
            }
        }
    };
    for _ in 0..20 {
        round();
    }
    let before = SEEN.load(Ordering::Relaxed);
    for _ in 0..250 {
        round();
    }
    SEEN.load(Ordering::Relaxed) - before
}

fn client_of(handle: &DatagramHandle) -> UdpSocket {
    let port = handle.local_addr().expect("an address").port();
    let client = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    client.connect(("127.0.0.1", port)).expect("it is connected");
    client.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
    client
}

#[test]
fn no_datagram_allocates() {
    let short = [(1, 64), (16, 64), (40, 1200), (7, 0)];
    let long = [(1, 5000), (2, 60_000), (10, 5000), (3, 100)];
    for bind in ["127.0.0.1:0", "0.0.0.0:0"] {
        for dispatch in [Dispatch::Inline, Dispatch::HandOff(HandOffOptions::default())] {
            let local = Address::Inet(bind.parse().expect("an address"));
            let copied = allocations_in(dispatch, &local, echo, &short);
            let lent = allocations_in(dispatch, &local, lend, &long);
            // 48 000 and 12 000 datagrams. A burst larger than all before may take further blocks;
            // a callback that is handed off begins anew on another thread.
            assert!(copied < 20 && lent < 20, "{copied} and {lent} allocations at {bind}");
        }
    }
}
