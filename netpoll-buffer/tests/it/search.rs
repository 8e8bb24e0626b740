//! Searches find what is there, across blocks, and don't look twice.

use std::time::Instant;

use netpoll_buffer::LinkBuffer;

fn blocks(pieces: &[&'static str]) -> LinkBuffer {
    pieces.iter().copied().map(LinkBuffer::from).collect()
}

#[test]
fn a_needle_is_found_across_any_cut() {
    let text = "GET / HTTP/1.1\r\nHost: a\r\r\n\r\n\r\nbody";
    let expected = text.find("\r\n\r\n");
    for first in 0..text.len() {
        for second in first..text.len() {
            let mut buffer = blocks(&[&text[..first], &text[first..second], &text[second..]]);
            assert_eq!(buffer.find_bytes(b"\r\n\r\n"), expected, "cut at {first} and {second}");
        }
    }
}

#[test]
fn what_is_remembered_holds_for_another_needle() {
    let mut buffer = blocks(&["aXbXc", "XdX", "\r\nend"]);
    assert_eq!(buffer.find(b'Z'), None);
    assert_eq!(buffer.find(b'X'), Some(1));
    assert_eq!(buffer.find_bytes(b"XdX\r\n"), Some(5));
    assert_eq!(buffer.find_bytes(b"XdX\rZ"), None);
    assert_eq!(buffer.find_bytes(b"XdX\r\n"), Some(5));
    assert_eq!(buffer.find_bytes(b"X"), Some(1));
    assert_eq!(buffer.find_bytes(b"bXcXdX\r\nEND"), None);
    assert_eq!(buffer.find_bytes(b"bXcXdX\r\nend"), Some(2));
    assert_eq!(buffer.find_bytes(b"aXbXcXdX\r\nend"), Some(0));
}

#[test]
fn a_needle_that_arrives_in_pieces_is_found() {
    let mut buffer = LinkBuffer::new();
    for (piece, found) in [("..\r", None), ("\n\r", None), ("\n", Some(2))] {
        buffer.append(LinkBuffer::from(piece));
        buffer.flush();
        assert_eq!(buffer.find_bytes(b"\r\n\r\n"), found);
    }
    let mut buffer = LinkBuffer::new();
    for (piece, found) in [("..--bo--boun", None), ("d", None), ("ary", Some(6))] {
        buffer.append(LinkBuffer::from(piece));
        buffer.flush();
        assert_eq!(buffer.find_bytes(b"--boundary"), found);
    }
    buffer.skip(7).unwrap();
    assert_eq!(buffer.find_bytes(b"--boundary"), None);
}

#[test]
fn consuming_moves_what_is_remembered() {
    let mut buffer = LinkBuffer::from("abc");
    assert_eq!(buffer.find(b'\n'), None);
    buffer.skip(2).unwrap();
    buffer.append(LinkBuffer::from("\nx"));
    buffer.flush();
    assert_eq!(buffer.find(b'\n'), Some(1));
    buffer.clear();
    buffer.append(LinkBuffer::from("\n"));
    buffer.flush();
    assert_eq!(buffer.until(b'\n'), Some(&b"\n"[..]));
}

/// A line of 16 MiB that arrives in 4 KiB pieces, looked at after each: to look at everything again
/// each time would take as long as some 2000 looks at the whole line.
#[test]
fn waiting_for_a_delimiter_looks_at_every_byte_once() {
    let searches: [fn(&mut LinkBuffer) -> Option<usize>; 3] = [
        |buffer| buffer.find(b'\n'),
        |buffer| buffer.find_bytes(b"\r\n\r\n"),
        |buffer| buffer.find_bytes(b"----boundary"),
    ];
    for search in searches {
        // How one of the needles begins, which a peer is free to send.
        // The best of some: what else the machine does is not the search's fault.
        let is_linear = || {
            let mut buffer = LinkBuffer::from("----");
            let started = Instant::now();
            for _ in 0..4096 {
                buffer.write_bytes(&[b'x'; 4096]);
                buffer.flush();
                assert_eq!(search(&mut buffer), None);
            }
            let waiting = started.elapsed();
            let mut whole = buffer.slice(buffer.len()).unwrap();
            let started = Instant::now();
            assert_eq!(search(&mut whole), None);
            waiting < started.elapsed() * 300
        };
        assert!((0..5).any(|_| is_linear()), "it looks at what it has seen again");
    }
}
