//! What is encoded is decoded; a payload that would be decoded otherwise is refused.

use netpoll_buffer::LinkBuffer;
use netpoll_codec::{
    Decode, Delimited, Encode, EncodeError, FixedLength, LengthField, LengthFieldOptions,
    LengthPrefix, Lines, Over, VarintLength,
};
use proptest::prelude::*;

trait Codec: Encode + Decode {}

impl<C: Encode + Decode> Codec for C {}

/// One codec of each kind.
fn codecs() -> Vec<Box<dyn Codec>> {
    let mut codecs: Vec<Box<dyn Codec>> = vec![
        Box::new(Lines::new(50).unwrap()),
        Box::new(Lines::new(50).unwrap().crlf()),
        Box::new(Delimited::new(&[b"\r\n", b"\n"], 50).unwrap()),
        Box::new(Delimited::new(&[b"\n", b"\r\n"], 50).unwrap()),
        Box::new(Delimited::new(&[b"aab"], 50).unwrap()),
        Box::new(FixedLength::new(7).unwrap()),
        Box::new(VarintLength::new(50).unwrap()),
        Box::new(Over::new(LengthPrefix::new(1, 60).unwrap(), Lines::new(50).unwrap())),
        Box::new(Over::new(Lines::new(60).unwrap(), VarintLength::new(50).unwrap())),
    ];
    let field = LengthFieldOptions { width: 2, strip: 2, max: 52, ..Default::default() };
    codecs.push(Box::new((LengthField::new(field).unwrap(), LengthPrefix::new(2, 50).unwrap())));
    for width in [1, 2, 3, 4, 8] {
        let prefix = LengthPrefix::new(width, 50).unwrap();
        codecs.push(Box::new(prefix.clone().little_endian()));
        codecs.push(Box::new(prefix.clone().counting_itself()));
        codecs.push(Box::new(prefix));
    }
    codecs
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn what_is_encoded_is_decoded(payloads in prop::collection::vec(payload(), 1..20)) {
        for mut codec in codecs() {
            let mut stream = LinkBuffer::new();
            let mut sent = Vec::new();
            for (index, payload) in payloads.iter().enumerate() {
                let before = stream.malloc_len();
                let outcome = if index % 2 == 0 {
                    codec.encode(payload, &mut stream)
                } else {
                    codec.encode_buffer(LinkBuffer::from(payload.clone()), &mut stream)
                };
                if outcome.is_ok() {
                    sent.push(&payload[..]);
                } else {
                    prop_assert_eq!(stream.malloc_len(), before);
                }
            }
            stream.flush();
            let mut received = Vec::new();
            while let Some(frame) = codec.decode(&mut stream).unwrap() {
                received.push(frame.into_bytes());
            }
            prop_assert_eq!(received, sent);
            prop_assert_eq!(codec.finish(&stream), Ok(()));
        }
    }
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop::sample::select(b"aaaaabxyz\r\n".to_vec());
    prop_oneof![
        prop::collection::vec(byte, 0..9),
        prop::collection::vec(any::<u8>(), 0..60),
        Just(vec![b'a'; 7]),
    ]
}

/// Both ways to encode refuse the same payloads.
fn refused(codec: &mut impl Encode, payload: &'static str) -> EncodeError {
    let mut out = LinkBuffer::new();
    let error = codec.encode(payload.as_bytes(), &mut out).unwrap_err();
    let pieces = payload.split_inclusive('\r').map(LinkBuffer::from).collect();
    assert_eq!(codec.encode_buffer(pieces, &mut out), Err(error));
    assert_eq!(out.malloc_len(), 0);
    error
}

#[test]
fn a_payload_that_would_be_cut_in_two_is_refused() {
    let mut lines = Lines::new(50).unwrap();
    assert_eq!(refused(&mut lines, "a\nb"), EncodeError::ContainsDelimiter);
    // With its `\n` this would be a `\r\n`.
    assert_eq!(refused(&mut lines, "a\r"), EncodeError::ContainsDelimiter);
    assert_eq!(lines.crlf().encode(b"a\r", &mut LinkBuffer::new()), Ok(()));
    let mut delimited = Delimited::new(&[b"\n", b"\r\n"], 50).unwrap();
    assert_eq!(refused(&mut delimited, "a\r"), EncodeError::ContainsDelimiter);
    assert_eq!(refused(&mut delimited, "a\r\nb"), EncodeError::ContainsDelimiter);
    let mut delimited = Delimited::new(&[b"--"], 50).unwrap();
    // The delimiter would begin in the payload.
    assert_eq!(refused(&mut delimited, "a-"), EncodeError::ContainsDelimiter);
}

#[test]
fn a_payload_that_does_not_fit_is_refused() {
    let too_long = EncodeError::PayloadTooLong { length: 4, max: 3 };
    assert_eq!(refused(&mut Lines::new(3).unwrap(), "abcd"), too_long);
    assert_eq!(refused(&mut Delimited::new(&[b"\0"], 3).unwrap(), "abcd"), too_long);
    assert_eq!(refused(&mut LengthPrefix::new(4, 3).unwrap(), "abcd"), too_long);
    assert_eq!(refused(&mut VarintLength::new(3).unwrap(), "abcd"), too_long);
    let wrong = EncodeError::WrongLength { length: 4, expected: 3 };
    assert_eq!(refused(&mut FixedLength::new(3).unwrap(), "abcd"), wrong);
    let mut narrow = LengthPrefix::new(1, 1000).unwrap();
    let mut out = LinkBuffer::new();
    assert_eq!(narrow.encode(&[0; 255], &mut out), Ok(()));
    let beyond = EncodeError::LengthOutOfRange { length: 256, width: 1 };
    assert_eq!(narrow.encode(&[0; 256], &mut out), Err(beyond));
    let beyond = EncodeError::LengthOutOfRange { length: 256, width: 1 };
    assert_eq!(narrow.counting_itself().encode(&[0; 255], &mut out), Err(beyond));
}

#[test]
fn what_is_moved_is_not_copied() {
    let payload = LinkBuffer::from(vec![b'x'; 10_000]);
    let at = payload.chunk().as_ptr();
    let mut codec = LengthPrefix::new(4, 1 << 20).unwrap();
    let mut stream = LinkBuffer::new();
    codec.encode_buffer(payload, &mut stream).unwrap();
    stream.flush();
    let arrived = codec.decode(&mut stream).unwrap().unwrap().into_buffer();
    assert_eq!(arrived.chunk().as_ptr(), at);
    assert_eq!(arrived.len(), 10_000);
}

#[test]
fn bytes_that_were_not_flushed_are_part_of_a_payload() {
    let mut payload = LinkBuffer::from("ab");
    payload.write_bytes(b"c");
    let mut stream = LinkBuffer::new();
    LengthPrefix::new(1, 9).unwrap().encode_buffer(payload, &mut stream).unwrap();
    stream.flush();
    assert_eq!(stream.peek(4), Ok(&b"\x03abc"[..]));
}
