//! Any bytes where the kernel writes the control messages of a datagram: no panic, and what is read is
//! what a plain model reads; any bytes where it writes a sender's address.

#![no_main]

use libfuzzer_sys::fuzz_target;
use netpoll_core::{Ancillary, peer_of};

const UDP: i32 = 17;
const GRO: i32 = 104;
const IP: i32 = 0;
const TOS: i32 = 1;
const SOCKET: i32 = 1;
const DROPS: i32 = 40;

fuzz_target!(|input: (&[u8], &[u8], Vec<(u8, Vec<u8>)>)| {
    let (control, name, messages) = input;
    let read = Ancillary::read(control);
    assert!(read.interface.is_none() || read.destination.is_some());
    let address = peer_of(name);
    assert!(address.inet().is_none() || name.len() >= 8);
    look(&messages);
});

/// Whole messages, perhaps with garbage as data: the last of each kind that can be read counts.
fn look(messages: &[(u8, Vec<u8>)]) {
    let kinds = [(UDP, GRO), (IP, TOS), (SOCKET, DROPS), (77, 77)];
    let mut control = Vec::new();
    let (mut stride, mut tos, mut drops) = (None, None, None);
    for (kind, data) in messages {
        let (level, kind) = kinds[usize::from(*kind) % kinds.len()];
        control.extend((16 + data.len()).to_ne_bytes());
        control.extend(level.to_ne_bytes());
        control.extend(kind.to_ne_bytes());
        control.extend(data);
        control.resize(control.len().next_multiple_of(8), 0);
        let int = data.first_chunk().map(|it| i32::from_ne_bytes(*it));
        match (level, kind) {
            (UDP, GRO) => stride = int.filter(|it| (1..=65_535).contains(it)),
            (IP, TOS) => tos = data.first().copied(),
            (SOCKET, DROPS) => drops = int,
            _ => {}
        }
    }
    let read = Ancillary::read(&control);
    assert_eq!(read.stride.map(|it| i32::from(it.get())), stride);
    assert_eq!((read.tos, read.drops), (tos, drops.map(|it| it as u32)));
}
