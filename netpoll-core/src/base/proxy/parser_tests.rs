//! Headers of both versions, written by hand and by `encode`, whole, cut off and wrong.

use proptest::prelude::*;

use super::*;
use crate::base::proxy::Version;

const LIMIT: usize = 4096;

fn binary(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(payload.len()).expect("short").to_be_bytes();
    [SIGNATURE_2, &[command, family], &len, payload].concat()
}

fn complete(bytes: &[u8]) -> (Header, usize) {
    parse(bytes, LIMIT).expect("a header").expect("a whole header")
}

/// The ends of a whole header, as texts.
fn ends(bytes: &[u8]) -> [String; 2] {
    let (header, _) = complete(bytes);
    [header.source(), header.destination()].map(|it| it.expect("an address").to_string())
}

#[test]
fn lines_say_who_connected_to_what() {
    let line = b"PROXY TCP6 2001:db8::1 ::1 65535 0\r\n";
    assert_eq!(ends(line), ["[2001:db8::1]:65535", "[::1]:0"]);
    for unknown in [&b"PROXY UNKNOWN\r\n"[..], b"PROXY UNKNOWN what ever \xc3\xa9\r\n"] {
        assert_eq!(complete(unknown), (Header::unknown(), unknown.len()));
    }
}

#[test]
fn lines_that_are_not_as_they_must_be_are_refused() {
    for line in [
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 +2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 02\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n",
        "PROXY TCP4 ::1 192.0.2.2 1 2\r\n",
        "PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY TCP4  192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n",
        "PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY \r\n",
    ] {
        assert_eq!(parse(line.as_bytes(), LIMIT), Err(Malformed::Line), "{line:?}");
    }
    let long = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 100]].concat();
    assert_eq!(parse(&long[..106], LIMIT), Ok(None));
    assert_eq!(parse(&long[..107], LIMIT), Err(Malformed::Line));
    assert_eq!(parse(&long[..50], 50), Err(Malformed::Limit));
}

#[test]
fn binary_headers_say_who_connected_to_what() {
    let v4 = [192, 0, 2, 1, 198, 51, 100, 7, 0xC7, 0x38, 0x01, 0xBB];
    let extended = [&v4[..], b"\x04\x00\x01x"].concat();
    for payload in [&v4[..], &extended] {
        let bytes = binary(0x21, 0x11, payload);
        let more = [&bytes, &b"hello"[..]].concat();
        assert_eq!(complete(&more).1, bytes.len());
        assert_eq!(ends(&more), ["192.0.2.1:51000", "198.51.100.7:443"]);
    }
    let mut v6 = [0; 36];
    (v6[15], v6[31], v6[33], v6[35]) = (1, 2, 3, 4);
    assert_eq!(ends(&binary(0x21, 0x21, &v6)), ["[::1]:3", "[::2]:4"]);
    let mut paths = [0; 216];
    paths[..4].copy_from_slice(b"/run");
    paths[109..113].copy_from_slice(b"name");
    assert_eq!(ends(&binary(0x21, 0x31, &paths)), ["/run", "@name"]);
}

#[test]
fn a_proxy_speaks_for_itself_or_does_not_know() {
    for bytes in [binary(0x20, 0, b""), binary(0x20, 0xFF, b"any")] {
        assert_eq!(complete(&bytes), (Header::local(), bytes.len()));
    }
    let bytes = binary(0x21, 0, b"any");
    assert_eq!(complete(&bytes), (Header::unknown(), bytes.len()));
    let bytes = binary(0x21, 0, b"\x01\0\x02h2");
    assert_eq!(complete(&bytes).0.alpn(), Some(&b"h2"[..]));
}

#[test]
fn binary_headers_that_are_not_as_they_must_be_are_refused() {
    let refused = |bytes: &[u8]| parse(bytes, LIMIT).unwrap_err();
    assert_eq!(refused(&binary(0x11, 0x11, &[0; 12])), Malformed::Version);
    assert_eq!(refused(&binary(0x22, 0x11, &[0; 12])), Malformed::Version);
    assert_eq!(refused(&binary(0x21, 0x12, &[0; 12])), Malformed::Family);
    assert_eq!(refused(&binary(0x21, 0x11, &[0; 11])), Malformed::Family);
    assert_eq!(refused(&binary(0x21, 0x31, &[0; 215])), Malformed::Family);
    assert_eq!(refused(&binary(0x21, 0x11, &[0; 13])), Malformed::Extension);
    assert_eq!(refused(&binary(0x21, 0x11, &[1; 15])), Malformed::Extension);
    let sum = |of: &[u8]| binary(0x21, 0, &[&[3, 0, of.len() as u8], of].concat());
    assert_eq!(refused(&sum(&[0; 4])), Malformed::Checksum);
    assert_eq!(refused(&sum(&[])), Malformed::Checksum);
    assert_eq!(refused(&binary(0x21, 0x11, &[0; LIMIT])), Malformed::Limit);
    assert_eq!(refused(b"\r\n\r\n\0\r\nQUIX"), Malformed::Signature);
}

