//! A codec with impossible parameters is refused by its constructor, with one sentence that names
//! the parameter.

use std::fmt::Debug;
use std::io;

use netpoll_codec::{
    Delimited, FixedLength, LengthField, LengthFieldOptions, LengthPrefix, Lines, MAX_FRAME,
    VarintLength,
};

fn assert_refused<C: Debug>(outcome: io::Result<C>, names: &str) {
    let error = outcome.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    let sentence = error.to_string();
    assert!(sentence.contains(names), "{sentence:?} does not name {names:?}");
}

#[test]
fn a_longest_frame_of_nothing_or_of_too_much() {
    for max in [0, MAX_FRAME + 1, usize::MAX] {
        let names = format!("max is {max}");
        assert_refused(Lines::new(max), &names);
        assert_refused(Delimited::new(&[b"\0"], max), &names);
        assert_refused(FixedLength::new(max), &names);
        assert_refused(LengthPrefix::new(4, max), &names);
        assert_refused(VarintLength::new(max), &names);
        assert_refused(LengthField::new(LengthFieldOptions { max, ..Default::default() }), &names);
    }
    assert!(LengthPrefix::new(8, MAX_FRAME).is_ok());
}

#[test]
fn delimiters_that_are_not_there_or_hide_each_other() {
    assert_refused(Delimited::new(&[], 10), "at least one");
    assert_refused(Delimited::new(&[b"a", b""], 10), "at least one");
    assert_refused(Delimited::new(&[&[b'a'; 1025]], 10), "1025 bytes");
    assert_refused(Delimited::new(&[b"b", b"abc"], 10), "\"abc\" would never be found");
    assert!(Delimited::new(&[b"\r\n", b"\n", b"\n"], 10).is_ok());
    assert!(Delimited::new(&[&[b'a'; 1024]], 10).is_ok());
}

#[test]
fn length_fields_that_can_not_be() {
    let refused = |options, names: &str| assert_refused(LengthField::new(options), names);
    let options = LengthFieldOptions { max: 10, ..Default::default() };
    for width in [0, 5, 6, 7, 9, usize::MAX] {
        refused(LengthFieldOptions { width, ..options }, &format!("width is {width}"));
    }
    for offset in [7, usize::MAX] {
        refused(LengthFieldOptions { offset, ..options }, &format!("offset {offset}"));
    }
    refused(LengthFieldOptions { strip: 11, ..options }, "strip is 11");
    assert!(LengthField::new(LengthFieldOptions { offset: 6, strip: 10, ..options }).is_ok());
    assert_refused(LengthPrefix::new(5, 10), "LengthPrefix: width is 5");
}
