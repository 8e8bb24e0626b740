//! Frames with lengths: netty's documented examples, false lengths, and decoding behind them.

use std::io::ErrorKind;

use netpoll_buffer::LinkBuffer;
use netpoll_codec::{
    Decode, Fault, FrameError, LengthField, LengthFieldOptions, LengthPrefix, VarintLength,
};

const HELLO: &[u8; 12] = b"HELLO, WORLD";

fn options() -> LengthFieldOptions {
    LengthFieldOptions::default()
}

/// The one frame of a stream of a header and `HELLO`.
fn decoded(options: LengthFieldOptions, header: &[u8]) -> Vec<u8> {
    let mut codec = LengthField::new(options).unwrap();
    let mut input = LinkBuffer::from([header, HELLO].concat());
    let frame = codec.decode(&mut input).unwrap().unwrap().bytes().to_vec();
    assert!(codec.decode(&mut input).unwrap().is_none());
    assert_eq!(codec.finish(&input), Ok(()));
    frame
}

#[test]
fn netty_1_two_bytes_of_length_are_not_stripped() {
    let frame = decoded(LengthFieldOptions { width: 2, ..options() }, b"\x00\x0C");
    assert_eq!(frame, [&b"\x00\x0C"[..], HELLO].concat());
}

#[test]
fn netty_2_two_bytes_of_length_are_stripped() {
    let frame = decoded(LengthFieldOptions { width: 2, strip: 2, ..options() }, b"\x00\x0C");
    assert_eq!(frame, HELLO);
}

#[test]
fn netty_3_the_length_counts_itself() {
    let options = LengthFieldOptions { width: 2, adjustment: -2, ..options() };
    assert_eq!(decoded(options, b"\x00\x0E"), [&b"\x00\x0E"[..], HELLO].concat());
}

#[test]
fn netty_4_the_length_stands_at_the_end_of_the_header() {
    let options = LengthFieldOptions { offset: 2, width: 3, ..options() };
    let header = b"\xCA\xFE\x00\x00\x0C";
    assert_eq!(decoded(options, header), [&header[..], HELLO].concat());
}

#[test]
fn netty_5_the_length_stands_at_the_front_of_the_header() {
    let options = LengthFieldOptions { width: 3, adjustment: 2, ..options() };
    let header = b"\x00\x00\x0C\xCA\xFE";
    assert_eq!(decoded(options, header), [&header[..], HELLO].concat());
}

#[test]
fn netty_6_the_length_stands_within_the_header_of_which_the_front_is_stripped() {
    let options = LengthFieldOptions { offset: 1, width: 2, adjustment: 1, strip: 3, ..options() };
    assert_eq!(decoded(options, b"\xCA\x00\x0C\xFE"), [&b"\xFE"[..], HELLO].concat());
}

#[test]
fn netty_7_and_counts_the_whole_frame() {
    let options = LengthFieldOptions { offset: 1, width: 2, adjustment: -3, strip: 3, ..options() };
    assert_eq!(decoded(options, b"\xCA\x00\x10\xFE"), [&b"\xFE"[..], HELLO].concat());
}

