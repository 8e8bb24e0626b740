//! Deferred replies: what leaves when, what bounds them, and what becomes of them when the peer,
//! the connection or the server ends first.

use std::io::Read;
use std::net::TcpStream;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use netpoll::codec::{Frame, LengthPrefix};
use netpoll::{
    CloseReason, Connection, EventLoop, EventLoopBuilder, Framed, Mux, Out, Reply, Result, on_frame,
};

use crate::mux::Frames;
use crate::util::{Client, Count, Journal, PATIENCE, Server, eventually, modes, quiet};

pub(crate) type Later = Reply<LengthPrefix>;
type Session = Framed<LengthPrefix>;

/// Which options the replies have.
#[derive(Clone, Copy)]
pub(crate) struct Terms {
    pub(crate) in_order: bool,
    pub(crate) at_most: usize,
}

pub(crate) const ANY_ORDER: Terms = Terms { in_order: false, at_most: 256 };
pub(crate) const IN_ORDER: Terms = Terms { in_order: true, at_most: 256 };

fn codec() -> LengthPrefix {
    LengthPrefix::new(4, 100_000).expect("it can be")
}

/// A server that calls `answer` for each frame, and enters the reason of each end.
pub(crate) fn answering(
    terms: Terms,
    journal: &Journal,
    answer: impl Fn(Frame<'_>, &mut Out<'_, LengthPrefix>) -> Result<()> + Send + Sync + 'static,
) -> EventLoopBuilder<Session> {
    let call =
        move |(): &mut (), frame: Frame<'_>, out: &mut Out<'_, LengthPrefix>| answer(frame, out);
    let calls = on_frame(codec(), call).max_outstanding(terms.at_most);
    let calls = if terms.in_order { calls.in_order() } else { calls };
    let journal = journal.clone();
    EventLoop::builder()
        .on_prepare(|_: &Connection| Ok(Framed::new(())))
        .on_request(calls)
        .on_disconnect(move |_: Session, why: &CloseReason| journal.add(format!("{why:?}")))
}

/// A server that passes on what is to be answered later: frames that begin with `d`. It answers all
/// others with what they hold, and closes behind the answer to `quit`.
fn deferring(
    terms: Terms,
    journal: &Journal,
) -> (EventLoopBuilder<Session>, Receiver<(Vec<u8>, Later)>) {
    let (sender, replies) = mpsc::channel();
    let answer = move |frame: Frame<'_>, out: &mut Out<'_, LengthPrefix>| {
        let call = frame.bytes().to_vec();
        if call.starts_with(b"d") {
            let _ = sender.send((call, out.defer()));
            return Ok(());
        }
        if call == b"quit" {
            out.close();
        }
        out.send(&call)
    };
    (answering(terms, journal, answer), replies)
}

pub(crate) fn framed<'a>(payloads: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut stream = Vec::new();
    for payload in payloads {
        stream.extend(u32::try_from(payload.len()).expect("short").to_be_bytes());
        stream.extend(payload);
    }
    stream
}

fn say(client: &mut TcpStream, payloads: &[&[u8]]) {
    client.say(&framed(payloads.iter().copied()));
}

fn hear(client: &mut TcpStream, payloads: &[&[u8]]) {
    client.hear(&framed(payloads.iter().copied()));
}

#[track_caller]
pub(crate) fn next<T>(receiver: &Receiver<T>) -> T {
    receiver.recv_timeout(PATIENCE).expect("it happens")
}

/// The slow call is answered only after the quick one has been: were that behind it, both would
/// wait for ever.
#[test]
fn a_quick_call_is_not_answered_behind_a_slow_one() -> Result<()> {
    for dispatch in modes() {
        let (sender, slow) = mpsc::channel();
        let answer = move |frame: Frame<'_>, out: &mut Out<'_, LengthPrefix>| {
            let call = frame.bytes().to_vec();
            if !call.ends_with(b"slow") {
                return out.send(&call);
            }
            let _ = sender.send((call, out.defer()));
            Ok(())
        };
        let journal = Journal::default();
        let server = Server::start(answering(ANY_ORDER, &journal, answer).dispatch(dispatch));
        let mux = Mux::<Frames>::builder().build("tcp", &server.address.to_string(), Frames)?;
        let caller = mux.clone();
        let calling = thread::spawn(move || caller.call(b"slow".to_vec(), PATIENCE));
        let (call, reply) = next(&slow);
        for _ in 0..100 {
            assert_eq!(mux.call(b"quick".to_vec(), PATIENCE)?, b"quick");
        }
        assert!(!calling.is_finished());
        reply.send(&call)?;
        assert_eq!(calling.join().expect("no panic")?, b"slow");
    }
    Ok(())
}

