//! Models of a block's owners: every interleaving of their operations on its header.

use super::*;
use loom::thread;

/// `put` takes the block back while no thread reads it: the witness fails the model otherwise.
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

/// What is charged to each account while the block is held, and after the block and all handles of
/// the accounts are dropped.
fn assert_charged_once(held: Segment, accounts: [Account; 2]) {
    let [one, other] = accounts.each_ref().map(Account::held);
    assert!((one == 512 && other == 0) || (one == 0 && other == 512), "{one}, {other}");
    drop(held);
    for account in accounts {
        assert_eq!(account.held(), 0);
        assert!(account.is_alone(), "nothing holds the account any more");
    }
}

#[test]
fn loom_a_block_that_two_charge_at_once_is_charged_once() {
    loom::model(|| {
        let (one, other) = (Account::new(), Account::new());
        let mut held = Segment::with_room(8);
        held.write(b"ab");
        let mut piece = held.split_to(1);
        let second = other.clone();
        let charger = thread::spawn(move || piece.charge(&second));
        held.charge(&one);
        charger.join().unwrap();
        assert_charged_once(held, [one, other]);
    });
}

#[test]
fn loom_a_charge_is_taken_back_by_the_last_of_two_owners() {
    loom::model(|| {
        let (one, other) = (Account::new(), Account::new());
        let mut back = Segment::with_room(8);
        back.write(b"ab");
        let mut front = back.split_to(1);
        let second = other.clone();
        let leaver = thread::spawn(move || {
            front.charge(&second);
            drop(front);
        });
        back.charge(&one);
        drop(back);
        leaver.join().unwrap();
        for account in [one, other] {
            assert_eq!(account.held(), 0);
            assert!(account.is_alone());
        }
    });
}

/// The account is read by one owner while another sets it, and used by a third block.
#[test]
fn loom_a_copy_is_charged_like_its_block_or_not_at_all() {
    loom::model(|| {
        let account = Account::within(&Account::new());
        let mut back = Segment::with_room(8);
        back.write(b"ab");
        let front = back.split_to(1);
        let copier = thread::spawn(move || {
            let mut copy = Segment::with_room(8);
            copy.charge_like(&front);
            drop(front);
            copy
        });
        back.charge(&account);
        drop(back);
        let copy = copier.join().unwrap();
        assert!([0, 512].contains(&account.held()));
        drop(copy);
        assert_eq!(account.held(), 0);
        assert!(account.is_alone());
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