fn address() -> impl Strategy<Value = Address> {
    let v4 = any::<([u8; 4], u16)>().prop_map(|it| SocketAddr::from(it).into());
    let v6 = any::<([u16; 8], u16)>().prop_map(|it| SocketAddr::from(it).into());
    let path = "/[a-z/]{0,107}".prop_map(|it| Address::unix(&it));
    let name = "@[a-z]{1,107}".prop_map(|it| Address::unix(&it));
    prop_oneof![v4, v6, path, name, Just(Address::Unnamed)]
}

fn header() -> impl Strategy<Value = Header> {
    let start = prop_oneof![
        Just(Header::local()),
        Just(Header::unknown()),
        (address(), address()).prop_map(|(source, target)| Header::between(source, target)),
    ];
    // A checksum is no value of the user's.
    let kind = any::<u8>().prop_filter("a checksum", |it| *it != tlv::CRC32C);
    let value = prop::collection::vec(any::<u8>(), 0..40);
    let tlvs = prop::collection::vec((kind, value), 0..8);
    (start, tlvs, any::<bool>()).prop_map(|(start, tlvs, sum)| {
        let add = |header: Header, (kind, value): (u8, Vec<u8>)| header.with_tlv(kind, &value);
        let header = tlvs.into_iter().fold(start, add);
        if sum { header.with_checksum() } else { header }
    })
}

proptest! {
    #[test]
    fn every_prefix_is_incomplete_and_what_follows_is_left_alone(
        header in header(),
        version in prop::sample::select(vec![Version::V1, Version::V2]),
        rest in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let bytes = header.encode(version).unwrap();
        for end in 0..bytes.len() {
            prop_assert_eq!(parse(&bytes[..end], LIMIT), Ok(None));
        }
        let whole = complete(&bytes);
        prop_assert_eq!(whole.1, bytes.len());
        // What was read says the same again.
        prop_assert_eq!(whole.0.encode(version).unwrap(), bytes.clone());
        prop_assert_eq!(complete(&[bytes, rest].concat()), whole);
    }

    #[test]
    fn what_is_written_is_read(header in header()) {
        let (read, _) = complete(&header.encode(Version::V2).unwrap());
        let of_one_family = match (header.source(), header.destination()) {
            (Some(source), Some(target)) => source.is_unix() == target.is_unix(),
            _ => false,
        };
        let said = |of: &Header| [of.source(), of.destination()].map(|it| {
            it.map(|it| (it.ip(), it.port(), it.path().map(Path::to_owned), it.to_string()))
        });
        let plain = |it: &Header| said(it).map(|it| it.map(|(ip, port, path, text)| {
            // A mapped address is the same one, written otherwise.
            (ip, port, path, if ip.is_some() { String::new() } else { text })
        }));
        if of_one_family {
            prop_assert_eq!(plain(&read), plain(&header));
        } else {
            prop_assert!(read.source().is_none() && read.destination().is_none());
        }
        prop_assert_eq!(read.is_local(), header.is_local());
        let tlvs = |of: &Header| -> Vec<(u8, Vec<u8>)> {
            let others = of.tlvs().filter(|(kind, _)| *kind != tlv::CRC32C);
            others.map(|(kind, value)| (kind, value.to_vec())).collect()
        };
        prop_assert_eq!(tlvs(&read), if header.is_local() { vec![] } else { tlvs(&header) });
    }

    #[test]
    fn no_bytes_panic_and_no_verdict_changes_with_more_of_them(
        start in 0usize..3,
        tail in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let bytes = [[SIGNATURE_1, SIGNATURE_2, b""][start], &tail].concat();
        let mut verdict = None;
        for end in 0..=bytes.len() {
            let now = parse(&bytes[..end], LIMIT);
            if let Some(before) = &verdict {
                prop_assert_eq!(&now, before);
            } else if now != Ok(None) {
                verdict = Some(now);
            }
        }
    }
}
