//! What one thread does in one callback leaves in its order: what it writes and does not flush, and
//! what it then sends by a handle.

use std::io::Write;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use netpoll::{
    Bytes, Connection, Delivery, DialConnection, Dialer, Dispatch, Error, EventLoop,
    EventLoopBuilder, Handle, Limits, LinkBuffer, Result,
};

use crate::util::{Client, Gate, Journal, PATIENCE, Random, Server, is_filtered, modes, noise};

/// A builder whose session is a handle that `on_connect` keeps: one that was made elsewhere.
fn keeping_a_handle(
    act: impl Fn(&mut Connection, &Handle) -> Result<()> + Send + Sync + 'static,
) -> EventLoopBuilder<Handle> {
    EventLoop::builder().on_prepare(|conn: &Connection| Ok(conn.handle())).on_request(
        move |handle: &mut Handle, conn: &mut Connection| {
            let asked = conn.reader().len();
            conn.reader().skip(asked)?;
            act(conn, handle)
        },
    )
}

/// A client asks once, and hears what the callback did.
#[track_caller]
fn asks_and_hears(builder: EventLoopBuilder<Handle>, heard: &[u8]) {
    let server = Server::start(builder);
    let mut client = server.connect();
    client.say(b"?");
    client.hear(heard);
}

/// A dialled connection and its peer, which is not ours.
fn pair() -> Result<(Connection, std::net::TcpStream)> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    let conn = Dialer::new(Limits::default())?.dial_connection("tcp", &address, PATIENCE)?;
    let (peer, _) = listener.accept()?;
    peer.set_read_timeout(Some(PATIENCE))?;
    Ok((conn, peer))
}

/// Writes, sends and flushes in a random order, by all that can write and send. Returns what the
/// peer must receive.
fn act_at_random(conn: &mut Connection, handle: &Handle, seed: u64) -> Result<Vec<u8>> {
    let (mut random, mut expected) = (Random::new(seed), Vec::new());
    for turn in 0..60 {
        let piece = noise(seed as usize % 1000 + 31 * turn, random.size(10));
        expected.extend_from_slice(piece);
        match random.below(14) {
            0 => conn.writer().write_bytes(piece),
            1 => conn.writer().append(LinkBuffer::from(piece.to_vec())),
            2 => conn.writer().write_shared(Bytes::copy_from_slice(piece)),
            3 => conn.writer().write_direct(Bytes::copy_from_slice(piece), 0)?,
            4 => conn.write_all(piece)?,
            5 => conn.writer().malloc(piece.len()).copy_from_slice(piece),
            6 => conn.writer().buf().write_bytes(piece),
            7 => handle.send_buffer(LinkBuffer::from(piece.to_vec()))?,
            8 => handle.send_with(Bytes::copy_from_slice(piece), |_| ())?,
            9 => handle.send_wait(Bytes::copy_from_slice(piece), None)?,
            10 => conn.handle().send(Bytes::copy_from_slice(piece))?,
            _ => handle.send(Bytes::copy_from_slice(piece))?,
        }
        match random.below(8) {
            0 => conn.writer().flush()?,
            1 => drop(conn.reader().try_peek(1)),
            _ => {}
        }
    }
    Ok(expected)
}

#[test]
fn what_one_thread_writes_and_sends_in_one_callback_leaves_in_its_order() {
    let seed = Random::seed();
    for dispatch in modes() {
        let (sender, expected) = mpsc::channel();
        let builder = keeping_a_handle(move |conn, handle| {
            let seed = seed.wrapping_add(u64::from(conn.bytes_received() as u32));
            let _ = sender.send(act_at_random(conn, handle, seed)?);
            Ok(())
        });
        let server = Server::start(builder.dispatch(dispatch));
        let mut client = server.connect();
        for _ in 0..40 {
            client.say(b"?");
            let expected = expected.recv_timeout(PATIENCE).expect("it acts");
            let mut heard = vec![0; expected.len()];
            std::io::Read::read_exact(&mut client, &mut heard).expect("the peer answers");
            assert!(heard == expected, "seed {seed}, {dispatch:?}: another order");
        }
    }
}

