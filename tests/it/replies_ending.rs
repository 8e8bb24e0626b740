//! Deferred replies whose peer has ended its stream, has vanished or is slow; closes behind them;
//! many at once. And holds without a reply.

use std::collections::HashSet;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use netpoll::codec::{Frame, LengthPrefix};
use netpoll::{
    CloseReason, Connection, Dispatch, Error, EventLoop, Handle, Hold, Out, Reply, Result,
};

use crate::replies::{ANY_ORDER, IN_ORDER, Later, Terms, answering, framed, next};
use crate::util::{
    Client, Count, Journal, PATIENCE, Random, Server, echo_once, eventually, lock, modes, quiet,
};

/// A server that defers each answer, and closes behind those before `quit`.
fn deferring(
    terms: Terms,
    dispatch: Dispatch,
    journal: &Journal,
) -> (Server, Receiver<(Vec<u8>, Later)>) {
    let (sender, replies) = mpsc::channel();
    let answer = move |frame: Frame<'_>, out: &mut Out<'_, LengthPrefix>| {
        let call = frame.bytes().to_vec();
        if call == b"quit" {
            out.send(b"bye")?;
            out.close();
            return Ok(());
        }
        let _ = sender.send((call, out.defer()));
        Ok(())
    };
    let builder = answering(terms, journal, answer).dispatch(dispatch).input_limit(64);
    (Server::start(builder), replies)
}

fn say(client: &mut TcpStream, payloads: &[&[u8]]) {
    client.say(&framed(payloads.iter().copied()));
}

/// The end of its stream came with more calls than may be outstanding, and than the input holds.
#[test]
fn a_peer_that_has_ended_its_stream_gets_all_of_its_replies() -> Result<()> {
    let calls: Vec<[u8; 4]> = (0..100_u32).map(u32::to_be_bytes).collect();
    let stream = framed(calls.iter().map(|call| &call[..]));
    for terms in [ANY_ORDER, IN_ORDER] {
        for (at_most, dispatch) in [1, 2, 256].into_iter().flat_map(|n| modes().map(|it| (n, it))) {
            let journal = Journal::default();
            let (server, replies) = deferring(Terms { at_most, ..terms }, dispatch, &journal);
            let mut client = server.connect();
            client.say(&stream);
            client.half_close();
            for _ in 0..calls.len() {
                let (call, reply) = next(&replies);
                reply.send(&call)?;
            }
            assert_eq!(client.rest(), stream, "{dispatch:?}, {at_most}");
            assert_eq!(journal.wait(1), ["Peer"]);
        }
    }
    Ok(())
}

#[test]
fn a_peer_that_has_reset_ends_the_wait_for_its_replies() {
    for terms in [ANY_ORDER, IN_ORDER] {
        for (at_most, dispatch) in [1, 256].into_iter().flat_map(|n| modes().map(|it| (n, it))) {
            let journal = Journal::default();
            let (server, replies) = deferring(Terms { at_most, ..terms }, dispatch, &journal);
            let mut client = server.connect();
            say(&mut client, &[b"d1"]);
            let (_, reply) = next(&replies);
            assert!(!reply.is_gone());
            client.reset();
            assert_eq!(journal.wait(1), ["Reset"], "{dispatch:?}, {at_most}");
            assert!(reply.is_gone());
            let error = reply.send(b"for nobody").expect_err("it is gone");
            assert!(matches!(error, Error::Closed | Error::Io(_)), "{error:?}");
        }
    }
}