/// All frames and errors of a stream that arrives in pieces.
fn all(codec: &mut dyn Decode, pieces: &[&'static [u8]]) -> Vec<Result<Vec<u8>, FrameError>> {
    let (mut input, mut outcome) = (LinkBuffer::new(), Vec::new());
    for piece in pieces {
        input.append(LinkBuffer::from(*piece));
        input.flush();
        while let Some(next) = codec.decode(&mut input).transpose() {
            outcome.push(next.map(|frame| frame.bytes().to_vec()));
        }
    }
    outcome
}

#[test]
fn an_empty_payload_is_a_frame() {
    let mut codec = LengthPrefix::new(2, 10).unwrap();
    let frames = all(&mut codec, &[b"\x00\x00\x00\x01a\x00", b"\x00"]);
    assert_eq!(frames, [Ok(vec![]), Ok(b"a".to_vec()), Ok(vec![])]);
}

#[test]
fn a_frame_that_is_too_long_is_told_of_once_and_the_next_is_decoded() {
    let too_long = FrameError::FrameTooLong { position: 3, length: Some(9), max: 4 };
    let pieces = [&b"\x00\x01a\x00\x09"[..], b"1234", b"5678", b"9\x00\x02ok"];
    let mut fast = LengthPrefix::new(2, 4).unwrap();
    let mut late = LengthPrefix::new(2, 4).unwrap().fail_late();
    // At once, before any byte of the payload has come.
    let frames = all(&mut fast.clone(), &pieces[..1]);
    assert_eq!(frames, [Ok(b"a".to_vec()), Err(too_long)]);
    // After it was dropped.
    let frames = all(&mut late.clone(), &pieces[..3]);
    assert_eq!(frames, [Ok(b"a".to_vec())]);
    for codec in [&mut fast, &mut late] {
        let frames = all(codec, &pieces);
        assert_eq!(frames, [Ok(b"a".to_vec()), Err(too_long), Ok(b"ok".to_vec())]);
    }
}

#[test]
fn max_counts_the_header_of_a_length_field_and_not_that_of_a_prefix() {
    let options = LengthFieldOptions { width: 1, max: 4, ..options() };
    let mut field = LengthField::new(options).unwrap();
    let too_long = FrameError::FrameTooLong { position: 4, length: Some(5), max: 4 };
    assert_eq!(all(&mut field, &[b"\x03abc\x04abcd"]), [Ok(b"\x03abc".to_vec()), Err(too_long)]);
    let mut prefix = LengthPrefix::new(1, 4).unwrap();
    let too_long = FrameError::FrameTooLong { position: 5, length: Some(5), max: 4 };
    assert_eq!(all(&mut prefix, &[b"\x04abcd\x05abcde"]), [Ok(b"abcd".to_vec()), Err(too_long)]);
}

/// An announced length costs nothing, no matter how large it is.
#[test]
fn a_length_that_lies_keeps_no_bytes() {
    let mut codec = LengthPrefix::new(8, 1 << 20).unwrap();
    let mut input = LinkBuffer::from(&b"\x7F\xFF\xFF\xFF\xFF\xFF\xFF\xFF"[..]);
    let error = codec.decode(&mut input).unwrap_err();
    let length = Some(i64::MAX as u64);
    assert_eq!(error, FrameError::FrameTooLong { position: 0, length, max: 1 << 20 });
    for _ in 0..1000 {
        input.write_bytes(&[b'x'; 5000]);
        input.flush();
        assert!(codec.decode(&mut input).unwrap().is_none());
        assert!(input.is_empty());
    }
    let torn = FrameError::TruncatedFrame { position: 0, received: 5_000_008 };
    assert_eq!(codec.finish(&input), Err(torn));
}

#[test]
fn a_negative_length_is_corrupted_and_its_header_is_dropped() {
    let corrupted = |position, fault| Err(FrameError::CorruptedFrame { position, fault });
    let mut codec = LengthPrefix::new(8, 10).unwrap();
    let frames = all(&mut codec, &[b"\x80\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x02ok"]);
    assert_eq!(frames, [corrupted(0, Fault::NegativeLength), Ok(b"ok".to_vec())]);
    // The length counts itself, and says that it has one byte.
    let mut codec = LengthPrefix::new(2, 10).unwrap().counting_itself();
    let frames = all(&mut codec, &[b"\x00\x03a\x00\x01\x00\x04ok"]);
    let shorter = corrupted(3, Fault::ShorterThanHeader);
    assert_eq!(frames, [Ok(b"a".to_vec()), shorter, Ok(b"ok".to_vec())]);
}

#[test]
fn a_frame_shorter_than_what_is_stripped_is_corrupted_and_dropped() {
    let options = LengthFieldOptions { width: 1, strip: 3, ..options() };
    let mut codec = LengthField::new(options).unwrap();
    let fault = Fault::ShorterThanStripped;
    let corrupted = Err(FrameError::CorruptedFrame { position: 0, fault });
    assert_eq!(all(&mut codec, &[b"\x01", b"a\x03abc"]), [corrupted, Ok(b"c".to_vec())]);
}

#[test]
fn a_varint_of_more_than_32_bits_is_corrupted() {
    let corrupted = Err(FrameError::CorruptedFrame { position: 2, fault: Fault::LongVarint });
    let mut codec = VarintLength::new(10).unwrap();
    for long in [b"\x01a\xFF\xFF\xFF\xFF\x10\x02ok", b"\x01a\xFF\xFF\xFF\xFF\x8F\x02ok"] {
        let frames = all(&mut codec.clone(), &[long]);
        assert_eq!(frames, [Ok(b"a".to_vec()), corrupted.clone(), Ok(b"ok".to_vec())]);
    }
    let length = Some(u32::MAX.into());
    let too_long = Err(FrameError::FrameTooLong { position: 0, length, max: 10 });
    assert_eq!(all(&mut codec.clone(), &[b"\xFF\xFF\xFF\xFF\x0Fx"]), [too_long]);
    // Longer than necessary.
    assert_eq!(all(&mut codec, &[b"\x82\x80", b"\x00ok"]), [Ok(b"ok".to_vec())]);
}

#[test]
fn an_end_inside_a_frame_says_where() {
    let mut codec = LengthPrefix::new(2, 10).unwrap();
    let mut input = LinkBuffer::from("\x00\x01a\x00\x04bc");
    drop(codec.decode(&mut input).unwrap());
    assert!(codec.decode(&mut input).unwrap().is_none());
    let torn = codec.finish(&input).unwrap_err();
    assert_eq!(torn, FrameError::TruncatedFrame { position: 3, received: 4 });
    // Not `UnexpectedEof`, which could be taken for an orderly end.
    assert_eq!(std::io::Error::from(torn).kind(), ErrorKind::InvalidData);
}