#[test]
fn the_order_is_kept_in_every_callback_in_jobs_and_in_timers() {
    for dispatch in modes() {
        let say = |conn: &mut Connection, what: &'static str| {
            conn.writer().write_string("<");
            conn.handle().send(what)?;
            conn.writer().write_string(">");
            Result::Ok(())
        };
        let server = Server::start(
            EventLoop::builder()
                .on_connect(move |(): &mut (), conn: &mut Connection| say(conn, "connect"))
                .on_request(move |(): &mut (), conn: &mut Connection| {
                    let asked = conn.reader().len();
                    conn.reader().skip(asked)?;
                    say(conn, "request")?;
                    conn.handle().run(move |conn| {
                        say(conn, "job")?;
                        let timer = move |conn: &mut Connection| say(conn, "timer");
                        conn.handle().run_after(Duration::ZERO, timer).map(drop)
                    })
                })
                .on_shutdown(move |(): &mut (), conn: &mut Connection| say(conn, "shutdown"))
                .dispatch(dispatch),
        );
        let mut client = server.connect();
        client.hear(b"<connect>");
        client.say(b"?");
        client.hear(b"<request><job><timer>");
        let (event_loop, mut rest) = (server.event_loop.clone(), client);
        let stopping = thread::spawn(move || event_loop.shutdown(PATIENCE));
        rest.hear(b"<shutdown>");
        stopping.join().expect("no panic");
    }
}

/// A write that flushes first, because the high-water mark allows no more, is one as any other.
#[test]
fn what_is_written_in_portions_comes_before_a_send() {
    const HIGH: usize = 64 << 10;
    for dispatch in modes() {
        let builder = keeping_a_handle(|conn, handle| {
            conn.write_all(noise(1, HIGH + 1000))?;
            handle.send(", sent; ")?;
            conn.writer().write_bytes(noise(2, HIGH));
            conn.reader().try_peek(1).expect_err("nothing has come"); // asks for a flush
            conn.writer().write_bytes(noise(3, 1000));
            handle.send("sent")
        });
        let server = Server::start(builder.output_limits(HIGH / 4, HIGH).dispatch(dispatch));
        let mut client = server.connect();
        client.say(b"?");
        client.hear(noise(1, HIGH + 1000));
        client.hear(b", sent; ");
        client.hear(noise(2, HIGH));
        client.hear(noise(3, 1000));
        client.hear(b"sent");
    }
}

/// A borrow of the writer's buffer outlives the send: what is written by it comes first.
#[test]
fn what_is_lent_of_the_writer_while_a_handle_sends_comes_first() {
    for dispatch in modes() {
        let builder = keeping_a_handle(|conn, handle| {
            let mut writer = conn.writer();
            let slot = writer.malloc(6);
            handle.send(" sent")?;
            slot.copy_from_slice(b"malloc");
            writer.write_string(" written");
            let buffer = writer.buf();
            buffer.write_bytes(b" lent");
            handle.send(" sent again")?;
            buffer.write_bytes(b" still lent");
            Ok(())
        });
        asks_and_hears(
            builder.dispatch(dispatch),
            b"malloc sent written lent still lent sent again",
        );
    }
}

/// A frame that is under construction when a handle sends is finished, not cut.
#[test]
fn a_reservation_is_shortened_after_a_send() {
    for dispatch in modes() {
        let builder = keeping_a_handle(|conn, handle| {
            conn.writer().malloc(100).fill(b'x');
            handle.send("|sent")?;
            conn.writer().malloc_ack(3)?;
            conn.writer().write_direct(Bytes::from_static(b"-"), 1)?;
            Ok(())
        });
        asks_and_hears(builder.dispatch(dispatch), b"xx-x|sent");
    }
}

/// The other thread's message may follow from the one that waits, so it does not overtake it.
#[test]
fn what_other_threads_send_meanwhile_stands_behind_it() {
    for dispatch in modes() {
        let builder = keeping_a_handle(|conn, handle| {
            conn.writer().write_string("written");
            handle.send(", sent")?;
            let other = handle.clone();
            let sending = thread::spawn(move || other.send(", sent by another thread"));
            sending.join().expect("no panic")?;
            assert_eq!(handle.pending(), ", sent, sent by another thread".len());
            Ok(())
        });
        asks_and_hears(builder.dispatch(dispatch), b"written, sent, sent by another thread");
    }
}

/// Only what this thread has written makes its messages wait.
#[test]
fn a_send_of_another_thread_does_not_wait_for_what_a_callback_has_written() {
    for dispatch in modes() {
        let (gate, written) = (Gate::default(), Gate::default());
        let (opens, begun) = (gate.clone(), written.clone());
        let (sender, handles) = mpsc::channel();
        let builder = keeping_a_handle(move |conn, handle| {
            conn.writer().write_string("written");
            let _ = sender.send(handle.clone());
            begun.open();
            opens.pass();
            Ok(())
        });
        let server = Server::start(builder.dispatch(dispatch));
        let mut client = server.connect();
        client.say(b"?");
        written.pass();
        let handle = handles.recv_timeout(PATIENCE).expect("a handle");
        handle.send("sent at once, ").expect("accepted");
        client.hear(b"sent at once, ");
        gate.open();
        client.hear(b"written");
    }
}