#[test]
fn replies_in_order_leave_in_the_order_of_their_requests() -> Result<()> {
    for dispatch in modes() {
        let (builder, replies) = deferring(IN_ORDER, &Journal::default());
        let server = Server::start(builder.dispatch(dispatch));
        let mut client = server.connect();
        say(&mut client, &[b"1", b"d2", b"3", b"d4", b"d5", b"6"]);
        let [two, four, five] = [(); 3].map(|()| next(&replies).1);
        hear(&mut client, &[b"1"]);
        five.send(b"five")?;
        four.send(b"four")?;
        say(&mut client, &[b"7"]);
        client.set_read_timeout(Some(Duration::from_millis(50)))?;
        assert!(client.read(&mut [0]).is_err(), "nothing passes the second");
        client.set_read_timeout(Some(PATIENCE))?;
        two.send(b"two")?;
        hear(&mut client, &[b"two", b"3", b"four", b"five", b"6", b"7"]);
        say(&mut client, &[b"8"]);
        hear(&mut client, &[b"8"]);
    }
    Ok(())
}

/// With bytes that are no frame between them.
#[test]
fn a_reply_in_order_may_be_completed_by_the_callback_that_began_it() {
    for terms in [ANY_ORDER, IN_ORDER] {
        for dispatch in modes() {
            let answer = |frame: Frame<'_>, out: &mut Out<'_, LengthPrefix>| {
                out.writer().write_bytes(b"<");
                let reply = out.defer();
                out.writer().write_bytes(b">");
                reply.send(frame.bytes())
            };
            let server = answering(terms, &Journal::default(), answer).dispatch(dispatch);
            let server = Server::start(server);
            let mut client = server.connect();
            say(&mut client, &[b"one", b"two"]);
            let mut heard = vec![0; 18];
            client.read_exact(&mut heard).expect("answers");
            let mut expected = *b"<\0\0\0\x03one><\0\0\0\x03two>";
            if !terms.in_order {
                heard.sort_unstable();
                expected.sort_unstable();
            }
            assert_eq!(heard, expected, "{dispatch:?}");
        }
    }
}

/// Nothing is received either: what the client sends fills the kernel's buffers.
#[test]
fn no_more_replies_are_outstanding_than_may_be() -> Result<()> {
    const FRAMES: usize = 5_000;
    for dispatch in modes() {
        let terms = Terms { in_order: false, at_most: 3 };
        let (builder, replies) = deferring(terms, &Journal::default());
        let server = Server::start(builder.dispatch(dispatch));
        let mut client = server.connect();
        let payload = [&b"d"[..], &[b'x'; 2_000]].concat();
        let (mut sender, sent) = (client.try_clone()?, payload.clone());
        let sending = thread::spawn(move || {
            sender.say(&framed((0..FRAMES).map(|_| &sent[..])));
        });
        let mut held: Vec<Later> = (0..3).map(|_| next(&replies).1).collect();
        quiet(50);
        assert!(replies.try_recv().is_err(), "{dispatch:?}: a fourth one");
        let received = held[0].handle().bytes_received();
        assert!(received < 1 << 20, "{dispatch:?}: {received} bytes are buffered");
        for answered in 0..FRAMES {
            held.remove(0).send(b"answered")?;
            if answered + 3 < FRAMES {
                held.push(next(&replies).1);
            }
            hear(&mut client, &[b"answered"]);
        }
        sending.join().expect("all is sent");
        assert!(held.is_empty());
    }
    Ok(())
}

/// An answer that waits behind another one is in memory: its bytes are bounded as well.
#[test]
fn answers_that_wait_for_their_turn_stop_the_reading() -> Result<()> {
    for dispatch in modes() {
        let terms = Terms { in_order: true, at_most: usize::MAX };
        let calls = Count::default();
        let (sender, replies) = mpsc::channel();
        let counted = calls.clone();
        let answer = move |_: Frame<'_>, out: &mut Out<'_, LengthPrefix>| {
            if counted.add() == 0 {
                let _ = sender.send(out.defer());
                return Ok(());
            }
            out.send(&[b'x'; 1_000])
        };
        let builder = answering(terms, &Journal::default(), answer).output_limits(1_000, 10_000);
        let server = Server::start(builder.dispatch(dispatch));
        let mut client = server.connect();
        say(&mut client, &[&b"?"[..]; 100]);
        let first = next(&replies);
        eventually("it stops", || calls.get() == 1 + 10);
        quiet(20);
        assert_eq!(calls.get(), 1 + 10, "{dispatch:?}: more than 10 000 bytes wait");
        first.send(b"at last")?;
        hear(&mut client, &[b"at last"]);
        hear(&mut client, &[&[b'x'; 1_000][..]; 99]);
    }
    Ok(())
}

