//! Peers that lie, flood and stop, and filters that panic.

use std::any::Any;
use std::io::{ErrorKind, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use netpoll::filter::{Filter, FilterError, FilterServer, FilterState, Opened};
use netpoll::{
    Address, Connection, Dispatch, EventLoop, LinkBuffer, Listener, ReceiveRate, Result,
};

use super::{next, serve, serve_on};
use crate::toy::{ASK, DATA, DONE, EMPTY, END, HELLO, Toy, ToyClient, Toys};
use crate::util::{Journal, PATIENCE, connect, echo, modes, noise};

/// What a client says in a whole session, in plain and on the wire.
fn session() -> (Vec<u8>, Vec<u8>) {
    let toy = Toy::new(true);
    let mut wire = toy.record(HELLO, b"");
    wire.extend(toy.record(DONE, b""));
    wire.extend(toy.record(DATA, b"the first"));
    wire.extend(toy.record(ASK, b""));
    wire.extend(toy.record(EMPTY, b""));
    wire.extend(toy.record(DATA, b", and the second"));
    wire.extend(toy.record(END, b""));
    (b"the first, and the second".to_vec(), wire)
}

/// One wrong byte at every position: an end, never other bytes than those that were sent, and never
/// more than came before it.
#[test]
fn one_wrong_byte_anywhere_is_an_error_or_an_end() {
    let (plain, wire) = session();
    let (told, ends) = mpsc::channel();
    let (_serving, address) = serve(
        EventLoop::builder()
            .on_prepare(|_: &Connection| Ok(Vec::new()))
            .on_request(|heard: &mut Vec<u8>, conn: &mut Connection| {
                let len = conn.reader().len();
                heard.extend_from_slice(conn.reader().next(len)?);
                Ok(())
            })
            .on_disconnect(move |heard: Vec<u8>, reason: &netpoll::CloseReason| {
                let _ = told.send((heard, reason.to_string()));
            }),
        Toys::default(),
    );
    for position in 0..=wire.len() {
        for flipped in [0x01, 0x80, 0xff] {
            let mut changed = wire.clone();
            if let Some(byte) = changed.get_mut(position) {
                *byte ^= flipped;
            }
            let mut socket = connect(address);
            socket.write_all(&changed).expect("sent");
            socket.shutdown(std::net::Shutdown::Write).expect("a FIN");
            let _ = socket.read_to_end(&mut Vec::new());
            let (heard, reason) = next(&ends);
            assert!(plain.starts_with(&heard), "byte {position} ^ {flipped:#x}: {heard:?}");
            let is_whole = heard == plain && reason == "closed by the peer";
            assert_eq!(is_whole, position == wire.len(), "byte {position}: {reason}");
        }
    }
}

/// Records that bring nothing, without end: the other connections of the loop have their turns.
#[test]
fn a_flood_of_records_without_bytes_stops_no_other_connection() {
    for dispatch in modes() {
        let (_serving, address) = serve(echo().dispatch(dispatch).loops(1), Toys::default());
        let mut other = ToyClient::connect(address);
        let mut flooding = ToyClient::connect(address);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let flood = std::thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                (0..2000).for_each(|_| flooding.toy.will_say(EMPTY));
                if flooding.say().is_err() {
                    break;
                }
            }
        });
        for round in 0..50 {
            other.echo(noise(round, 500));
        }
        stop.store(true, Ordering::SeqCst);
        flood.join().expect("no panic");
    }
}

/// The same towards a read that waits: its timeout holds.
#[test]
fn a_flood_of_records_without_bytes_keeps_no_read_beyond_its_time() {
    for dispatch in [crate::util::pool(), crate::util::hand_off()] {
        let (told, outcomes) = mpsc::channel();
        let (_serving, address) = serve(
            EventLoop::builder()
                .on_connect(move |(): &mut (), conn: &mut Connection| {
                    let begun = Instant::now();
                    let outcome = conn.reader().read_byte().map_err(|it| it.kind());
                    let _ = told.send((outcome, begun.elapsed()));
                    Ok(())
                })
                .on_request(|(): &mut (), _: &mut Connection| Ok(()))
                .read_timeout(Duration::from_millis(100))
                .dispatch(dispatch),
            Toys::default(),
        );
        let mut client = ToyClient::connect(address);
        let outcome = loop {
            (0..2000).for_each(|_| client.toy.will_say(EMPTY));
            let _ = client.say();
            if let Ok(outcome) = outcomes.try_recv() {
                break outcome;
            }
        };
        assert_eq!(outcome.0, Err(ErrorKind::TimedOut), "{dispatch:?}");
        assert!(outcome.1 < PATIENCE, "{dispatch:?}");
    }
}