#[test]
fn a_reader_that_is_asked_for_sends_both_before_a_read_waits() {
    for dispatch in modes() {
        let builder = keeping_a_handle(|conn, handle| {
            conn.writer().write_string("written");
            handle.send(", sent")?;
            conn.reader().skip(1)?; // waits, or is called again
            handle.send(", done")
        });
        let server = Server::start(builder.dispatch(dispatch));
        let mut client = server.connect();
        client.say(b"?");
        client.hear(b"written, sent");
        client.say(b"!");
    }
}

#[test]
fn a_receipt_is_told_when_the_flush_has_passed_its_message_on() {
    for dispatch in modes() {
        let journal = Journal::default();
        let told = journal.clone();
        let builder = keeping_a_handle(move |conn, handle| {
            for _ in 0..2 {
                conn.writer().write_string("written");
                let told = told.clone();
                let receipt = move |delivery: Delivery| told.add(format!("{}", delivery.is_ok()));
                handle.send_with(", sent; ", receipt)?;
            }
            told.add("flush");
            conn.writer().flush()
        });
        let server = Server::start(builder.dispatch(dispatch));
        let mut client = server.connect();
        client.say(b"?");
        client.hear(b"written, sent; written, sent; ");
        // The second write passed the first message on.
        assert_eq!(journal.wait(3), ["true", "flush", "true"], "{dispatch:?}");
    }
}

#[test]
fn a_callback_that_fails_drops_what_it_wrote_and_not_what_it_sent() {
    for dispatch in modes() {
        let builder = keeping_a_handle(|conn, handle| {
            conn.writer().write_string("kept, ");
            handle.send("sent, ")?;
            conn.writer().write_string("half a mess");
            handle.send("sent again")?;
            match conn.bytes_received() {
                1 => Err(Error::config("this callback fails")),
                _ => panic!("this callback panics"),
            }
        });
        let server = Server::start(builder.dispatch(dispatch));
        for asked in [&b"?"[..], b"??"] {
            let mut client = server.connect();
            client.say(asked);
            assert_eq!(client.rest(), b"kept, sent, sent again", "{dispatch:?}");
        }
    }
}

#[test]
fn a_close_by_a_handle_comes_after_what_its_thread_wrote_before() {
    type End = fn(&mut Connection) -> Result<()>;
    let ends: [End; 3] = [
        |_| Ok(()),
        |conn| Ok(conn.writer().write_all(b", too late")?),
        |conn| conn.writer().flush(),
    ];
    for (dispatch, end) in modes().into_iter().flat_map(|it| ends.map(|end| (it, end))) {
        let builder = keeping_a_handle(move |conn, handle| {
            conn.writer().write_string("written");
            handle.send(", sent")?;
            conn.writer().write_string(", goodbye");
            handle.close();
            assert!(matches!(handle.send("late"), Err(Error::Closed)));
            end(conn)
        });
        let server = Server::start(builder.dispatch(dispatch));
        let mut client = server.connect();
        client.say(b"?");
        assert_eq!(client.rest(), b"written, sent, goodbye", "{dispatch:?}");
    }
}

/// What was accepted is sent before an orderly close, whoever closes: also where the callback
/// never flushes.
#[test]
fn what_waits_for_a_flush_is_sent_if_another_thread_closes() {
    for dispatch in modes() {
        let (gate, closed) = (Gate::default(), Gate::default());
        let (opens, begun) = (closed.clone(), gate.clone());
        let (sender, handles) = mpsc::channel();
        let builder = keeping_a_handle(move |conn, handle| {
            conn.writer().write_string("written, ");
            handle.send("sent")?;
            let _ = sender.send(handle.clone());
            begun.open();
            opens.pass();
            Ok(())
        });
        let server = Server::start(builder.dispatch(dispatch));
        let mut client = server.connect();
        client.say(b"?");
        gate.pass();
        handles.recv_timeout(PATIENCE).expect("a handle").close();
        closed.open();
        let heard = client.rest();
        assert!(heard.ends_with(b"sent"), "{dispatch:?}: {}", String::from_utf8_lossy(&heard));
    }
}

