//! What panics, corrupts or misleads in Go's netpoll is an error or impossible here. What the
//! compiler refuses (use after append, slices that outlive the next operation) stands in the
//! documentation of `append` and `next`, as examples that must not compile.

use std::io::{self, BufRead, ErrorKind, IoSlice, Read};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Buf, BufMut, Bytes};
use netpoll_buffer::{AsRead, FromRead, FromWrite, LinkBuffer, Shortfall, Sink, Source, released};

/// Three blocks: "abc", "def" and "ghi".
fn three_blocks() -> LinkBuffer {
    ["abc", "def", "ghi"].into_iter().map(LinkBuffer::from).collect()
}

#[test]
fn acknowledging_more_than_was_malloced_is_an_error() {
    let mut buffer = LinkBuffer::new();
    buffer.malloc(3).copy_from_slice(b"abc");
    assert_eq!(buffer.malloc_ack(4), Err(Shortfall { requested: 4, available: 3 }));
    assert_eq!(buffer.malloc_len(), 3);
    buffer.flush();
    assert_eq!(buffer.malloc_ack(1), Err(Shortfall { requested: 1, available: 0 }));
    assert_eq!(buffer.chunk(), b"abc");
}

#[test]
fn writing_into_room_adds_what_was_written() {
    let mut buffer = LinkBuffer::from("readable");
    let write = |n: usize| {
        move |room: &mut [u8]| {
            room[..n].fill(b'w');
            n
        }
    };
    assert_eq!(buffer.write_with(0, |_| unreachable!("there is no room")), 0);
    assert_eq!(buffer.write_with(5000, write(0)), 0);
    assert_eq!(buffer.write_with(5000, write(5000)), 5000);
    assert_eq!(buffer.write_with(100_000, write(1)), 1);
    assert_eq!((buffer.len(), buffer.malloc_len()), (8, 5001));
    buffer.flush();
    buffer.skip(8).unwrap();
    assert!(buffer.chunks().flatten().all(|&byte| byte == b'w'));

    let mut empty = LinkBuffer::new();
    empty.write_with(100, |room| room.len() - 100);
    assert_eq!(empty.held(), 0, "room that was not used is given back");
}

#[test]
fn claiming_more_than_the_room_adds_nothing() {
    let mut buffer = LinkBuffer::from("readable");
    let claim = panic::catch_unwind(AssertUnwindSafe(|| buffer.write_with(10, |_| 11)));
    assert!(claim.is_err());
    let panics = panic::catch_unwind(AssertUnwindSafe(|| buffer.write_with(10, |_| panic!("no"))));
    assert!(panics.is_err());
    assert_eq!((buffer.len(), buffer.malloc_len()), (8, 0));
    buffer.write_bytes(b", and more");
    buffer.flush();
    assert_eq!(buffer.next(18), Ok(&b"readable, and more"[..]));
}

#[test]
fn acknowledging_discards_over_several_blocks() {
    let mut buffer = LinkBuffer::from("readable");
    for _ in 0..3 {
        buffer.malloc(5000).fill(b'x');
    }
    buffer.malloc_ack(5001).unwrap();
    buffer.write_byte(b'y');
    buffer.flush();
    buffer.skip(8 + 5001).unwrap();
    assert_eq!(buffer.chunk(), b"y");
}

#[test]
fn what_was_discarded_of_a_full_block_is_room_again() {
    let mut buffer = LinkBuffer::new();
    buffer.malloc(4096)[0] = b'a';
    buffer.malloc_ack(1).unwrap();
    buffer.write_bytes(b"bc");
    buffer.flush();
    assert_eq!(buffer.chunks().collect::<Vec<_>>(), [b"abc"]);
}

#[test]
fn memory_of_others_is_never_written_to() {
    let bytes = Bytes::from(vec![b'x'; 5000]);
    let mut buffer = LinkBuffer::new();
    buffer.write_shared(bytes.clone());
    buffer.malloc_ack(10).unwrap();
    buffer.write_bytes(b"yyy");
    buffer.malloc(3);
    buffer.fill(4096, |space| Ok(space[0].len())).unwrap();
    assert!(bytes.iter().all(|&byte| byte == b'x'));
    assert_eq!(buffer.next(13), Ok(&b"xxxxxxxxxxyyy"[..]));
}

#[test]
fn a_buffer_can_be_written_to_after_others_were_appended() {
    let mut buffer = LinkBuffer::from("abc");
    buffer.append(LinkBuffer::new());
    buffer.append(LinkBuffer::from("def"));
    buffer.write_bytes(b"ghi");
    assert_eq!((buffer.len(), buffer.malloc_len()), (3, 6));
    buffer.flush();
    assert_eq!(buffer.next(9), Ok(&b"abcdefghi"[..]));
}