/// Each question costs an answer. A peer that asks and reads nothing is given up, with a bound on
/// what waits for it.
#[test]
fn a_peer_that_asks_and_takes_no_answers_is_given_up() {
    for dispatch in modes() {
        let journal = Journal::default();
        let seen = journal.clone();
        // Small buffers, which are full soon.
        let listener = Listener::options().send_buffer(8 << 10).bind("tcp", "127.0.0.1:0");
        let (_serving, address) = serve_on(
            listener.expect("a port"),
            echo()
                .on_disconnect(move |(): (), reason: &netpoll::CloseReason| {
                    seen.add(reason.to_string());
                })
                .linger(Duration::from_millis(50))
                .dispatch(dispatch),
            Toys::default(),
        );
        let mut client = ToyClient::connect(address);
        let buffer = socket2::SockRef::from(&client.socket).set_recv_buffer_size(4096);
        buffer.expect("an option");
        let asking = std::thread::spawn(move || {
            loop {
                (0..2000).for_each(|_| client.toy.will_say(ASK));
                if client.say().is_err() {
                    break;
                }
            }
        });
        let told = &journal.wait(1)[0];
        assert!(told.contains("asks for answers and takes none"), "{dispatch:?}: {told}");
        asking.join().expect("no panic");
    }
}

/// A record that never ends is no reason to keep ever more of it.
#[test]
fn a_record_that_does_not_end_is_refused() {
    /// Waits for a record that is larger than any.
    #[derive(Debug)]
    struct Hungry;
    impl Filter for Hungry {
        fn open(&self, _: &mut [u8], _: usize, _: &mut LinkBuffer) -> Result<Opened, FilterError> {
            Ok(Opened::new(0, FilterState::Handshaking, false))
        }
        fn say(&self, _: &mut LinkBuffer) {}
        fn seal(&self, _: &LinkBuffer, _: usize, _: &mut LinkBuffer) -> Result<usize, FilterError> {
            Ok(0)
        }
        fn finish(&self, _: &mut LinkBuffer) {}
        fn as_any(&self) -> &dyn Any {
            self
        }
    }
    impl FilterServer for Hungry {
        fn accept(&self, _: &Address, _: Option<&Address>) -> Result<Arc<dyn Filter>> {
            Ok(Arc::new(Hungry))
        }
    }
    for dispatch in modes() {
        let (journal, seen) = (Journal::default(), Journal::default());
        let told = seen.clone();
        let (_serving, address) = serve(
            EventLoop::builder()
                .on_request(|(): &mut (), _: &mut Connection| Ok(()))
                .on_disconnect(move |(): (), reason: &netpoll::CloseReason| {
                    told.add(reason.to_string());
                })
                .dispatch(dispatch),
            Hungry,
        );
        let mut client = connect(address);
        while client.write_all(&[0; 10_000]).is_ok() && seen.len() == 0 {
            journal.add("sent");
        }
        let told = &seen.wait(1)[0];
        assert!(told.contains("bytes that make no record"), "{dispatch:?}: {told}");
        assert!(journal.len() < 2000, "{} times 10 000 bytes were taken", journal.len());
    }
}

/// Where a [`Faulty`] filter fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    OpenPanics,
    SayPanics,
    SealPanics,
    SealFails,
    SealTakesNothing,
    SealTakesTooMuch,
    FinishPanics,
}

/// A toy that fails after its first record.
#[derive(Debug)]
struct Faulty(Arc<Toy>, Fault);

impl Faulty {
    fn is_due(&self, fault: Fault) -> bool {
        self.1 == fault && self.0.opened.load(Ordering::SeqCst) >= 1
    }

    fn panic_if(&self, fault: Fault) {
        assert!(!self.is_due(fault), "as it was asked to");
    }
}

impl Filter for Faulty {
    fn open(
        &self,
        wire: &mut [u8],
        room: usize,
        plain: &mut LinkBuffer,
    ) -> Result<Opened, FilterError> {
        self.panic_if(Fault::OpenPanics);
        self.0.open(wire, room, plain)
    }

    fn say(&self, wire: &mut LinkBuffer) {
        self.panic_if(Fault::SayPanics);
        self.0.say(wire);
    }

    fn seal(
        &self,
        plain: &LinkBuffer,
        from: usize,
        wire: &mut LinkBuffer,
    ) -> Result<usize, FilterError> {
        self.panic_if(Fault::SealPanics);
        if self.is_due(Fault::SealFails) {
            return Err(FilterError::new("it has sealed enough"));
        }
        let sealed = self.0.seal(plain, from, wire)?;
        match self.1 {
            Fault::SealTakesNothing => Ok(0),
            Fault::SealTakesTooMuch => Ok(usize::MAX),
            _ => Ok(sealed),
        }
    }

