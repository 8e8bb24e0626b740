//! Against real sockets.

use std::any::Any;
use std::io::{ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::os::unix::net::UnixStream;

use bytes::Bytes;
use netpoll_buffer::LinkBuffer;
use socket2::SockRef;

fn pair() -> (UnixStream, UnixStream) {
    let (near, far) = UnixStream::pair().unwrap();
    for socket in [&near, &far] {
        SockRef::from(socket).set_send_buffer_size(1 << 20).unwrap();
        socket.set_nonblocking(true).unwrap();
    }
    (near, far)
}

#[test]
fn two_hundred_kib_at_once_are_read_in_four_calls() {
    let (mut near, mut far) = pair();
    let sent: Vec<u8> = (0..200 << 10).map(|n: u32| (n % 251) as u8).collect();
    assert_eq!(near.write(&sent).unwrap(), sent.len(), "the socket has room for all of it");
    let mut buffer = LinkBuffer::new();
    let mut calls = 0;
    loop {
        calls += 1;
        let filled = buffer.fill(usize::MAX, |space| far.read_vectored(space)).unwrap();
        if filled.read < filled.reserved {
            break;
        }
    }
    println!("{calls} calls");
    assert!(calls <= 4, "{calls} calls");
    assert!(buffer.chunks().flatten().eq(&sent));
}

#[test]
fn forty_blocks_leave_in_one_call() {
    let (mut near, mut far) = pair();
    let mut buffer: LinkBuffer = (0..40).map(|n| Bytes::from(vec![n; 4096])).collect();
    assert_eq!(buffer.chunks().count(), 40);
    let mut calls = 0;
    while !buffer.is_empty() {
        calls += 1;
        let mut chunks = [IoSlice::new(&[]); 64];
        let n = buffer.gather(&mut chunks);
        let sent = near.write_vectored(&chunks[..n]).unwrap();
        buffer.consume(sent);
    }
    assert_eq!(calls, 1);
    let mut received = vec![0; 40 * 4096];
    far.read_exact(&mut received).unwrap();
    assert!(received.chunks(4096).zip(0..).all(|(block, n)| block == [n; 4096]));
}

#[test]
fn more_blocks_than_one_call_takes_leave_in_several() {
    let (mut near, mut far) = pair();
    let mut buffer: LinkBuffer = (0..3000_u32).map(|n| Bytes::from(vec![n as u8; 4096])).collect();
    let mut received = Vec::new();
    while !buffer.is_empty() || received.len() < 3000 * 4096 {
        let mut chunks = [IoSlice::new(&[]); 1024];
        let n = buffer.gather(&mut chunks);
        match near.write_vectored(&chunks[..n]) {
            Ok(sent) => buffer.consume(sent),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        let mut arrived = [0; 16 << 10];
        let n = far.read(&mut arrived).unwrap_or(0);
        received.extend_from_slice(&arrived[..n]);
    }
    assert!(received.chunks(4096).zip(0_u32..).all(|(block, n)| block == [n as u8; 4096]));
}

#[test]
fn an_error_or_an_end_leaves_no_block_behind() {
    let (near, mut far) = pair();
    let mut buffer = LinkBuffer::new();
    let nothing = buffer.fill(4096, |space| far.read_vectored(space));
    assert_eq!(nothing.unwrap_err().kind(), ErrorKind::WouldBlock);
    assert!(format!("{buffer:?}").contains("segments: 0"));
    drop(near);
    let end = buffer.fill(4096, |space| far.read_vectored(space)).unwrap();
    assert!(end.read == 0 && end.reserved > 0);
    assert!(format!("{buffer:?}").contains("segments: 0"));
}

#[test]
fn a_read_that_claims_too_much_is_an_error() {
    let mut buffer = LinkBuffer::new();
    let claimed = buffer.fill(4096, |_| Ok(5000));
    assert_eq!(claimed.unwrap_err().kind(), ErrorKind::InvalidData);
    assert!(buffer.is_empty());
}

#[test]
fn no_more_is_read_than_allowed() {
    let mut buffer = LinkBuffer::new();
    for max in [1, 100, 4096, 5000, 100_000] {
        let filled =
            buffer.fill(max, |space| Ok(space.iter().map(|piece| piece.len()).sum())).unwrap();
        assert!(filled.read == filled.reserved && filled.read <= max);
    }
    let none = buffer.fill(0, |_| unreachable!("there is no space")).unwrap();
    assert_eq!((none.read, none.reserved), (0, 0));
}

/// Fills `buffer` with what has arrived, and says how much space was offered.
fn offer(buffer: &mut LinkBuffer, arrives: usize) -> usize {
    let arrive = |space: &mut [IoSliceMut<'_>]| {
        Ok(space.iter().map(|piece| piece.len()).sum::<usize>().min(arrives))
    };
    buffer.fill(usize::MAX, arrive).unwrap().reserved
}

#[test]
fn the_offer_follows_the_traffic() {
    let mut buffer = LinkBuffer::new();
    let mut offer = |arrives: usize| {
        let reserved = offer(&mut buffer, arrives);
        drop(buffer.slice(buffer.len()));
        reserved
    };
    let first = offer(1);
    let grown = (0..4).map(|_| offer(usize::MAX)).last().unwrap();
    assert!(first == 4096 && grown == 256 << 10, "{first} and {grown}");
    assert_eq!(offer(200 << 10), grown, "stays while it is needed");
    let shrunk = (0..20).map(|_| offer(100)).last().unwrap();
    assert_eq!(shrunk, first);
    // A read that fills its space says that there may be more, so another one follows, which finds
    // none.
    for exact in [4 << 10, 16 << 10, 64 << 10] {
        for _ in 0..4 {
            offer(exact);
        }
        let full = (0..100).filter(|_| offer(exact) <= exact).count();
        assert_eq!(full, 0, "messages of {exact} bytes fill what is offered");
    }
}

#[test]
fn bytes_that_are_consumed_as_they_come_are_read_into_one_block() {
    let consume: [fn(&mut LinkBuffer); 4] = [
        |buffer| buffer.skip(buffer.len()).unwrap(),
        |buffer| _ = buffer.next(buffer.len()).unwrap(),
        |buffer| _ = buffer.copy_to(&mut vec![0; buffer.len()]),
        // All but the beginning of the next small message.
        |buffer| buffer.skip(buffer.len() - buffer.len().min(100)).unwrap(),
    ];
    for consume in consume {
        let mut buffer = LinkBuffer::new();
        for _ in 0..20 {
            assert!(offer(&mut buffer, usize::MAX) <= (64 << 10) + 100);
            consume(&mut buffer);
        }
        // And so when the connection goes on in another buffer.
        let mut next = LinkBuffer::new();
        next.set_read_hint(buffer.take_read_hint());
        assert_eq!(offer(&mut next, usize::MAX), 64 << 10);
    }
}

#[test]
fn bytes_that_are_kept_are_read_into_several_blocks() {
    type Keep = fn(&mut LinkBuffer) -> Box<dyn Any>;
    let keep: [Keep; 3] = [
        |buffer| Box::new(buffer.slice(buffer.len()).unwrap()),
        |buffer| Box::new((0..4).map(|_| buffer.read_bytes(1 << 10).unwrap()).collect::<Vec<_>>()),
        // A large message that is not complete.
        |_| Box::new(()),
    ];
    for keep in keep {
        let mut buffer = LinkBuffer::new();
        let kept = [0; 4].map(|_| (offer(&mut buffer, usize::MAX), keep(&mut buffer)).0);
        assert!(kept[3] >= 256 << 10, "{kept:?}");
        // The next one is of the same size, also in another buffer; then it is seen that nothing
        // was kept.
        buffer.clear();
        let mut next = LinkBuffer::new();
        next.set_read_hint(buffer.take_read_hint());
        assert_eq!([0; 3].map(|_| (offer(&mut next, usize::MAX), next.clear()).0)[2], 64 << 10);
    }
}

#[test]
fn a_message_goes_on_in_the_block_where_it_began() {
    let mut buffer = LinkBuffer::new();
    for arrives in [100, 200, 300] {
        let before = buffer.len();
        let filled = buffer.fill(usize::MAX, |_| Ok(arrives)).unwrap();
        assert_eq!(filled.reserved, 4096 - before);
    }
    assert_eq!(buffer.chunks().count(), 1);
}
