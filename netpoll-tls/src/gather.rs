//! Contiguous bytes for a record, out of the chunks of a buffer.

use std::cell::RefCell;

use netpoll_buffer::LinkBuffer;

/// A chunk with this many bytes left becomes a record of its own, short of what the record could
/// take: a further record costs less than a copy of so much.
const ALONE: usize = 8 << 10;

thread_local! {
    /// Where small chunks meet. It grows to the longest record, 16 KiB, and stays with the thread.
    static MEETING: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Calls `with` with bytes of `buffer` from `from` on, at least one and at most `most`.
///
/// They are not copied where one chunk has `most` of them, or many; small chunks are copied
/// together, since each record costs 22 bytes on the wire, and more time than the copy.
pub(crate) fn with_contiguous<R>(
    buffer: &LinkBuffer,
    from: usize,
    most: usize,
    with: impl FnOnce(&[u8]) -> R,
) -> R {
    let mut skipped = from;
    let mut chunks = buffer.chunks().filter_map(|chunk| {
        let skip = skipped.min(chunk.len());
        skipped -= skip;
        Some(&chunk[skip..]).filter(|chunk| !chunk.is_empty())
    });
    let first = chunks.next().unwrap_or_default();
    if first.len() >= most.min(ALONE) {
        return with(&first[..first.len().min(most)]);
    }
    MEETING.with_borrow_mut(|meeting| {
        meeting.clear();
        meeting.extend_from_slice(first);
        for chunk in chunks {
            meeting.extend_from_slice(&chunk[..chunk.len().min(most - meeting.len())]);
            if meeting.len() == most {
                break;
            }
        }
        with(meeting)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buffer(chunks: &[usize]) -> LinkBuffer {
        let mut next = 0_u8;
        let mut chunk = |&n: &usize| {
            let bytes = (0..n).map(|_| {
                next = next.wrapping_add(1);
                next
            });
            LinkBuffer::from(bytes.collect::<Vec<u8>>())
        };
        chunks.iter().map(&mut chunk).collect()
    }

    #[test]
    fn it_takes_from_the_offset_what_fits() {
        let (small, large) = (100, ALONE + 100);
        let of = |chunks: &[usize], from, most| {
            let buffer = buffer(chunks);
            let all: Vec<u8> = buffer.chunks().flatten().copied().collect();
            with_contiguous(&buffer, from, most, |bytes| {
                assert_eq!(bytes, &all[from..from + bytes.len()]);
                bytes.len()
            })
        };
        assert_eq!(of(&[small, small], 0, 200), 200, "small chunks meet");
        assert_eq!(of(&[small, small], 150, 50), 50);
        assert_eq!(of(&[small, small], 99, 2), 2);
        assert_eq!(of(&[large, small], 0, large), large, "one chunk has all");
        assert_eq!(of(&[large, large], 0, 2 * ALONE), large, "a large chunk stays alone");
        assert_eq!(of(&[small, large], 0, 2 * ALONE), small + large, "a small one does not");
        assert_eq!(of(&[small, large, small], small, ALONE), ALONE);
    }
}
