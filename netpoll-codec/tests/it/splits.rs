//! Any split of any stream gives the frames and the errors that one slice of it gives.

use netpoll_codec::{ByteOrder, LengthFieldOptions};
use proptest::prelude::*;

use crate::model::Shape;

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_split_gives_the_same_frames((shape, stream) in case(), pieces in pieces()) {
        if let Some(outcome) = shape.decoded(&stream, &pieces) {
            prop_assert_eq!(outcome, shape.expected(&stream));
        }
    }
}

/// Small enough to try every cut in two, and byte by byte.
#[test]
fn every_cut_of_a_stream_gives_the_same_frames() {
    let lines = |late| Shape::Lines { max: 3, keep: false, late };
    let delimited = |late| {
        let delimiters = [b"--x".to_vec(), b"x-".to_vec(), b"xx".to_vec()];
        Shape::Delimited {
            delimiters: delimiters[..if late { 3 } else { 1 }].to_vec(),
            max: 3,
            keep: late,
            late,
        }
    };
    let prefix = |late| Shape::Prefix { width: 2, little: late, itself: false, max: 9, late };
    let varint = |late| Shape::Varint { max: 130, late };
    let over = |late| Shape::Over(Box::new(prefix(late)), Box::new(lines(late)));
    let text = b"abc\r\nabcd\n\r\n\rabcde\r\nxx\n--x---x\nab\rabcdefghij--x-\nend\r\na--";
    let numbers =
        b"\x00\x03a\nb\x00\x00\x00\x0Atoolongtoo\x02\x00\nab\x01\x00\n\xFF\xFF\xFF\xFF\xFFx\x02xy";
    for late in [false, true] {
        for shape in [lines(late), delimited(late), prefix(late), varint(late), over(late)] {
            for stream in [&text[..], numbers] {
                let expected = shape.expected(stream);
                assert_eq!(shape.decoded(stream, &[1]).as_ref(), Some(&expected), "{shape:?}");
                for cut in 1..=stream.len() {
                    let outcome = shape.decoded(stream, &[cut, stream.len()]);
                    assert_eq!(outcome.as_ref(), Some(&expected), "{shape:?} cut at {cut}");
                }
            }
        }
    }
}

fn config() -> ProptestConfig {
    ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() }
}

fn case() -> impl Strategy<Value = (Shape, Vec<u8>)> {
    let counted = (prop_oneof![field(), prefix(), varint(), fixed()], numbers());
    let terminated = (prop_oneof![lines(), delimited()], text());
    let outer = prop_oneof![field(), prefix(), varint(), fixed(), lines(), delimited()];
    let inner = prop_oneof![prefix(), varint(), lines(), delimited()];
    let over = (outer, inner).prop_map(|(outer, inner)| Shape::Over(outer.into(), inner.into()));
    prop_oneof![3 => counted, 3 => terminated, 2 => (over, prop_oneof![numbers(), text()])]
}

fn pieces() -> impl Strategy<Value = Vec<usize>> {
    let size = prop_oneof![3 => 1..4_usize, 2 => 1..40_usize, 1 => Just(usize::MAX)];
    prop::collection::vec(size, 1..20)
}

/// Bytes that are often small, so that as lengths they often make sense.
fn numbers() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![4 => Just(0), 4 => 0..12_u8, 1 => any::<u8>(), 1 => Just(b'\n')];
    prop::collection::vec(byte, 0..200)
}

fn text() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![4 => Just(b'a'), 2 => Just(b'b'), 1 => Just(b'\r'), 1 => Just(b'\n')];
    prop::collection::vec(byte, 0..200)
}

fn lines() -> impl Strategy<Value = Shape> {
    (1..40_usize, any::<bool>(), any::<bool>()).prop_map(|(max, keep, late)| Shape::Lines {
        max,
        keep,
        late,
    })
}

fn delimited() -> impl Strategy<Value = Shape> {
    let byte = prop::sample::select(b"aab\r\n".to_vec());
    let delimiters = prop::collection::vec(prop::collection::vec(byte, 1..5), 1..4);
    (delimiters, 1..40_usize, any::<bool>(), any::<bool>())
        .prop_map(|(delimiters, max, keep, late)| Shape::Delimited { delimiters, max, keep, late })
}

fn fixed() -> impl Strategy<Value = Shape> {
    (1..40_usize).prop_map(Shape::Fixed)
}

fn prefix() -> impl Strategy<Value = Shape> {
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    (width(), flags, 1..40_usize).prop_map(|(width, (little, itself, late), max)| Shape::Prefix {
        width,
        little,
        itself,
        max,
        late,
    })
}

fn varint() -> impl Strategy<Value = Shape> {
    (1..40_usize, any::<bool>()).prop_map(|(max, late)| Shape::Varint { max, late })
}

fn field() -> impl Strategy<Value = Shape> {
    let adjustment = prop_oneof![-12..12_i32, any::<i32>()];
    (width(), 0..6_usize, adjustment, 0..12_usize, any::<bool>(), 8..60_usize, any::<bool>())
        .prop_map(|(width, offset, adjustment, strip, little, max, fail_fast)| {
            let order = if little { ByteOrder::Little } else { ByteOrder::Big };
            Shape::Field(LengthFieldOptions {
                width,
                offset,
                adjustment,
                strip,
                order,
                max,
                fail_fast,
            })
        })
}

fn width() -> impl Strategy<Value = usize> {
    prop::sample::select(vec![1_usize, 2, 3, 4, 8])
}