#[test]
fn a_slice_can_be_written_to_without_touching_its_parent() {
    let mut parent = LinkBuffer::new();
    parent.write_bytes(b"abcdef");
    parent.flush();
    let mut slice = parent.slice(3).unwrap();
    slice.malloc(2).copy_from_slice(b"!!");
    slice.flush();
    parent.write_bytes(b"ghi");
    parent.flush();
    assert_eq!(slice.next(5), Ok(&b"abc!!"[..]));
    assert_eq!(parent.next(6), Ok(&b"defghi"[..]));
}

#[test]
fn a_slice_keeps_its_bytes_whatever_becomes_of_its_parent() {
    let mut parent = LinkBuffer::new();
    parent.write_bytes(&[b'x'; 5000]);
    parent.flush();
    let slice = parent.slice(4500).unwrap();
    parent.clear();
    for _ in 0..100 {
        parent.write_bytes(&[b'y'; 5000]);
    }
    drop(parent);
    assert!(slice.chunks().flatten().all(|&byte| byte == b'x'));
}

#[test]
fn gathering_leaves_no_block_out() {
    let buffer = three_blocks();
    let mut chunks = [IoSlice::new(&[]); 8];
    assert_eq!(buffer.gather(&mut chunks), 3);
    assert!(chunks[..3].iter().flat_map(|chunk| chunk.iter()).eq(b"abcdefghi"));
    assert_eq!(LinkBuffer::from("one").gather(&mut chunks), 1);
    assert_eq!(buffer.gather(&mut []), 0);
}

#[test]
fn gathering_shows_no_pending_bytes() {
    let mut buffer = LinkBuffer::from("abc");
    buffer.write_bytes(b"def");
    let mut chunks = [IoSlice::new(&[]); 8];
    assert_eq!(buffer.gather(&mut chunks), 1);
    assert_eq!(&*chunks[0], b"abc");
}

#[test]
fn until_reads_from_a_fresh_source() {
    let mut source = FromRead::new(&b"line\nrest"[..]);
    assert_eq!(source.until(b'\n', 100).unwrap(), b"line\n");
    assert_eq!(source.until(b'\n', 100).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    assert_eq!(source.buffered().len(), 4, "nothing is consumed by a failure");
}

#[test]
fn a_reader_that_panics_or_a_user_that_writes_leaves_the_stream_as_it_was() {
    struct Startled(u32);
    impl Read for Startled {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            self.0 += 1;
            assert!(self.0 > 1, "the first time");
            out[..3].copy_from_slice(b"abc");
            Ok(3)
        }
    }
    let mut source = FromRead::new(Startled(0));
    panic::catch_unwind(AssertUnwindSafe(|| source.require(1))).unwrap_err();
    source.buffered().write_bytes(b"put back, ");
    assert_eq!(Source::next(&mut source, 13).unwrap(), b"put back, abc");
}

#[test]
fn until_is_bounded() {
    let mut endless = FromRead::new(io::repeat(b'x'));
    assert_eq!(endless.until(b'\n', 10_000).unwrap_err().kind(), ErrorKind::InvalidData);
    assert!(endless.buffered().len() < 20_000);
}

#[test]
fn peeking_again_copies_only_what_is_new_and_holds_one_block() {
    let mut buffer = three_blocks();
    for n in [4, 3, 5, 9, 6, 9] {
        assert_eq!(buffer.peek(n), Ok(&b"abcdefghi"[..n]));
    }
    assert_eq!(buffer.chunks().count(), 1);
}

/// A message that is looked at again whenever 4 KiB more of it have arrived is copied a few times,
/// not once for each look.
#[test]
fn peeking_at_ever_more_costs_little() {
    let mut buffer = LinkBuffer::new();
    let mut moves = 0;
    let mut at = std::ptr::null();
    for _ in 0..2000 {
        buffer.append(LinkBuffer::from(vec![b'x'; 4096]));
        buffer.flush();
        let now = buffer.peek(buffer.len()).unwrap().as_ptr();
        moves += u32::from(now != at);
        at = now;
    }
    assert!(moves < 20, "{moves} moves for 8 MiB");
}

/// Foreign memory with an owner that panics when it gets it back, between memory with an owner that
/// does not.
fn touchy() -> LinkBuffer {
    let touchy = released(vec![b'b'; 5000], |_| panic!("at the release"));
    [Bytes::from(vec![b'a'; 5000]), touchy, Bytes::from(vec![b'c'; 5000])].into_iter().collect()
}