    fn finish(&self, wire: &mut LinkBuffer) {
        self.panic_if(Fault::FinishPanics);
        self.0.finish(wire);
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[derive(Debug)]
struct Faults(Fault);

impl FilterServer for Faults {
    fn accept(&self, _: &Address, _: Option<&Address>) -> Result<Arc<dyn Filter>> {
        Ok(Arc::new(Faulty(Toy::new(false), self.0)))
    }
}

/// It ends its connection and nothing else; the loop goes on.
#[test]
fn a_filter_that_fails_or_panics_ends_its_connection_alone() {
    use Fault::{
        FinishPanics, OpenPanics, SayPanics, SealFails, SealPanics, SealTakesNothing,
        SealTakesTooMuch,
    };
    let faults = [
        (OpenPanics, "the filter panicked: as it was asked to"),
        (SayPanics, "the filter panicked: as it was asked to"),
        (SealPanics, "the filter panicked: as it was asked to"),
        (SealFails, "it has sealed enough"),
        (SealTakesNothing, "the filter claims to have sealed 0 of 5 bytes"),
        (SealTakesTooMuch, "the filter claims to have sealed 18446744073709551615 of 5 bytes"),
        (FinishPanics, "closed by the peer"),
    ];
    for dispatch in modes() {
        for (fault, expected) in faults {
            let journal = Journal::default();
            let seen = journal.clone();
            let (_serving, address) = serve(
                echo()
                    .on_disconnect(move |(): (), reason: &netpoll::CloseReason| {
                        seen.add(reason.to_string());
                    })
                    // What the filter has left to say is sent, and nothing waits for it.
                    .linger(2 * PATIENCE)
                    .dispatch(dispatch)
                    .loops(1),
                Faults(fault),
            );
            for round in 1..=2 {
                let (mut socket, toy) = (connect(address), Toy::new(true));
                socket.write_all(&toy.record(HELLO, b"")).expect("sent");
                // The fault may be that there is no answer.
                let _ = socket.read_exact(&mut [0; 7]);
                let _ = socket.write_all(&toy.record(DONE, b""));
                for (kind, payload) in [(ASK, &b""[..]), (DATA, b"hello"), (END, b"")] {
                    // The server may be gone before the last of them.
                    let _ = socket.write_all(&toy.record(kind, payload));
                }
                let _ = socket.read_to_end(&mut Vec::new());
                let told = journal.wait(round);
                assert_eq!(told[round - 1], expected, "{dispatch:?}, {fault:?}");
            }
        }
    }
}

/// It reads nothing, and takes nothing; the linger time ends the close.
#[test]
fn a_peer_that_stops_does_not_hold_a_close_for_ever() {
    for dispatch in [Dispatch::Inline, crate::util::hand_off()] {
        let journal = Journal::default();
        let (_serving, address) = serve(
            EventLoop::builder()
                .on_connect(|(): &mut (), conn: &mut Connection| {
                    conn.writer().write_bytes(noise(1, 16 << 20));
                    conn.close();
                    Ok(())
                })
                .on_request(|(): &mut (), _: &mut Connection| Ok(()))
                .on_disconnect(journal.on_disconnect())
                .linger(Duration::from_millis(100))
                .dispatch(dispatch),
            Toys::default(),
        );
        let mut client = ToyClient::connect(address);
        assert_eq!(journal.wait(1), ["Local"], "{dispatch:?}");
        let error = client.rest().expect_err("it was cut off");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{dispatch:?}");
    }
}

/// One byte in each record, with a seal that is longer than that: the rate counts what the reader
/// gets. A large record that comes slowly, but fast enough, is not cut.
#[test]
fn a_trickle_of_small_records_is_cut_and_a_slow_record_is_not() {
    const RATE: ReceiveRate = ReceiveRate { bytes: 100, per: Duration::from_millis(900) };
    for dispatch in modes() {
        let journal = Journal::default();
        let builder = EventLoop::builder()
            .on_request(|(): &mut (), conn: &mut Connection| {
                let line = conn.reader().until(b'\n')?.to_vec();
                conn.writer().write_bytes(&line);
                Ok(())
            })
            .on_disconnect(journal.on_disconnect())
            .min_receive_rate(RATE)
            .dispatch(dispatch);
        let (_serving, address) = serve(builder, Toys::default());
        let mut slow = ToyClient::connect(address);
        let mut line = vec![b'x'; 3000];
        line.push(b'\n');
        let record = slow.toy.record(DATA, &line);
        for part in record.chunks(50) {
            slow.socket.write_all(part).expect("sent");
            crate::util::quiet(20); // the pace: 2 250 bytes where 100 are asked for
        }
        assert!(slow.hear(line.len()).expect("an echo") == line, "{dispatch:?}");
        assert_eq!(journal.len(), 0, "{dispatch:?}");

        let mut trickling = ToyClient::connect(address);
        let begun = Instant::now();
        while journal.len() == 0 {
            assert!(begun.elapsed() < PATIENCE, "{dispatch:?}: it is not cut");
            let _ = trickling.send(b"x");
            crate::util::quiet(20); // the pace: 45 bytes where 100 are asked for
        }
        assert_eq!(journal.entries(), ["Timeout"], "{dispatch:?}");
    }
}
