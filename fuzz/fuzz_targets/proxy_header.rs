//! Any bytes that a peer sends where a PROXY header is due, split anywhere: no panic, no header
//! beyond the bytes or the limit, and no verdict that more bytes change.

#![no_main]

use libfuzzer_sys::fuzz_target;
use netpoll_server::proxy::parse;

fuzz_target!(|input: (&[u8], u16)| {
    let (bytes, limit) = (input.0, usize::from(input.1));
    let mut verdict = None;
    for end in 0..=bytes.len() {
        let now = parse(&bytes[..end], limit);
        if let Ok(Some(header)) = &now {
            assert!(header.len <= end && header.len <= limit);
        }
        match &verdict {
            Some(before) => assert_eq!(&now, before),
            None if now != Ok(None) => verdict = Some(now),
            None => {}
        }
    }
});