#[test]
fn a_close_behind_replies_waits_for_them_and_one_of_a_handle_does_not() -> Result<()> {
    for terms in [ANY_ORDER, IN_ORDER] {
        for dispatch in modes() {
            let journal = Journal::default();
            let (server, replies) = deferring(terms, dispatch, &journal);
            let mut client = server.connect();
            say(&mut client, &[b"d1", b"d2", b"quit", b"not decoded"]);
            let [(_, one), (_, two)] = [(); 2].map(|()| next(&replies));
            two.send(b"two")?;
            one.send(b"one")?;
            let expected: [&[u8]; 3] =
                if terms.in_order { [b"one", b"two", b"bye"] } else { [b"bye", b"two", b"one"] };
            let mut heard = client.rest();
            if !terms.in_order {
                // The first reply may leave before the frames of the callback do.
                assert_eq!(heard.len(), framed(expected).len(), "{heard:?}");
                heard = framed(expected);
            }
            assert_eq!(heard, framed(expected), "{dispatch:?}");
            assert_eq!(journal.wait(1), ["Local"]);
            assert!(replies.try_recv().is_err());

            let mut client = server.connect();
            say(&mut client, &[b"d1"]);
            let (_, reply) = next(&replies);
            reply.handle().close();
            assert_eq!(client.rest(), b"");
            assert!(matches!(reply.send(b"late"), Err(Error::Closed)));
        }
    }
    Ok(())
}

/// Completed by threads that race, while the peer reads slowly and little may be queued.
#[test]
fn each_of_many_replies_arrives_once() -> Result<()> {
    const CALLS: u32 = 3_000;
    for terms in [ANY_ORDER, IN_ORDER] {
        for (at_most, dispatch) in [7, 256].into_iter().flat_map(|n| modes().map(|it| (n, it))) {
            let (sender, work) = mpsc::channel::<(Vec<u8>, Later)>();
            let answer = move |frame: Frame<'_>, out: &mut Out<'_, LengthPrefix>| {
                let call = frame.bytes().to_vec();
                match call[3] % 3 {
                    0 => out.send(&call),
                    1 => out.defer().send(&call),
                    _ => {
                        let _ = sender.send((call, out.defer()));
                        Ok(())
                    }
                }
            };
            let builder = answering(Terms { at_most, ..terms }, &Journal::default(), answer);
            let server = Server::start(builder.dispatch(dispatch).output_limits(500, 2_000));
            let work = Arc::new(Mutex::new(work));
            let workers = (0..3_u64).map(|seed| (seed, work.clone()));
            let workers: Vec<_> =
                workers.map(|it| thread::spawn(move || answer_at_random(it))).collect();
            drop(work);
            let mut client = server.connect();
            let mut sender = client.try_clone()?;
            let calls = (0..CALLS).map(u32::to_be_bytes).collect::<Vec<_>>();
            let stream = framed(calls.iter().map(|call| &call[..]));
            let sent = stream.clone();
            let sending = thread::spawn(move || {
                sender.say(&sent);
                sender.half_close();
            });
            let heard = client.rest();
            sending.join().expect("all is sent");
            if terms.in_order {
                assert!(heard == stream, "{dispatch:?}, {at_most}: {} bytes", heard.len());
            }
            let ids: HashSet<&[u8]> = heard.chunks(8).collect();
            assert_eq!((heard.len(), ids.len()), (stream.len(), CALLS as usize), "{dispatch:?}");
            drop(server);
            for worker in workers {
                worker.join().expect("no panic");
            }
        }
    }
    Ok(())
}

/// Work that several threads take from.
type Work = Arc<Mutex<Receiver<(Vec<u8>, Later)>>>;

/// Takes work, and answers it in another order than it came.
fn answer_at_random((seed, work): (u64, Work)) {
    let (mut random, mut held) = (Random::new(seed), Vec::new());
    loop {
        let taken = lock(&work).recv_timeout(Duration::from_millis(1));
        let keep = match taken {
            Ok(one) => {
                held.push(one);
                4
            }
            Err(mpsc::RecvTimeoutError::Timeout) => 0,
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        };
        while held.len() > keep {
            let (call, reply) = held.swap_remove(random.below(held.len()));
            reply.send(&call).expect("the peer is there");
        }
    }
}

