//! A session of TLS between a server and a client of `netpoll-tls`, over a wire that the input governs:
//! it delivers, changes, repeats, drops and invents bytes, in both directions, while both ends send.
//! Nothing panics, and what arrives is what was sent, from the first byte on.
#![no_main]

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use netpoll_buffer::LinkBuffer;
use netpoll_core::{Filter, FilterClient, FilterServer, FilterState};
use netpoll_tls::{TlsClient, TlsConfig};
use rcgen::CertifiedKey;

/// What one end has sent and received, and where it stands.
struct End {
    filter: Arc<dyn Filter>,
    state: FilterState,
    failed: bool,
    wire: Vec<u8>,
    input: LinkBuffer,
    out: LinkBuffer,
    sent: usize,
    finished: bool,
}

static CONFIGS: LazyLock<(TlsConfig, TlsClient)> = LazyLock::new(|| {
    let CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["localhost".into()]).expect("a certificate");
    let server = TlsConfig::from_pem(cert.pem().as_bytes(), signing_key.serialize_pem().as_bytes());
    let client = TlsClient::builder().roots(cert.pem().as_bytes()).build();
    (server.expect("a server"), client.expect("a client"))
});

fuzz_target!(|input: &[u8]| {
    let address = SocketAddr::from(([127, 0, 0, 1], 1)).into();
    let (server, client) = &*CONFIGS;
    let mut ends = [
        End::of(client.dial("localhost:1", &address).expect("a client's end")),
        End::of(server.accept(&address, None).expect("a server's end")),
    ];
    // What is on the way to each end.
    let mut wires = [VecDeque::new(), VecDeque::new()];
    // The handshake is rarely found by chance, so the input may ask for it.
    let (&mode, mut rest) = input.split_first().unwrap_or((&0, &[]));
    if mode % 2 == 1 {
        for _ in 0..4 {
            exchange(&mut ends, &mut wires);
        }
    }
    while let [op, a, b, ref later @ ..] = *rest {
        rest = later;
        let (of, amount) = (usize::from(op & 1), usize::from(a) << 8 | usize::from(b));
        let wire: &mut VecDeque<u8> = &mut wires[of];
        match op >> 1 & 7 {
            0 => {
                let n = amount.min(wire.len());
                let bytes: Vec<u8> = wire.drain(..n).collect();
                ends[of].receive(&bytes);
            }
            1 => exchange(&mut ends, &mut wires),
            2 => change(wire, amount, |byte| byte ^ (a | 1)),
            3 => _ = wire.drain(..(amount & 63).min(wire.len())),
            4 => wire.extend(later.iter().take(usize::from(b & 63))),
            5 => {
                let n = usize::from(b).min(wire.len());
                let again: Vec<u8> = wire.iter().take(n).copied().collect();
                wire.extend(again);
            }
            6 => ends[of].send(amount & 0x7fff),
            _ => ends[of].finish(),
        }
        for of in [0, 1] {
            let bytes = ends[of].transmit();
            wires[1 - of].extend(bytes);
        }
    }
    let [client, server] = &mut ends;
    client.check(server.sent);
    server.check(client.sent);
});

/// Delivers all that is on the way.
fn exchange(ends: &mut [End; 2], wires: &mut [VecDeque<u8>; 2]) {
    for of in [0, 1] {
        let bytes = ends[of].transmit();
        wires[1 - of].extend(bytes);
    }
    for of in [0, 1] {
        let bytes: Vec<u8> = wires[of].drain(..).collect();
        ends[of].receive(&bytes);
    }
}

fn change(wire: &mut VecDeque<u8>, at: usize, to: impl Fn(u8) -> u8) {
    if let Some(byte) = wire.len().checked_sub(1).and_then(|last| wire.get_mut(at.min(last))) {
        *byte = to(*byte);
    }
}

/// The byte that is sent at a place of a stream.
fn byte_at(place: usize) -> u8 {
    (place ^ (place >> 8)) as u8
}

impl End {
    fn of(filter: Arc<dyn Filter>) -> Self {
        Self {
            filter,
            state: FilterState::Handshaking,
            failed: false,
            wire: Vec::new(),
            input: LinkBuffer::new(),
            out: LinkBuffer::new(),
            sent: 0,
            finished: false,
        }
    }

    fn receive(&mut self, bytes: &[u8]) {
        if self.failed {
            return;
        }
        self.wire.extend_from_slice(bytes);
        match self.filter.open(&mut self.wire, usize::MAX, &mut self.input) {
            Ok(opened) => {
                self.wire.drain(..opened.used);
                self.state = opened.state;
            }
            Err(_) => self.failed = true,
        }
        self.input.flush();
    }

    fn send(&mut self, n: usize) {
        if self.state == FilterState::Handshaking || self.failed || self.finished || n == 0 {
            // It must refuse, and must not panic.
            if self.finished {
                assert!(self.filter.seal(&"x".into(), 0, &mut LinkBuffer::new()).is_err());
            }
            return;
        }
        let bytes: Vec<u8> = (self.sent..self.sent + n).map(byte_at).collect();
        let plain = LinkBuffer::from(bytes);
        let mut taken = 0;
        while taken < n && !self.failed {
            match self.filter.seal(&plain, taken, &mut self.out) {
                Ok(more) => taken += more,
                Err(_) => self.failed = true,
            }
        }
        self.sent += taken;
    }

    fn finish(&mut self) {
        if self.state != FilterState::Handshaking && !self.failed {
            self.filter.finish(&mut self.out);
            self.finished = true;
        }
    }

    fn transmit(&mut self) -> Vec<u8> {
        self.filter.say(&mut self.out);
        self.out.flush();
        let mut bytes = vec![0; self.out.len()];
        self.out.copy_to(&mut bytes);
        bytes
    }

    /// What came is what the other end sent, as far as it came.
    fn check(&self, sent: usize) {
        assert!(self.input.len() <= sent, "{} bytes of {sent}", self.input.len());
        assert!(self.input.chunks().flatten().enumerate().all(|(at, &byte)| byte == byte_at(at)));
    }
}
