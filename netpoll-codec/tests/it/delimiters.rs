//! Lines and delimited frames.

use std::time::Instant;

use netpoll_buffer::LinkBuffer;
use netpoll_codec::{Decode, Delimited, FrameError, Lines};

fn all(codec: &mut dyn Decode, stream: &'static str) -> Vec<Result<String, FrameError>> {
    let (mut input, mut outcome) = (LinkBuffer::from(stream), Vec::new());
    while let Some(next) = codec.decode(&mut input).transpose() {
        outcome.push(next.map(|frame| String::from_utf8(frame.bytes().to_vec()).unwrap()));
    }
    outcome
}

fn frames(codec: &mut dyn Decode, stream: &'static str) -> Vec<String> {
    all(codec, stream).into_iter().map(Result::unwrap).collect()
}

#[test]
fn lines_end_with_or_without_a_carriage_return() {
    let mut lines = Lines::new(10).unwrap();
    assert_eq!(frames(&mut lines.clone(), "a\nb\r\n\n\r\nc\rd\n"), ["a", "b", "", "", "c\rd"]);
    let kept = frames(&mut lines.clone().keep_ending(), "a\nb\r\n\n");
    assert_eq!(kept, ["a\n", "b\r\n", "\n"]);
    assert_eq!(frames(&mut lines, "not yet\r"), [""; 0]);
}

#[test]
fn max_does_not_count_the_ending() {
    let too_long = |position| Err(FrameError::FrameTooLong { position, length: None, max: 3 });
    let stream = "abc\nabc\r\nabcd\nabcd\r\nabc\rd\nok\n";
    let expected = [
        Ok("abc".into()),
        Ok("abc".into()),
        too_long(9),
        too_long(14),
        too_long(20),
        Ok("ok".into()),
    ];
    assert_eq!(all(&mut Lines::new(3).unwrap(), stream), expected);
}

#[test]
fn told_of_late_the_length_is_known() {
    let mut lines = Lines::new(3).unwrap().fail_late();
    let length = Some(9);
    let too_long = Err(FrameError::FrameTooLong { position: 2, length, max: 3 });
    let expected = [Ok("a".into()), too_long, Ok("ok".into())];
    assert_eq!(all(&mut lines, "a\n123456789\r\nok\n"), expected);
}

#[test]
fn of_several_delimiters_the_shortest_frame_wins() {
    let mut codec = Delimited::new(&[b"\r\n", b"\n", b"\0\0"], 10).unwrap();
    let expected = ["one", "two", "three\0", ""];
    assert_eq!(frames(&mut codec, "one\ntwo\r\nthree\0\r\n\0\0"), expected);
    let mut codec = Delimited::new(&[b"ab", b"bc"], 10).unwrap();
    assert_eq!(frames(&mut codec, "xabcbc"), ["x", "c"]);
}

/// The last dropped bytes may be the beginning of the delimiter.
#[test]
fn a_delimiter_is_found_where_dropping_and_arriving_meet() {
    for late in [false, true] {
        for delimiters in [&[&b"<end>"[..]][..], &[b"<end>", b"!"]] {
            let codec = Delimited::new(delimiters, 3).unwrap();
            let mut codec = if late { codec.fail_late() } else { codec };
            let mut input = LinkBuffer::new();
            let mut told = 0;
            for piece in ["much too long", "<e", "nd", ">", "ok<end>"] {
                input.append(LinkBuffer::from(piece));
                input.flush();
                let frame = loop {
                    match codec.decode(&mut input) {
                        Ok(frame) => break frame.map(|frame| frame.into_bytes()),
                        Err(_) => told += 1,
                    }
                };
                assert_eq!(frame.is_some(), piece == "ok<end>");
            }
            assert_eq!(told, 1);
        }
    }
}

/// A frame of 8 MiB that arrives in pieces of 1 KiB: to look at everything again each time would
/// take as long as some 4000 looks at the whole.
#[test]
fn waiting_for_a_delimiter_looks_at_every_byte_once() {
    const MAX: usize = 100 << 20;
    let codecs: [Box<dyn Fn() -> Box<dyn Decode>>; 3] = [
        Box::new(|| Box::new(Lines::new(MAX).unwrap())),
        Box::new(|| Box::new(Delimited::new(&[b"xxy"], MAX).unwrap())),
        Box::new(|| Box::new(Delimited::new(&[b"xxy", b"xxz"], MAX).unwrap())),
    ];
    for codec in codecs {
        // The best of some: what else the machine does is not the search's fault.
        let is_linear = || {
            let (mut waiting, mut input) = (codec(), LinkBuffer::new());
            let started = Instant::now();
            for _ in 0..8192 {
                input.write_bytes(&[b'x'; 1024]);
                input.flush();
                assert!(waiting.decode(&mut input).unwrap().is_none());
            }
            let in_pieces = started.elapsed();
            let mut whole = input.slice(input.len()).unwrap();
            let started = Instant::now();
            assert!(codec().decode(&mut whole).unwrap().is_none());
            in_pieces < started.elapsed() * 400
        };
        assert!((0..5).any(|_| is_linear()), "it looks at what it has seen again");
    }
}