#[test]
fn an_owner_that_panics_leaves_the_buffer_whole() {
    let ways: [fn(&mut LinkBuffer); 5] = [
        |buffer| buffer.consume(12_000),
        |buffer| drop(buffer.slice(5001).and_then(|_| buffer.slice(6000))),
        LinkBuffer::clear,
        |buffer| {
            buffer.skip(9999).unwrap();
            drop(buffer.slice(1));
        },
        |buffer| {
            buffer.skip(5000).unwrap();
            drop(buffer.read_bytes(5000));
        },
    ];
    for empty in ways {
        let mut buffer = touchy();
        panic::catch_unwind(AssertUnwindSafe(|| empty(&mut buffer))).unwrap_err();
        assert_eq!(buffer.chunks().map(<[u8]>::len).sum::<usize>(), buffer.len());
        assert!(buffer.chunks().flatten().all(|&byte| byte == b'c'), "{buffer:?}");
        buffer.clear();
        buffer.write_bytes(b"fresh");
        buffer.flush();
        assert_eq!(buffer.next(5), Ok(&b"fresh"[..]));
    }
}

/// The second panic would come while the first unwinds, which aborts a process.
#[test]
fn owners_that_panic_one_after_the_other_end_no_more_than_one_panic_does() {
    let ways: [fn(LinkBuffer); 4] = [
        drop,
        |mut buffer| buffer.clear(),
        |mut buffer| drop(buffer.slice(15_000)),
        |mut buffer| {
            let mut other = LinkBuffer::from("before");
            other.append(buffer.slice(12_000).unwrap());
        },
    ];
    for way in ways {
        let released_so_far = Arc::new(AtomicUsize::new(0));
        let touchy = || {
            let count = released_so_far.clone();
            released(vec![b'x'; 5000], move |_| {
                count.fetch_add(1, Ordering::SeqCst);
                panic!("at the release");
            })
        };
        let buffer: LinkBuffer = [touchy(), touchy(), touchy()].into_iter().collect();
        panic::catch_unwind(AssertUnwindSafe(|| way(buffer))).unwrap_err();
        assert_eq!(released_so_far.load(Ordering::SeqCst), 3);
    }
}

#[test]
fn an_owner_that_panics_in_a_pull_up_loses_no_byte() {
    for taken in [0, 5000] {
        let mut buffer = touchy();
        buffer.skip(taken).unwrap();
        let peek = AssertUnwindSafe(|| buffer.peek(12_000 - taken).is_ok());
        panic::catch_unwind(peek).unwrap_err();
        assert_eq!(buffer.len(), 15_000 - taken);
        let expected = [b'a', b'b', b'c'].into_iter().flat_map(|byte| [byte; 5000]).skip(taken);
        assert!(buffer.chunks().flatten().copied().eq(expected.clone()), "{buffer:?}");
        // The next peek finds the same bytes, and the owner was released already.
        assert!(buffer.peek(15_000 - taken).unwrap().iter().copied().eq(expected));
    }
}

#[test]
fn an_owner_that_panics_leaves_what_is_pending_whole() {
    // Discarded, from behind.
    let mut buffer = LinkBuffer::new();
    buffer.append(touchy());
    panic::catch_unwind(AssertUnwindSafe(|| buffer.malloc_ack(1))).unwrap_err();
    assert_eq!(buffer.malloc_len(), 5000);
    buffer.malloc_ack(1).unwrap();
    buffer.write_bytes(b"b");
    buffer.flush();
    assert_eq!(buffer.next(2), Ok(&b"ab"[..]));

    // Appended, after all of it was lent out.
    let mut other = touchy();
    other.skip(5000).unwrap();
    other.next(5000).unwrap();
    let append = AssertUnwindSafe(|| buffer.append(other));
    panic::catch_unwind(append).unwrap_err();
    assert_eq!((buffer.len(), buffer.malloc_len()), (0, 0));
    buffer.write_bytes(b"c");
    buffer.flush();
    assert_eq!(buffer.next(1), Ok(&b"c"[..]));
}

#[test]
fn asking_for_nothing_changes_nothing() {
    let mut buffer = three_blocks();
    for mut buffer in [LinkBuffer::new(), buffer.slice(9).unwrap()] {
        let len = buffer.len();
        assert_eq!(buffer.peek(0), Ok(&[][..]));
        assert_eq!(buffer.next(0), Ok(&[][..]));
        assert_eq!(buffer.skip(0), Ok(()));
        assert_eq!(buffer.slice(0).unwrap().len(), 0);
        assert_eq!(buffer.read_bytes(0), Ok(Bytes::new()));
        assert_eq!(buffer.read_string(0), Ok(Ok(String::new())));
        assert!(buffer.malloc(0).is_empty());
        buffer.write_bytes(&[]);
        buffer.write_shared(Bytes::new());
        assert_eq!(buffer.write_direct(Bytes::new(), 0), Ok(()));
        assert_eq!(buffer.malloc_ack(0), Ok(()));
        buffer.append(LinkBuffer::new());
        assert_eq!((buffer.len(), buffer.malloc_len()), (len, 0));
    }
}