/// Threads complete replies that stand beside each other, at the same time.
#[test]
fn replies_in_order_do_not_overtake_each_other_between_threads() -> Result<()> {
    const CALLS: u32 = 40_000;
    let calls = (0..CALLS).map(u32::to_be_bytes).collect::<Vec<_>>();
    let stream = framed(calls.iter().map(|call| &call[..]));
    let (sender, replies) = mpsc::channel::<(Vec<u8>, Later)>();
    let answer = move |frame: Frame<'_>, out: &mut Out<'_, LengthPrefix>| {
        let _ = sender.send((frame.bytes().to_vec(), out.defer()));
        Ok(())
    };
    let terms = Terms { in_order: true, at_most: usize::MAX };
    let server = Server::start(answering(terms, &Journal::default(), answer));
    let mut client = server.connect();
    client.say(&stream);
    let all: Vec<_> = calls.iter().map(|_| Mutex::new(Some(next(&replies)))).collect();
    let (all, taken) = (Arc::new(all), Count::default());
    let completing = [(); 3].map(|()| {
        let (all, taken) = (all.clone(), taken.clone());
        thread::spawn(move || -> Result<()> {
            while let Some(one) = all.get(taken.add()) {
                let (call, reply) = lock(one).take().expect("taken once");
                reply.send(&call)?;
            }
            Ok(())
        })
    });
    client.half_close();
    assert!(client.rest() == stream);
    for thread in completing {
        thread.join().expect("no panic")?;
    }
    Ok(())
}

/// One call fits into the input, and one reply may be outstanding: the others stand in the kernel.
#[test]
fn a_graceful_shutdown_answers_the_calls_behind_the_outstanding_ones() -> Result<()> {
    let calls: Vec<[u8; 4]> = (0..300_u32).map(u32::to_be_bytes).collect();
    let stream = framed(calls.iter().map(|call| &call[..]));
    for terms in [ANY_ORDER, IN_ORDER] {
        for dispatch in modes() {
            let (sender, replies) = mpsc::channel();
            let answer = move |frame: Frame<'_>, out: &mut Out<'_, LengthPrefix>| {
                let _ = sender.send((frame.bytes().to_vec(), out.defer()));
                Ok(())
            };
            let journal = Journal::default();
            let builder = answering(Terms { at_most: 1, ..terms }, &journal, answer);
            let server = Server::start(builder.dispatch(dispatch).input_limit(8));
            let mut client = server.connect();
            client.say(&stream);
            let mut first = Some(next(&replies));
            server.event_loop.shutdown(PATIENCE);
            for _ in &calls {
                let (call, reply) = first.take().unwrap_or_else(|| next(&replies));
                reply.send(&call)?;
            }
            assert!(client.rest() == stream, "{dispatch:?}");
            assert_eq!(journal.wait(1), ["Shutdown"]);
            assert_eq!(server.join().aborted, 0);
        }
    }
    Ok(())
}

/// A receipt runs on the thread that sends, where a lock held during the send would be met again.
#[test]
fn a_receipt_may_complete_a_reply_of_its_connection() -> Result<()> {
    for dispatch in modes() {
        let (server, replies) = deferring(IN_ORDER, dispatch, &Journal::default());
        let mut client = server.connect();
        say(&mut client, &[b"d1", b"d2"]);
        let [(_, one), (_, two)] = [(); 2].map(|()| next(&replies));
        let handle = one.handle().clone();
        handle.send_with(framed([&b"first"[..]]), move |_| {
            two.send(b"two").expect("the peer is there");
        })?;
        one.send(b"one")?;
        client.hear(&framed([&b"first"[..], b"one", b"two"]));
    }
    Ok(())
}

