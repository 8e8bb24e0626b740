//! A thousand clients at once: every byte comes back, in order, and nothing stays behind.

use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Instant;

use netpoll::Dispatch;

use crate::util::{
    Client, Random, Server, alone, connect, echo, eventually, fd_count, is_filtered, noise, pool,
    raise_fd_limit, thread_count,
};

const CLIENTS: usize = 1000;
const MESSAGES: usize = 200;
/// 256 KiB.
const SIZE_BITS: u32 = 18;
/// Messages that a client sends before it reads the answers.
const BURST_AT_MOST: usize = 4;

#[test]
fn a_thousand_clients_inline_on_1_loop() {
    alone("echo::a_thousand_clients_inline_on_1_loop", || crowd(Dispatch::Inline, 1));
}

#[test]
fn a_thousand_clients_inline_on_2_loops() {
    alone("echo::a_thousand_clients_inline_on_2_loops", || crowd(Dispatch::Inline, 2));
}

#[test]
fn a_thousand_clients_inline_on_4_loops() {
    alone("echo::a_thousand_clients_inline_on_4_loops", || crowd(Dispatch::Inline, 4));
}

#[test]
fn a_thousand_clients_pool_on_1_loop() {
    alone("echo::a_thousand_clients_pool_on_1_loop", || crowd(pool(), 1));
}

#[test]
fn a_thousand_clients_pool_on_2_loops() {
    alone("echo::a_thousand_clients_pool_on_2_loops", || crowd(pool(), 2));
}

#[test]
fn a_thousand_clients_pool_on_4_loops() {
    alone("echo::a_thousand_clients_pool_on_4_loops", || crowd(pool(), 4));
}

/// `NETPOLL_TEST_SCALE` is a percentage of the clients, for machines that are slow or observed, and
/// for filters, whose two ends compute here without optimisation.
fn clients() -> usize {
    let all = if is_filtered() { 5 } else { 100 };
    let scale = std::env::var("NETPOLL_TEST_SCALE").map_or(all, |it| it.parse().expect("percent"));
    (CLIENTS * scale / 100).max(1)
}

fn crowd(dispatch: Dispatch, loops: usize) {
    raise_fd_limit();
    let (descriptors, threads) = (fd_count(), thread_count());
    let (seed, clients, start) = (Random::seed(), clients(), Instant::now());
    let server = Server::start(echo().dispatch(dispatch).loops(loops));
    let address = server.address;
    let all_connected = Arc::new(Barrier::new(clients));
    let running: Vec<_> = (0..clients)
        .map(|number| {
            let barrier = all_connected.clone();
            let client = move || converse(address, &barrier, seed + 2 * number as u64);
            thread::Builder::new().stack_size(64 << 10).spawn(client).expect("a thread")
        })
        .collect();
    let echoed: usize = running.into_iter().map(|it| it.join().expect("a client")).sum();
    let took = start.elapsed();
    let megabytes = echoed >> 20;
    println!("{dispatch:?}, {loops} loops, {clients} clients: {megabytes} MiB in {took:.1?}");
    assert_eq!(server.stop().aborted, 0);
    eventually("all descriptors are closed", || fd_count() == descriptors);
    eventually("all threads have ended", || thread_count() == threads);
}

/// One client's talk: bursts of messages, then their echoes. Returns how many bytes came back.
fn converse(address: SocketAddr, barrier: &Barrier, seed: u64) -> usize {
    let mut random = Random::new(seed);
    let mut stream = connect(address);
    let mut heard = vec![0; 64 << 10];
    barrier.wait();
    let (mut left, mut total) = (MESSAGES, 0);
    while left > 0 {
        let burst = left.min(1 + random.below(BURST_AT_MOST));
        let messages: Vec<&[u8]> = (0..burst)
            .map(|_| noise(random.next() as usize >> 1, random.size(SIZE_BITS)))
            .collect();
        for message in &messages {
            stream.say(message);
        }
        for message in messages {
            hear_exactly(&mut stream, message, &mut heard, seed);
            total += message.len();
        }
        left -= burst;
    }
    stream.half_close();
    assert_eq!(stream.read(&mut heard).expect("a FIN"), 0, "seed {seed}: more than was sent");
    total
}

fn hear_exactly(stream: &mut TcpStream, message: &[u8], heard: &mut [u8], seed: u64) {
    for expected in message.chunks(heard.len()) {
        let part = &mut heard[..expected.len()];
        if let Err(error) = stream.read_exact(part) {
            panic!("seed {seed}: no echo: {error}");
        }
        assert!(part == expected, "seed {seed}: other bytes came back");
    }
}
