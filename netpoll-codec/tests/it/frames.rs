//! A frame is lent, not copied, and consumed when it is dropped.

use std::io::Error;

use netpoll_buffer::{FromRead, LinkBuffer};
use netpoll_codec::{Decode, Extent, Frame, FrameError, LengthPrefix, Lines, Over, read_frame};

const EXTENT: Extent = Extent { header: 1, payload: 5, trailer: 1 };

/// A frame in a buffer that was put together of as many blocks as it has bytes, or of one.
fn buffers() -> [LinkBuffer; 2] {
    let whole = LinkBuffer::from("<hello>next");
    let pieces = ["<", "h", "e", "l", "l", "o", ">", "n", "ext"];
    [whole, pieces.into_iter().map(LinkBuffer::from).collect()]
}

#[test]
fn every_way_to_take_a_frame_gives_its_payload_and_leaves_the_next() {
    for take in [
        |frame: Frame<'_>| frame.bytes().to_vec(),
        |frame: Frame<'_>| frame.into_bytes().to_vec(),
        |frame: Frame<'_>| frame.into_buffer().chunks().flatten().copied().collect(),
        |mut frame: Frame<'_>| frame.peek(5).unwrap().to_vec(),
        |mut frame: Frame<'_>| {
            assert_eq!(frame.peek(2), Ok(&b"he"[..]));
            assert_eq!(frame.peek(6).unwrap_err().available, 5);
            frame.bytes().to_vec()
        },
    ] {
        for mut buffer in buffers() {
            let frame = Frame::new(&mut buffer, EXTENT);
            assert_eq!((frame.len(), frame.is_empty()), (5, false));
            assert_eq!(take(frame), b"hello");
            assert_eq!(buffer.peek(buffer.len()), Ok(&b"next"[..]));
        }
    }
}

#[test]
fn a_frame_that_is_not_looked_at_is_consumed() {
    for mut buffer in buffers() {
        drop(Frame::new(&mut buffer, EXTENT));
        assert_eq!(buffer.peek(buffer.len()), Ok(&b"next"[..]));
    }
}

#[test]
#[should_panic(expected = "a frame of")]
fn a_frame_that_is_not_there_is_a_bug_of_the_codec() {
    let mut buffer = LinkBuffer::from("<hello");
    drop(Frame::new(&mut buffer, EXTENT));
}

#[test]
fn a_frame_in_one_block_is_lent_where_it_lies() {
    let mut stream = vec![0, 0, 0x27, 0x10];
    stream.resize(4 + 10_000, b'x');
    let at = stream[4..].as_ptr();
    let mut codec = LengthPrefix::new(4, 1 << 20).unwrap();
    let mut input = LinkBuffer::from(stream);
    let frame = codec.decode(&mut input).unwrap().unwrap();
    assert_eq!(frame.bytes().as_ptr(), at);
}

/// Header and payload in blocks of their own: only the header has to be skipped.
#[test]
fn a_payload_in_one_block_is_lent_where_it_lies_though_its_header_is_not_there() {
    let payload = vec![b'x'; 10_000];
    let at = payload.as_ptr();
    let mut input: LinkBuffer =
        [vec![0, 0], vec![0x27, 0x10], payload].map(LinkBuffer::from).into_iter().collect();
    let mut codec = LengthPrefix::new(4, 1 << 20).unwrap();
    let frame = codec.decode(&mut input).unwrap().unwrap();
    assert_eq!(frame.bytes().as_ptr(), at);
}

#[test]
fn frames_over_frames_move_their_blocks() {
    let line = [vec![b'x'; 10_000], b"\n".to_vec()].concat();
    let at = line.as_ptr();
    let mut codec = Over::new(LengthPrefix::new(2, 60_000).unwrap(), Lines::new(60_000).unwrap());
    let mut input: LinkBuffer =
        [vec![0x27, 0x11], line].map(LinkBuffer::from).into_iter().collect();
    let frame = codec.decode(&mut input).unwrap().unwrap();
    assert_eq!((frame.len(), frame.bytes().as_ptr()), (10_000, at));
}

#[test]
fn waiting_for_frames_ends_with_the_stream() {
    let mut source = FromRead::new(&b"one\ntwo\n"[..]);
    let mut lines = Lines::new(80).unwrap();
    let mut seen = Vec::new();
    while let Some(frame) = read_frame(&mut lines, &mut source).unwrap() {
        seen.push(frame.into_bytes());
    }
    assert_eq!(seen, ["one", "two"]);
    let mut source = FromRead::new(&b"much too long\nok\n"[..]);
    let mut lines = Lines::new(3).unwrap();
    assert!(read_frame(&mut lines, &mut source).is_err());
    assert_eq!(read_frame(&mut lines, &mut source).unwrap().unwrap().bytes(), b"ok");
}

#[test]
fn all_frames_can_be_visited_and_a_visit_that_fails_leaves_those_behind() {
    let pieces = ["\x02ab\x00\x03c", "de", "\x01f\x01g\x07torn"];
    let mut input: LinkBuffer = pieces.into_iter().map(LinkBuffer::from).collect();
    let mut codec = LengthPrefix::new(1, 5).unwrap();
    for (last, expected) in [("cde", vec!["ab", "", "cde"]), ("f", vec!["f"])] {
        let mut seen = Vec::new();
        let outcome = codec.decode_each(&mut input, |payload| {
            let payload = String::from_utf8_lossy(payload).into_owned();
            seen.push(payload.clone());
            if payload == last { Err(Error::other("enough")) } else { Ok(()) }
        });
        assert_eq!(outcome.unwrap_err().to_string(), "enough");
        assert_eq!(seen, expected);
    }
    let mut seen = 0;
    let outcome = codec.decode_each(&mut input, |payload| {
        seen += payload.len();
        Ok(())
    });
    let error: FrameError = outcome.unwrap_err();
    let too_long = FrameError::FrameTooLong { position: 12, length: Some(7), max: 5 };
    assert_eq!((seen, error), (1, too_long));
}
