//! Bugs of what a connection promises beside its bytes: water marks, pauses, limits, jobs,
//! receipts, detaching.

use std::cell::Cell;
use std::io::Write;
use std::net::TcpStream;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use netpoll::{
    Bytes, Connection, DialConnection, Dialer, Error, EventLoop, Handle, Limits, LoadBalance,
    PollManager, ReceiveRate, Wait,
};

use super::{Gate, pool_of};
use crate::util::{
    Client, Count, Journal, PATIENCE, Server, echo, echo_once, eventually, hand_off, is_filtered,
    modes, noise, pool, quiet,
};

/// More than all socket buffers between two ends take.
const MUCH: usize = 16 << 20;

/// Counts when it is let go of, and panics.
struct Grenade(Count);

impl Drop for Grenade {
    fn drop(&mut self) {
        self.0.add();
        panic!("told to");
    }
}

/// Reported: after a flush that had waited, `on_high_water` ran when the queue had fallen already,
/// and `on_drain` never ran, so a sender that had stopped did not go on.
#[test]
fn a_high_water_mark_that_is_told_late_is_followed_by_the_low_one() {
    for dispatch in [pool(), hand_off()] {
        let journal = Journal::default();
        let [high, low] = [(); 2].map(|()| journal.clone());
        let (sender, handles) = mpsc::channel();
        let server = Server::start(
            EventLoop::builder()
                .on_request(move |(): &mut (), conn: &mut Connection| {
                    let _ = sender.send(conn.handle());
                    let (mut reader, mut writer) = conn.split();
                    reader.skip(reader.len())?;
                    writer.write_shared(Bytes::from_static(noise(1, MUCH)));
                    writer.flush()
                })
                .on_high_water(move |(): &mut (), _: &mut Connection| {
                    high.add("high");
                    Ok(())
                })
                .on_drain(move |(): &mut (), _: &mut Connection| {
                    low.add("low");
                    Ok(())
                })
                .dispatch(dispatch),
        );
        let mut client = server.connect();
        client.say(b"?");
        let handle = handles.recv_timeout(PATIENCE).expect("it is served");
        // A peer that reads at once may be as fast as the sender.
        eventually("the queue is full", || handle.is_congested());
        client.hear(noise(1, MUCH));
        assert_eq!(journal.wait(2), ["high", "low"], "{dispatch:?}");
    }
}

/// Reported: what a callback had left in the buffer as it paused was not served after the resume,
/// unless the peer sent more, which it won't before its answer.
#[test]
fn what_a_pausing_callback_left_is_served_after_the_resume() {
    for dispatch in modes() {
        let (sender, handles) = mpsc::channel();
        let paused = Count::default();
        let server = Server::start(
            EventLoop::builder()
                .on_request(move |(): &mut (), conn: &mut Connection| {
                    if paused.add() > 0 {
                        return echo_once(conn);
                    }
                    conn.pause_reading();
                    let _ = sender.send(conn.handle());
                    Ok(())
                })
                .dispatch(dispatch),
        );
        let mut client = server.connect();
        client.say(b"a request");
        let handle = handles.recv_timeout(PATIENCE).expect("it is served");
        handle.resume_reading();
        client.hear(b"a request");
    }
}

/// Reported: a connection whose session kept as much as `held_limit` allows never saw the end of
/// its peer, so it never ended and never let go of it.
#[test]
fn a_peer_that_goes_is_noticed_by_who_holds_all_it_may() {
    for dispatch in modes() {
        for reset in [false, true] {
            let journal = Journal::default();
            let server = Server::start(
                EventLoop::builder()
                    .on_prepare(|_: &Connection| Ok(Vec::new()))
                    .on_request(|session: &mut Vec<Bytes>, conn: &mut Connection| {
                        let mut reader = conn.reader();
                        session.push(reader.read_bytes(reader.len())?);
                        Ok(())
                    })
                    .on_disconnect(journal.on_disconnect())
                    .input_limit(4 << 10)
                    .held_limit(8 << 10)
                    .dispatch(dispatch),
            );
            let mut client = server.connect();
            client.say(noise(1, 64 << 10));
            eventually("it stops", || server.event_loop.memory().pauses > 0);
            if reset {
                client.reset();
            } else {
                drop(client);
            }
            assert_eq!(journal.wait(1).len(), 1, "{dispatch:?}");
        }
    }
}

