//! However the bytes are cut on the wire, and however little a socket takes: the same plain bytes
//! arrive, and receipts tell the truth.

use std::io::Write;
use std::sync::mpsc;

use netpoll::{Connection, EventLoop};

use super::{handing_out, next, serve};
use crate::toy::{ASK, DATA, EMPTY, ToyClient, Toys};
use crate::util::{Random, echo_once, modes, noise};

/// Random records in random pieces, with records between them that carry nothing.
#[test]
fn any_cut_of_the_wire_bytes_gives_the_same_plain_bytes() {
    let seed = Random::seed();
    println!("NETPOLL_TEST_SEED={seed}");
    let mut random = Random::new(seed);
    for dispatch in modes() {
        let (_serving, address) = serve(
            EventLoop::builder()
                .on_request(|(): &mut (), conn: &mut Connection| echo_once(conn))
                .dispatch(dispatch)
                .input_limit(1 + random.below(20_000)),
            Toys::default(),
        );
        for _ in 0..12 {
            let mut client = ToyClient::connect(address);
            let plain = noise(random.below(1 << 20), random.size(16));
            let (mut wire, mut from) = (Vec::new(), 0);
            while from < plain.len() {
                let len = random.size(12).min(plain.len() - from).min(crate::toy::PAYLOAD);
                wire.extend(client.toy.record(DATA, &plain[from..from + len]));
                from += len;
                if random.below(4) == 0 {
                    let kind = [EMPTY, ASK][random.below(2)];
                    wire.extend(client.toy.record(kind, b""));
                }
            }
            let mut socket = client.socket.try_clone().expect("a clone");
            let most = random.size(14);
            let mut pieces: Vec<Vec<u8>> = Vec::new();
            let mut left = &wire[..];
            while !left.is_empty() {
                let piece;
                (piece, left) = left.split_at((1 + random.below(most)).min(left.len()));
                pieces.push(piece.to_vec());
            }
            let sender = std::thread::spawn(move || {
                for piece in pieces {
                    socket.write_all(&piece).expect("sent");
                }
            });
            assert!(client.hear(plain.len()).expect("all of it") == plain, "other bytes");
            sender.join().expect("no panic");
            client.finish().expect("an end");
            assert!(client.rest().expect("an end in order").is_empty());
        }
    }
}

/// Small socket buffers, so that each send is cut somewhere in a record; a peer that reads a few
/// bytes at a time.
#[test]
fn any_short_write_keeps_the_bytes_and_the_receipts_exact() {
    let seed = Random::seed();
    println!("NETPOLL_TEST_SEED={seed}");
    let mut random = Random::new(seed);
    for dispatch in modes() {
        let (prepared, handles) = handing_out();
        let (_serving, address) = serve(
            prepared
                .on_request(|(): &mut (), _: &mut Connection| Ok(()))
                .output_limits(1 << 20, 64 << 20)
                .dispatch(dispatch),
            Toys::default(),
        );
        let mut client = ToyClient::connect(address);
        let socket = socket2::SockRef::from(&client.socket);
        socket.set_recv_buffer_size(4096).expect("an option");
        let handle = next(&handles);
        let (told, receipts) = mpsc::channel();
        let sizes: Vec<usize> = (0..60).map(|_| random.size(14)).collect();
        for (number, size) in sizes.iter().enumerate() {
            let told = told.clone();
            let receipt = move |delivery: netpoll::Delivery| {
                let _ = told.send((number, delivery.is_ok()));
            };
            handle.send_with(noise(number, *size), receipt).expect("there is room");
        }
        for (number, size) in sizes.iter().enumerate() {
            let heard = client.hear(*size).expect("it arrives");
            assert!(heard == noise(number, *size), "message {number} of {size} bytes");
        }
        let all: Vec<_> = sizes.iter().map(|_| next(&receipts)).collect();
        let expected: Vec<_> = (0..sizes.len()).map(|number| (number, true)).collect();
        assert_eq!(all, expected, "{dispatch:?}");
    }
}