/// A server that hands out holds with their handles, for each byte one.
fn holding(dispatch: Dispatch, journal: &Journal) -> (Server, Receiver<Hold>) {
    let (sender, holds) = mpsc::channel();
    let told = journal.clone();
    let builder = EventLoop::builder()
        .on_request(move |(): &mut (), conn: &mut Connection| {
            for _ in 0..conn.reader().len() {
                conn.reader().skip(1)?;
                let _ = sender.send(conn.hold()?);
            }
            Ok(())
        })
        .on_disconnect(move |(): (), why: &CloseReason| told.add(format!("{why:?}")))
        .idle_timeout(Duration::from_millis(500))
        .dispatch(dispatch);
    (Server::start(builder), holds)
}

#[test]
fn a_held_connection_ends_with_its_last_hold_and_not_before() {
    for dispatch in modes() {
        let journal = Journal::default();
        let (server, holds) = holding(dispatch, &journal);
        let mut client = server.connect();
        client.say(b"12");
        client.half_close();
        let [one, two] = [(); 2].map(|()| next(&holds));
        server.event_loop.shutdown(PATIENCE);
        drop(one);
        quiet(700);
        assert_eq!(journal.entries(), [""; 0], "{dispatch:?}: idle, ended and shut down");
        assert!(two.handle().send("an answer").is_ok());
        drop(two);
        assert_eq!(client.rest(), b"an answer");
        assert_eq!(journal.wait(1), ["Peer"], "{dispatch:?}");
        assert_eq!(server.join().aborted, 0);
    }
}

#[test]
fn a_hold_keeps_no_connection_whose_peer_is_gone_or_that_this_side_closes() {
    for dispatch in modes() {
        let ends: [fn(TcpStream, &Handle); 4] = [
            |client, _| client.reset(),
            |_, handle| handle.close(),
            |_, handle| handle.abort(),
            |_, handle| handle.close_at(Some(std::time::Instant::now())),
        ];
        for end in ends {
            let journal = Journal::default();
            let (server, holds) = holding(dispatch, &journal);
            let mut client = server.connect();
            client.say(b"1");
            let hold = next(&holds);
            let (handle, kept) = (hold.handle(), client.try_clone().expect("a descriptor"));
            end(client, &handle);
            drop(kept);
            journal.wait(1);
            eventually("it is gone", || handle.is_gone());
            assert!(matches!(handle.hold(), Err(Error::Closed)));
            drop(hold);
        }
    }
}

/// The input is full, and the end of the peer's stream stands behind it.
#[test]
fn a_held_connection_keeps_what_its_callback_leaves_unread() {
    for dispatch in modes() {
        let (sender, holds) = mpsc::channel();
        let (journal, gate) = (Journal::default(), Arc::new(AtomicBool::new(false)));
        let reads = gate.clone();
        let builder = EventLoop::builder()
            .on_request(move |(): &mut (), conn: &mut Connection| {
                if reads.load(Ordering::SeqCst) {
                    return echo_once(conn);
                }
                let _ = sender.send(conn.hold()?);
                Ok(())
            })
            .on_disconnect(journal.on_disconnect())
            .input_limit(4)
            .dispatch(dispatch);
        let server = Server::start(builder);
        let mut client = server.connect();
        client.say(b"12345678");
        client.half_close();
        let hold = next(&holds);
        eventually("it sees the end", || !hold.handle().is_active());
        quiet(20);
        assert_eq!(journal.entries(), [""; 0], "{dispatch:?}");
        gate.store(true, Ordering::SeqCst);
        hold.handle().wake();
        drop((hold, holds));
        assert_eq!(client.rest(), b"12345678", "{dispatch:?}");
        assert_eq!(journal.wait(1), ["Peer"]);
    }
}

/// The connection would wait for ever behind a reply that was lost with its own encoder.
#[test]
fn a_reply_outlives_its_server() {
    let (server, replies) = deferring(ANY_ORDER, Dispatch::Inline, &Journal::default());
    let mut client = server.connect();
    say(&mut client, &[b"d1", b"d2"]);
    let [one, two]: [Reply<LengthPrefix>; 2] = [(); 2].map(|()| next(&replies).1);
    drop(server);
    assert!(one.send(b"nobody serves").is_err());
    drop(two);
}