#[test]
fn a_shortfall_says_how_much_is_missing_and_consumes_nothing() {
    let mut buffer = three_blocks();
    let shortfall = Shortfall { requested: 10, available: 9 };
    assert_eq!(buffer.peek(10), Err(shortfall));
    assert_eq!(buffer.next(10), Err(shortfall));
    assert_eq!(buffer.skip(10), Err(shortfall));
    assert_eq!(buffer.slice(10).err(), Some(shortfall));
    assert_eq!(buffer.read_bytes(10), Err(shortfall));
    assert_eq!(buffer.read_string(10), Err(shortfall));
    assert_eq!(buffer.write_direct(Bytes::new(), 1).err().map(|error| error.available), Some(0));
    assert_eq!(io::Error::from(shortfall).kind(), ErrorKind::UnexpectedEof);
    assert_eq!(shortfall.to_string(), "10 bytes requested, 9 available");
    assert_eq!(buffer.len(), 9);
}

#[test]
fn writing_directly_goes_between_what_is_reserved() {
    let mut buffer = LinkBuffer::new();
    buffer.malloc(4).copy_from_slice(b"acdf");
    buffer.write_direct(Bytes::from_static(b"b"), 3).unwrap();
    buffer.write_direct(Bytes::from_static(b"e"), 1).unwrap();
    buffer.write_direct(Bytes::from_static(b"g"), 0).unwrap();
    buffer.malloc(1)[0] = b'h';
    buffer.flush();
    assert_eq!(buffer.next(8), Ok(&b"abcdefgh"[..]));
}

#[test]
#[should_panic(expected = "advance past the end")]
fn buf_panics_past_the_end_as_it_must() {
    LinkBuffer::from("abc").advance(4);
}

#[test]
fn encoders_write_across_blocks() {
    let mut buffer = LinkBuffer::new();
    for n in 0..10_000_u32 {
        buffer.put_u32(n);
        buffer.put_slice(b"-");
    }
    assert!(buffer.is_empty());
    LinkBuffer::flush(&mut buffer);
    for n in 0..10_000 {
        assert_eq!((buffer.get_u32(), buffer.get_u8()), (n, b'-'));
    }
}

#[test]
fn reading_through_std_sees_every_block() {
    let mut text = String::new();
    AsRead::new(three_blocks()).read_to_string(&mut text).unwrap();
    assert_eq!(text, "abcdefghi");
    let mut lines = three_blocks().lines();
    assert_eq!(lines.next().unwrap().unwrap(), "abcdefghi");
}

#[test]
fn a_sink_says_what_is_pending() {
    let mut sink = FromWrite::new(Vec::new());
    sink.write_bytes(b"abc");
    assert_eq!(sink.malloc_len(), 3);
    assert_eq!(sink.staged().malloc_len(), 3);
    assert_eq!(Sink::malloc_len(&mut &mut sink), 3);
}

#[test]
fn a_write_that_claims_too_much_is_an_error_and_takes_nothing() {
    struct Boaster;
    impl io::Write for Boaster {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            Ok(bytes.len() + 1)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut sink = FromWrite::new(Boaster);
    sink.write_bytes(b"abc");
    assert_eq!(sink.flush().unwrap_err().kind(), ErrorKind::InvalidData);
    assert_eq!(sink.into_parts().1.chunk(), b"abc");
}

#[test]
fn a_failed_write_keeps_what_was_not_written() {
    /// Takes three bytes, then fails once, then takes everything.
    struct Choking(Vec<u8>, u32);
    impl io::Write for Choking {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1 += 1;
            let n = if self.1 == 1 { 3 } else { bytes.len() };
            if self.1 == 2 {
                return Err(ErrorKind::WouldBlock.into());
            }
            self.0.extend_from_slice(&bytes[..n]);
            Ok(n)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut sink = FromWrite::new(Choking(Vec::new(), 0));
    sink.append(three_blocks());
    assert_eq!(sink.flush().unwrap_err().kind(), ErrorKind::WouldBlock);
    sink.flush().unwrap();
    let (written, rest) = sink.into_parts();
    assert_eq!(written.0, b"abcdefghi");
    assert!(rest.is_empty());
}