/// Reported: a connection that held all it may was looked at a hundred times a second, and counted
/// as paused each time, though its peer had sent nothing.
#[test]
fn nobody_looks_for_bytes_that_were_not_sent() {
    let (sender, kept) = mpsc::channel();
    let server = Server::start(
        EventLoop::builder()
            .on_prepare(|_: &Connection| Ok(Vec::new()))
            .on_request(move |session: &mut Vec<Bytes>, conn: &mut Connection| {
                let mut reader = conn.reader();
                session.push(reader.read_bytes(reader.len())?);
                let _ = sender.send(conn.handle());
                Ok(())
            })
            .input_limit(1 << 10)
            .held_limit(1 << 10),
    );
    let mut client = server.connect();
    for _ in 0..5 {
        client.say(&[b'.'; 250]);
        let handle: Handle = kept.recv_timeout(PATIENCE).expect("it is kept");
        handle.wake();
        kept.recv_timeout(PATIENCE).expect("it is called without bytes as well");
    }
    quiet(100);
    assert_eq!(server.event_loop.memory().pauses, 0);
}

/// Reported: a peer that we don't receive from was ended for sending slowly.
#[test]
fn a_paused_peer_is_not_slow() {
    for dispatch in modes() {
        let journal = Journal::default();
        let (sender, handles) = mpsc::channel();
        let calls = Count::default();
        let server = Server::start(
            EventLoop::builder()
                .on_request(move |(): &mut (), conn: &mut Connection| {
                    if calls.add() == 0 {
                        conn.pause_reading();
                        let _ = sender.send(conn.handle());
                    }
                    Ok(())
                })
                .on_disconnect(journal.on_disconnect())
                .min_receive_rate(ReceiveRate { bytes: 1000, per: Duration::from_millis(20) })
                .dispatch(dispatch),
        );
        let mut client = server.connect();
        client.say(b"a part of a request");
        let handle: Handle = handles.recv_timeout(PATIENCE).expect("it is served");
        client.say(b", and the rest of it");
        quiet(100);
        assert_eq!(journal.entries(), [""; 0], "{dispatch:?}");
        // Once it is received from, it is as slow as any.
        handle.resume_reading();
        assert_eq!(journal.wait(1), ["Timeout"], "{dispatch:?}");
    }
}

/// Reported: a dialled connection that had once waited for the rest of an answer was ended for
/// receiving slowly, though nothing was asked for any more.
#[test]
fn a_dialled_connection_that_waits_for_nothing_is_not_slow() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let rate = ReceiveRate { bytes: 1, per: Duration::from_secs(1) };
    let limits = Limits { min_receive_rate: Some(rate), ..Limits::default() };
    let dialer = Dialer::new(limits).expect("limits that can be used");
    let mut conn = dialer.dial_connection("tcp", &address, PATIENCE).expect("a connection");
    let (mut peer, _) = listener.accept().expect("a connection");
    peer.say(b"an ");
    conn.reader().peek(3).expect("a part");
    let answering = thread::spawn(move || {
        quiet(30); // so that the rest is waited for
        peer.say(b"answer");
        peer
    });
    assert_eq!(conn.reader().next(9).expect("all of it"), b"an answer");
    let _peer = answering.join().expect("a peer");
    quiet(3000);
    assert!(conn.is_active());
}