#[test]
fn a_message_that_waits_is_told_to_be_lost_by_an_abort() {
    for dispatch in modes() {
        let (sender, receipts) = mpsc::channel();
        let builder = keeping_a_handle(move |conn, handle| {
            conn.writer().write_string("written");
            let sender = sender.clone();
            handle.send_with("sent", move |delivery| drop(sender.send(delivery)))?;
            conn.abort();
            Ok(())
        });
        let server = Server::start(builder.dispatch(dispatch));
        let mut client = server.connect();
        client.say(b"?");
        let lost = receipts.recv_timeout(PATIENCE).expect("told").expect_err("aborted");
        assert_eq!((lost.written, matches!(lost.error, Error::Closed)), (0, true));
        let end = std::io::Read::read(&mut client, &mut [0; 8]);
        assert!(end.is_err(), "{dispatch:?}: {end:?} is no reset");
    }
}

/// What waits is bounded, and a thread does not wait for room that only its own flush makes.
#[test]
fn what_waits_for_a_flush_is_bounded_and_no_wait_for_it_hangs() {
    const HIGH: usize = 64 << 10;
    const MESSAGE: usize = 1000;
    for dispatch in modes() {
        let journal = Journal::default();
        let told = journal.clone();
        let builder = keeping_a_handle(move |conn, handle| {
            conn.writer().write_string("#");
            let mut accepted = 0;
            let refused = loop {
                match handle.send(noise(accepted, MESSAGE)) {
                    Ok(()) => accepted += 1,
                    Err(error) => break error,
                }
            };
            assert!(matches!(refused, Error::Full), "{refused}");
            assert!((HIGH..=HIGH + MESSAGE).contains(&(accepted * MESSAGE)), "{accepted}");
            let refused = handle.send_wait("more", None).expect_err("it would wait for itself");
            assert!(refused.to_string().contains("flush them first"), "{refused}");
            assert!(handle.is_congested());
            conn.writer().flush()?;
            // The socket had room for all of it.
            told.add(format!("{} {:?}", handle.is_congested(), handle.wait_for_room(None)));
            Ok(())
        });
        let server = Server::start(builder.output_limits(HIGH / 4, HIGH).dispatch(dispatch));
        let mut client = server.connect();
        client.say(b"?");
        client.hear(b"#");
        for message in 0..=HIGH / MESSAGE {
            client.hear(noise(message, MESSAGE));
        }
        assert_eq!(journal.wait(1), ["false Ok(())"], "{dispatch:?}");
    }
}

/// A peer that takes nothing: the backlog stands first, and the water marks are told as ever.
#[test]
fn the_order_is_kept_behind_a_backlog_and_the_water_marks_are_told() {
    const MUCH: usize = 8 << 20;
    for dispatch in modes() {
        let (journal, rounds) = (Journal::default(), 3);
        let (above, below) = (journal.clone(), journal.clone());
        let builder = keeping_a_handle(move |conn, handle| {
            for round in 0..rounds {
                conn.writer().write_shared(Bytes::from_static(noise(round, MUCH)));
                handle.send_buffer(LinkBuffer::from(noise(100 + round, MUCH)))?;
            }
            Ok(())
        });
        let server = Server::start(
            builder
                .on_high_water(move |_: &mut Handle, _: &mut Connection| {
                    above.add("high");
                    Ok(())
                })
                .on_drain(move |_: &mut Handle, _: &mut Connection| {
                    below.add("drain");
                    Ok(())
                })
                .dispatch(dispatch),
        );
        let mut client = server.connect();
        client.say(b"?");
        journal.wait(1);
        for round in 0..rounds {
            client.hear(noise(round, MUCH));
            client.hear(noise(100 + round, MUCH));
        }
        assert_eq!(journal.wait(2), ["high", "drain"], "{dispatch:?}");
    }
}

/// The reactor meets the reset while the callback still has bytes that it did not flush.
#[test]
fn a_failed_socket_tells_the_receipts_of_what_waits() {
    const MUCH: usize = 16 << 20;
    for dispatch in modes() {
        let (begun, told) = (Gate::default(), Gate::default());
        let (begins, waits) = (begun.clone(), told.clone());
        let (sender, receipts) = mpsc::channel();
        let builder = keeping_a_handle(move |conn, handle| {
            conn.writer().write_shared(Bytes::from_static(noise(1, MUCH)));
            conn.writer().flush()?;
            conn.writer().write_string("written");
            let sender = sender.clone();
            handle.send_with("sent", move |delivery| drop(sender.send(delivery)))?;
            begins.open();
            if !matches!(dispatch, Dispatch::Inline) {
                waits.pass(); // there the loop goes on meanwhile
            }
            Ok(())
        });
        let server = Server::start(builder.output_limits(MUCH, 2 * MUCH).dispatch(dispatch));
        let mut client = server.connect();
        client.say(b"?");
        begun.pass();
        client.reset();
        let lost = receipts.recv_timeout(PATIENCE).expect("told").expect_err("it was reset");
        assert_eq!(lost.written, 0, "{dispatch:?}");
        told.open();
        drop(server);
        assert!(receipts.recv().is_err(), "{dispatch:?}: told twice");
    }
}

