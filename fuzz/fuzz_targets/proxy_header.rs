//! Any bytes that a peer sends where a PROXY header is due, split anywhere: no panic, no header
//! beyond the bytes or the limit, and no verdict that more bytes change. A header that was read can be
//! written, and says the same then.

#![no_main]

use libfuzzer_sys::fuzz_target;
use netpoll_server::proxy::{Header, Version, parse, tlv};

fuzz_target!(|input: (&[u8], u16)| {
    let (bytes, limit) = (input.0, usize::from(input.1));
    let mut verdict = None;
    for end in 0..=bytes.len() {
        let now = parse(&bytes[..end], limit);
        if let Ok(Some((_, len))) = &now {
            assert!(*len <= end && *len <= limit);
        }
        match &verdict {
            Some(before) => assert_eq!(&now, before),
            None if now != Ok(None) => verdict = Some(now),
            None => {}
        }
    }
    if let Some(Ok(Some((header, _)))) = verdict {
        look(&header);
    }
});

fn look(header: &Header) {
    let tlvs: usize = header.tlvs().map(|(_, value)| value.len()).sum();
    assert!(tlvs <= 0xFFFF);
    let _ = (header.alpn(), header.authority(), header.unique_id(), header.namespace());
    if let Some(tls) = header.tls() {
        assert!(!tls.is_verified() || tls.has_certificate());
        assert!(tls.tlvs().count() >= tls.common_name().into_iter().count());
    }
    // Mapped addresses are written as IPv4, so the second time it is the same, not the first.
    let bytes = header.encode(Version::V2).expect("it came in a header");
    let (read, len) = parse(&bytes, usize::MAX).expect("a header").expect("all of it");
    assert_eq!((len, read.encode(Version::V2).expect("as before")), (bytes.len(), bytes));
    let others = |of: &Header| -> Vec<(u8, Vec<u8>)> {
        // The checksum is another one where an address is written otherwise.
        let all = of.tlvs().filter(|(kind, _)| *kind != tlv::CRC32C);
        all.map(|(kind, value)| (kind, value.to_vec())).collect()
    };
    assert_eq!((others(&read), read.tls()), (others(header), header.tls()));
}