/// Reported: a thread that waited for room went on waiting when the connection's owner set the
/// write deadline.
#[test]
fn a_write_deadline_of_the_owner_ends_the_waits_of_others() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let mut conn = netpoll::dial_connection("tcp", &address, PATIENCE).expect("a connection");
    let _peer_that_never_reads = listener.accept().expect("a connection");
    let handle = conn.handle();
    handle.send(noise(1, MUCH)).expect("below the mark one message is taken whole");
    let (sender, outcome) = mpsc::channel();
    thread::spawn(move || sender.send(handle.wait_for_room(Some(Instant::now() + PATIENCE * 2))));
    quiet(20);
    conn.set_write_deadline(Some(Instant::now()));
    let outcome = outcome.recv_timeout(PATIENCE).expect("the wait ends");
    assert!(matches!(outcome, Err(Error::TimedOut(Wait::Write))), "{outcome:?}");
}

/// Reported: after a detach and an abort, the last close of the socket reset the connection, and
/// the reason that `on_disconnect` got was not the detach.
#[test]
fn an_abort_does_not_reach_what_was_detached() {
    if is_filtered() {
        return; // a detach is refused
    }
    for dispatch in modes() {
        let journal = Journal::default();
        let (sender, sockets) = mpsc::channel();
        let server = Server::start(
            EventLoop::builder()
                .on_request(move |(): &mut (), conn: &mut Connection| {
                    let _ = sender.send(conn.detach()?.socket);
                    conn.abort();
                    Ok(())
                })
                .on_disconnect(journal.on_disconnect())
                .dispatch(dispatch),
        );
        let mut client = server.connect();
        client.say(b"?");
        let mut socket = TcpStream::from(sockets.recv_timeout(PATIENCE).expect("a socket"));
        assert_eq!(journal.wait(1), ["Detached"], "{dispatch:?}");
        assert_eq!(server.stop().aborted, 0);
        socket.set_nonblocking(false).expect("an option");
        socket.write_all(b"farewell").expect("it is connected");
        drop(socket);
        assert_eq!(client.rest(), b"farewell");
    }
}

/// Reported: a job whose time came after the connection's end was let go of by the reactor, and a
/// panic in what it had captured took that down.
#[test]
fn a_job_that_panics_as_it_is_dropped_harms_no_other_connection() {
    let (gate, dropped) = (Gate::default(), Count::default());
    let (passed, grenades) = (gate.clone(), dropped.clone());
    let server = Server::start(
        EventLoop::builder()
            .on_request(move |(): &mut (), conn: &mut Connection| {
                if conn.reader().peek(1)? == b"=" {
                    return echo_once(conn);
                }
                let (passed, grenade) = (passed.clone(), Grenade(grenades.clone()));
                conn.add_close_callback(move || passed.pass());
                conn.handle().run_after(Duration::from_millis(1), move |_| {
                    let _held = &grenade;
                    Ok(())
                })?;
                // Until the job's time has come, the end of the connection is stopped at the gate.
                conn.close();
                Ok(())
            })
            .dispatch(pool_of(2, 16, PATIENCE))
            .loops(1),
    );
    let mut bystander = server.connect();
    bystander.echo(b"=before");
    let mut client = server.connect();
    client.say(b"?");
    eventually("the job is dropped", || dropped.get() == 1);
    bystander.echo(b"=after");
    gate.open();
    assert_eq!(client.rest(), b"");
    assert_eq!(server.stop().aborted, 0);
}

/// Reported: a tick that was ended while it ran was let go of by its loop, and a panic in what it
/// had captured took that down.
#[test]
fn a_tick_that_panics_as_it_is_dropped_harms_no_loop() {
    let manager = PollManager::new(1, LoadBalance::default()).expect("a loop");
    let (gate, dropped, (sender, ticked)) = (Gate::default(), Count::default(), mpsc::channel());
    let (passed, grenade) = (gate.clone(), Grenade(dropped.clone()));
    let ticks = manager.run_every(Duration::from_millis(1), move |_| {
        let _held = &grenade;
        let _ = sender.send(());
        passed.pass();
    });
    ticked.recv_timeout(PATIENCE).expect("a tick");
    ticks.expect("a period").cancel();
    gate.open();
    eventually("it is dropped", || dropped.get() == 1);
    let (sender, ticked) = mpsc::channel();
    let _ticks = manager.run_every(Duration::from_millis(1), move |_| {
        let _ = sender.send(());
    });
    ticked.recv_timeout(PATIENCE).expect("the loop goes on");
}