#[test]
fn a_write_of_nothing_keeps_no_message_back() {
    for dispatch in modes() {
        let builder = keeping_a_handle(|conn, handle| {
            conn.writer().write_bytes(b"");
            handle.send("first, ")?;
            conn.writer().write_bytes(b"taken out again");
            conn.writer().malloc_ack(0)?;
            handle.send("second, ")?;
            conn.writer().flush()?;
            conn.writer().write_string("");
            handle.send("third")
        });
        asks_and_hears(builder.dispatch(dispatch), b"first, second, third");
    }
}

#[test]
fn a_detach_passes_on_what_waits() {
    for dispatch in modes().into_iter().filter(|_| !is_filtered()) {
        let (sender, detached) = mpsc::channel();
        let builder = keeping_a_handle(move |conn, handle| {
            conn.writer().write_string("written");
            handle.send(", sent")?;
            let _ = sender.send(conn.detach()?);
            Ok(())
        });
        let server = Server::start(builder.dispatch(dispatch));
        let mut client = server.connect();
        client.say(b"?");
        let detached = detached.recv_timeout(PATIENCE).expect("it detaches");
        assert_eq!(detached.output.len(), 0, "{dispatch:?}: the socket had room");
        client.hear(b"written, sent");
        drop(detached);
        assert_eq!(client.rest(), b"");
    }
}

#[test]
fn a_dialled_connection_keeps_the_order_of_its_thread() -> Result<()> {
    let (mut conn, mut peer) = pair()?;
    let handle = conn.handle();
    let seed = Random::seed();
    for round in 0..20 {
        let expected = act_at_random(&mut conn, &handle, seed.wrapping_add(round))?;
        conn.writer().flush()?;
        let mut heard = vec![0; expected.len()];
        std::io::Read::read_exact(&mut peer, &mut heard)?;
        assert!(heard == expected, "seed {seed}, round {round}: another order");
    }
    conn.writer().write_string("");
    handle.send("behind nothing; ")?;
    conn.writer().flush()?;
    peer.hear(b"behind nothing; ");
    conn.writer().write_string("written");
    handle.send(", sent")?;
    drop(conn);
    assert_eq!(peer.rest(), b"written, sent");
    Ok(())
}

#[test]
fn the_halves_of_a_dialled_connection_keep_the_order_of_their_threads() -> Result<()> {
    let (mut conn, mut peer) = pair()?;
    conn.writer().write_string("written");
    conn.handle().send(", sent")?;
    let (mut read, mut write) = conn.into_split();
    peer.hear(b"written, sent");
    write.writer().write_string(", written");
    read.handle().send(", sent")?;
    let other = read.handle();
    let sending = thread::spawn(move || other.send(", by another"));
    sending.join().expect("no panic")?;
    peer.say(b"!");
    read.reader().skip(1)?;
    write.writer().write_string("");
    write.handle().send(", behind nothing")?;
    drop(write);
    peer.hear(b", written, sent, by another, behind nothing");
    drop(read);
    assert_eq!(peer.rest(), b"");
    Ok(())
}

/// The owner holds a dialled connection and does nothing: a close by another thread sends what was
/// accepted, and the stream ends.
#[test]
fn a_close_of_an_idle_dialled_connection_sends_what_waits() -> Result<()> {
    for end in [Handle::close as fn(&Handle), Handle::shutdown_write] {
        let (mut conn, mut peer) = pair()?;
        let handle = conn.handle();
        conn.writer().write_string("written");
        handle.send(noise(1, 3 << 20))?;
        thread::spawn(move || end(&handle)).join().expect("no panic");
        assert!(peer.rest() == noise(1, 3 << 20));
        drop(conn);
    }
    Ok(())
}

/// The connection has gone to another thread: that one passes the message on.
#[test]
fn a_connection_that_changes_its_thread_loses_no_message() -> Result<()> {
    let (mut conn, mut peer) = pair()?;
    let handle = conn.handle();
    conn.writer().write_string("written");
    handle.send(", sent")?;
    let conn = thread::spawn(move || {
        conn.writer().write_string(", written there");
        conn.handle().send(", sent there").expect("accepted");
        conn
    });
    let mut conn = conn.join().expect("no panic");
    conn.writer().flush()?;
    peer.hear(b"written, sent, written there, sent there");
    Ok(())
}
