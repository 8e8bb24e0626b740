//! Models of a block's owners: every interleaving of what they do to its header.

use super::*;
use loom::thread;

/// `put` takes the block back while nobody reads it: the witness fails the model otherwise.
#[test]
fn loom_the_last_of_two_owners_reuses_the_block() {
    loom::model(|| {
        let mut back = Segment::with_room(8);
        back.write(b"frontend");
        let front = back.split_to(5);
        let reader = thread::spawn(move || {
            assert_eq!(front.bytes(), b"front");
        });
        // Writing behind is allowed while the other reads before.
        back.room()[0] = b'!';
        back.commit(1);
        assert_eq!(back.bytes(), b"end!");
        drop(back);
        reader.join().unwrap();
    });
}

#[test]
fn loom_three_owners_leave_in_any_order() {
    loom::model(|| {
        let mut last = Segment::with_room(8);
        last.write(b"abc");
        let readers = [b"a", b"b"].map(|expected| {
            let piece = last.split_to(1);
            thread::spawn(move || assert_eq!(piece.bytes(), expected))
        });
        assert_eq!(last.bytes(), b"c");
        drop(last);
        for reader in readers {
            reader.join().unwrap();
        }
    });
}

#[test]
fn loom_a_piece_divides_further_on_another_thread() {
    loom::model(|| {
        let mut back = Segment::with_room(8);
        back.write(b"abcd");
        let mut front = back.split_to(2);
        let divider = thread::spawn(move || {
            let first = front.split_to(1);
            assert_eq!((first.bytes(), front.bytes()), (&b"a"[..], &b"b"[..]));
        });
        let third = back.split_to(1);
        drop(back);
        assert_eq!(third.bytes(), b"c");
        drop(third);
        divider.join().unwrap();
    });
}