thread_local! {
    static TELLING: Cell<bool> = const { Cell::new(false) };
}

/// Sends so many messages, each when the one before has been sent; says at last whether receipts
/// were told one after the other.
fn send_one_by_one(handle: &Handle, left: usize, apart: mpsc::Sender<bool>) {
    let again = handle.clone();
    let receipt = move |delivery: netpoll::Delivery| {
        delivery.expect("it is sent");
        if TELLING.replace(true) {
            let _ = apart.send(false);
        } else if left == 0 {
            let _ = apart.send(true);
        } else {
            send_one_by_one(&again, left - 1, apart);
        }
        TELLING.set(false);
    };
    handle.send_with("a message", receipt).expect("there is room");
}

/// Reported: a receipt that sent the next message was told of that one from within itself, one
/// deeper for each message, until the stack was used up.
#[test]
fn receipts_that_send_are_told_one_after_the_other() {
    let (sender, handles) = mpsc::channel();
    let server = Server::start(echo().on_connect(move |(): &mut (), conn: &mut Connection| {
        let _ = sender.send(conn.handle());
        Ok(())
    }));
    let mut client = server.connect();
    let (sender, apart) = mpsc::channel();
    send_one_by_one(&handles.recv_timeout(PATIENCE).expect("a handle"), 1000, sender);
    client.hear(&b"a message".repeat(1001));
    assert!(apart.recv_timeout(PATIENCE).expect("all are told"));
}

/// Reported: a receipt that waited for room waited on a reactor that was to make it.
#[test]
fn a_receipt_may_not_wait() {
    let (sender, handles) = mpsc::channel();
    let server = Server::start(echo().on_connect(move |(): &mut (), conn: &mut Connection| {
        let _ = sender.send(conn.handle());
        Ok(())
    }));
    let _client_that_never_reads = server.connect();
    let full = handles.recv_timeout(PATIENCE).expect("a handle");
    full.send(noise(1, MUCH)).expect("below the mark one message is taken whole");
    let mut client = server.connect();
    let handle = handles.recv_timeout(PATIENCE).expect("another");
    let (sender, outcome) = mpsc::channel();
    let waiting = move |_| {
        let _ = sender.send(full.wait_for_room(Some(Instant::now())));
    };
    handle.send_with("a message", waiting).expect("there is room");
    client.hear(b"a message");
    let error = outcome.recv_timeout(PATIENCE).expect("told").expect_err("it must not wait");
    assert!(matches!(error, Error::Config(_)), "{error:?}");
}

/// Reported: a callback that wanted to go on in a further callback needed a handle for that.
#[test]
fn a_callback_that_wakes_its_own_connection_is_called_again() {
    for dispatch in modes() {
        let server = Server::start(
            EventLoop::builder()
                .on_request(|(): &mut (), conn: &mut Connection| {
                    let byte = conn.reader().try_read_byte()?;
                    conn.wake();
                    conn.writer().write_byte(byte);
                    Ok(())
                })
                .dispatch(dispatch),
        );
        server.connect().echo(b"one byte in each callback");
    }
}

/// Reported: a callback that stopped in the middle of its input because the queue was full was not
/// called again when the queue had drained, unless more came.
#[test]
fn a_callback_that_stopped_at_the_high_water_mark_goes_on_with_its_input() {
    const ANSWER: usize = 1 << 20;
    for dispatch in modes() {
        let server = Server::start(
            EventLoop::builder()
                .on_request(|(): &mut (), conn: &mut Connection| {
                    while !conn.writer().is_congested() {
                        conn.reader().try_read_byte()?;
                        conn.writer().write_shared(Bytes::from_static(noise(2, ANSWER)));
                        conn.writer().flush()?;
                    }
                    Ok(())
                })
                .dispatch(dispatch),
        );
        let mut client = server.connect();
        client.say(&[b'x'; 20]);
        for _ in 0..20 {
            client.hear(noise(2, ANSWER));
        }
    }
}