#[test]
fn a_reply_that_is_dropped_closes_or_sends_what_it_was_given() {
    for terms in [ANY_ORDER, IN_ORDER] {
        for dispatch in modes() {
            let journal = Journal::default();
            let (builder, replies) = deferring(terms, &journal);
            let server = Server::start(builder.dispatch(dispatch));
            let mut client = server.connect();
            say(&mut client, &[b"d1", b"d2", b"d3", b"d4"]);
            let (_, mut one) = next(&replies);
            one.set_fallback(b"failed").expect("a frame");
            assert!(one.set_fallback(&vec![b'x'; 100_001]).is_err());
            drop(one);
            hear(&mut client, &[b"failed"]);
            let (_, mut two) = next(&replies);
            two.set_fallback(b"panicked").expect("a frame");
            let panicked = thread::spawn(move || {
                let _reply = two;
                panic!("on purpose");
            });
            assert!(panicked.join().is_err());
            hear(&mut client, &[b"panicked"]);
            let (_, mut three) = next(&replies);
            three.set_fallback(b"too long").expect("a frame");
            let error = three.send(&vec![b'x'; 100_001]).expect_err("no frame");
            assert!(error.to_string().contains("longer"), "{error}");
            hear(&mut client, &[b"too long"]);
            drop(next(&replies).1);
            assert_eq!(client.rest(), b"");
            let [reason] = &journal.wait(1)[..] else { panic!("one end") };
            assert!(reason.contains("a reply was dropped without an answer"), "{reason}");
        }
    }
}

#[test]
fn a_graceful_shutdown_waits_for_replies() -> Result<()> {
    for dispatch in modes() {
        let journal = Journal::default();
        let (builder, replies) = deferring(ANY_ORDER, &journal);
        let server = Server::start(builder.dispatch(dispatch));
        let (mut client, mut idle) = (server.connect(), server.connect());
        say(&mut idle, &[b"1"]);
        hear(&mut idle, &[b"1"]);
        say(&mut client, &[b"d1", b"d2"]);
        let [(_, one), (_, two)] = [(); 2].map(|()| next(&replies));
        server.event_loop.shutdown(PATIENCE);
        assert_eq!(idle.rest(), b""); // the shutdown has reached the connections
        two.send(b"two")?;
        hear(&mut client, &[b"two"]);
        one.send(b"one")?;
        hear(&mut client, &[b"one"]);
        assert_eq!(client.rest(), b"");
        let report = server.join();
        assert_eq!((report.closed_in_order, report.aborted), (2, 0), "{dispatch:?}");
        assert_eq!(journal.wait(2), ["Shutdown"; 2]);
    }
    Ok(())
}

#[test]
fn the_deadline_of_a_shutdown_ends_replies() {
    for terms in [ANY_ORDER, IN_ORDER] {
        for dispatch in modes() {
            let (builder, replies) = deferring(terms, &Journal::default());
            let server = Server::start(builder.dispatch(dispatch));
            let mut client = server.connect();
            say(&mut client, &[b"d1", b"d2"]);
            let [(_, one), (_, two)] = [(); 2].map(|()| next(&replies));
            server.event_loop.shutdown(Duration::from_millis(30));
            let report = server.join();
            assert_eq!((report.closed_in_order, report.aborted), (0, 1), "{dispatch:?}");
            assert!(one.is_gone());
            assert!(one.send(b"too late").is_err());
            drop(two); // outlives its connection and its loop
        }
    }
}

#[test]
fn a_connection_that_waits_for_a_reply_is_not_idle() -> Result<()> {
    let idle = Duration::from_millis(40);
    for dispatch in modes() {
        let journal = Journal::default();
        let (builder, replies) = deferring(ANY_ORDER, &journal);
        let server = Server::start(builder.dispatch(dispatch).idle_timeout(idle));
        let mut client = server.connect();
        say(&mut client, &[b"d1"]);
        let (_, reply) = next(&replies);
        quiet(200);
        assert_eq!(journal.entries(), [""; 0], "{dispatch:?}");
        reply.send(b"one")?;
        hear(&mut client, &[b"one"]);
        assert_eq!(journal.wait(1), ["Timeout(Idle)"]);
        assert_eq!(client.rest(), b"");
    }
    Ok(())
}
