//! Answers in RESP2.

use netpoll::LinkBuffer;

use crate::ANSWER_MAX;
use crate::value::Fault;

/// What a value takes beside its bytes, at most: `$4194304` and two ends of lines.
const ITEM_HEAD: usize = 12;

pub(crate) fn simple(out: &mut LinkBuffer, text: &str) {
    out.write_byte(b'+');
    out.write_string(text);
    out.write_bytes(b"\r\n");
}

/// An error; its first word is its kind.
pub(crate) fn error(out: &mut LinkBuffer, text: &str) {
    out.write_byte(b'-');
    out.write_string(text);
    out.write_bytes(b"\r\n");
}

pub(crate) fn integer(out: &mut LinkBuffer, number: i64) {
    line(out, if number < 0 { b":-" } else { b":" }, number.unsigned_abs());
}

pub(crate) fn count(out: &mut LinkBuffer, number: usize) {
    line(out, b":", number as u64);
}

/// The head of an array of so many answers.
pub(crate) fn array(out: &mut LinkBuffer, length: usize) {
    line(out, b"*", length as u64);
}

pub(crate) fn bulk(out: &mut LinkBuffer, bytes: &[u8]) {
    line(out, b"$", bytes.len() as u64);
    out.write_bytes(bytes);
    out.write_bytes(b"\r\n");
}

/// A value, or the answer that there is none.
pub(crate) fn optional(out: &mut LinkBuffer, bytes: Option<&[u8]>) {
    match bytes {
        Some(bytes) => bulk(out, bytes),
        None => out.write_bytes(b"$-1\r\n"),
    }
}

/// Values, unless they would take more than `ANSWER_MAX`: a short question can have a long answer,
/// and all of it is in memory until the client reads it.
pub(crate) fn bulks<'a>(
    out: &mut LinkBuffer,
    items: impl Iterator<Item = Option<&'a [u8]>> + Clone,
) -> Result<(), Fault> {
    let (mut length, mut size) = (0, 0);
    for item in items.clone() {
        length += 1;
        size += ITEM_HEAD + item.map_or(0, <[u8]>::len);
        if size > ANSWER_MAX {
            return Err("ERR the answer would be too long");
        }
    }
    array(out, length);
    items.for_each(|item| optional(out, item));
    Ok(())
}

/// A number between what goes before it and the end of the line, with one write.
fn line(out: &mut LinkBuffer, before: &[u8], mut number: u64) {
    let mut room = *b"......................\r\n"; // 2 before it, 20 digits
    let mut start = room.len() - 2;
    loop {
        start -= 1;
        room[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    start -= before.len();
    room[start..start + before.len()].copy_from_slice(before);
    out.write_bytes(&room[start..]);
}
