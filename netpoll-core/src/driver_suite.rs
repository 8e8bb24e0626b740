//! The suite that every driver passes: each scenario runs on every medium, in two modes.
//!
//! ```text
//!                 TCP ─┐                      ┌─ Inline
//!                Unix ─┴─ epoll ─┐            │
//!              Memory ─┐         ├─ × scenario ┤
//!            Spurious ─┴─ memory ┘            └─ HandOff
//! ```
//! A scenario sees a real reactor with real callbacks from the outside: by a peer, and by what the
//! callbacks report. A new driver is one more [`Medium`].

mod peer;
mod running;

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use crate::base::clock;
use crate::base::limits::{Limits, OutputLimits};
use crate::base::notify::Notify;
use crate::connection::dialled::{Attempt, AttemptOutcome};
use crate::connection::group::ConnectionGroup;
use crate::io::listener::Listener;
use crate::io::memory::network::Queue;
use crate::io::socket::{ConnectOptions, SocketOptions};
use crate::io::stream::Stream;
use crate::threads::options::{Dispatch, HandOffOptions};
use crate::{Address, CloseReason, Connection, Result};
use peer::{PATIENCE, Peer};
use running::{Medium, Running, Seen, Service};

/// Runs a scenario on every medium and in every mode.
fn on_all(scenario: impl Fn(Medium, Dispatch)) {
    for medium in Medium::ALL {
        for dispatch in [Dispatch::Inline, Dispatch::HandOff(HandOffOptions::default())] {
            println!("on {medium:?}, {dispatch:?}"); // a failed test shows it
            scenario(medium, dispatch);
        }
    }
}

fn echo(connection: &mut Connection) -> Result<()> {
    let (mut reader, mut writer) = connection.split();
    let all = reader.len();
    writer.append(reader.slice(all)?);
    Ok(())
}

fn echoing() -> Service {
    Service { limits: Limits::default(), on_request: echo, preamble: None, room: usize::MAX }
}

/// Bytes of which each place is told from its neighbours.
fn pattern(len: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..251).collect::<Vec<_>>().repeat(len / 251 + 1);
    bytes.truncate(len);
    bytes
}

/// The peer sends, and has the same back.
fn assert_echoes(peer: &mut Peer, bytes: &[u8]) {
    peer.send(bytes);
    assert_eq!(peer.receive(bytes.len()), bytes);
}

#[test]
fn what_is_sent_is_echoed_and_the_end_is_answered() {
    on_all(|medium, dispatch| {
        let running = Running::new(medium, dispatch, &echoing());
        let mut peer = running.peer();
        let handle = running.connected();
        assert_echoes(&mut peer, b"hello");
        assert_echoes(&mut peer, b"hello again");
        peer.end();
        assert_eq!(peer.receive_all().expect("an end in order"), b"");
        assert!(matches!(running.disconnected(), CloseReason::Peer));
        running.wait_empty();
        assert_eq!((handle.bytes_received(), running.released()), (16, 1));
    });
}

#[test]
fn many_peers_are_accepted_and_served() {
    on_all(|medium, dispatch| {
        let running = Running::new(medium, dispatch, &echoing());
        let mut peers: Vec<_> = (0..50).map(|_| running.peer()).collect();
        for (number, peer) in peers.iter_mut().enumerate() {
            assert_echoes(peer, number.to_string().as_bytes());
        }
        assert_eq!(running.remote.stats().accepted, 50);
        drop(peers);
        running.wait_empty();
        assert_eq!(running.released(), 50);
    });
}

#[test]
fn peers_wait_while_there_is_no_room() {
    on_all(|medium, dispatch| {
        let running = Running::new(medium, dispatch, &Service { room: 0, ..echoing() });
        let mut peers: Vec<_> = (0..3).map(|_| running.peer()).collect();
        running.wait_turns();
        assert_eq!(running.remote.stats().accepted, 0);
        // One in each wait: the rest is found again.
        running.set_room(1);
        for peer in &mut peers {
            assert_echoes(peer, b"hello");
        }
        assert_eq!(running.remote.stats().accepted, 3);
    });
}

#[test]
fn a_request_in_many_arrivals_is_put_together() {
    on_all(|medium, dispatch| {
        let line_by_line = |connection: &mut Connection| {
            let (mut reader, mut writer) = connection.split();
            let line = reader.try_until(b'\n')?;
            writer.write_bytes(line);
            Ok(())
        };
        let service = Service { on_request: line_by_line, ..echoing() };
        let running = Running::new(medium, dispatch, &service);
        let mut peer = running.peer();
        let line = [&[b'x'; 200][..], b"\n"].concat();
        for byte in &line {
            peer.send(&[*byte]);
        }
        assert_eq!(peer.receive(line.len()), line);
    });
}

#[test]
fn what_one_pull_leaves_behind_is_pulled_next() {
    on_all(|medium, dispatch| {
        let limits = Limits { input_limit: 1000, ..Limits::default() };
        let running = Running::new(medium, dispatch, &Service { limits, ..echoing() });
        let mut peer = running.peer();
        for _ in 0..20 {
            assert_echoes(&mut peer, &pattern(10_000));
        }
    });
}

#[test]
fn much_that_arrives_at_once_is_received_whole() {
    const MUCH: usize = 1 << 20;
    on_all(|medium, dispatch| {
        let collect = |connection: &mut Connection| {
            let (mut reader, mut writer) = connection.split();
            let arrived = reader.len();
            let bytes = reader.slice(arrived)?;
            let is_last = bytes.chunks().last().is_some_and(|chunk| chunk.ends_with(b"!"));
            if is_last {
                writer.write_bytes(b"all");
            }
            Ok(())
        };
        let service = Service { on_request: collect, ..echoing() };
        let running = Running::new(medium, dispatch, &service);
        let mut peer = running.peer();
        let handle = running.connected();
        let mut bytes = vec![b'.'; MUCH];
        bytes[MUCH - 1] = b'!';
        peer.send(&bytes);
        assert_eq!(peer.receive(3), b"all");
        assert_eq!(handle.bytes_received(), MUCH as u64);
    });
}

#[test]
fn either_half_of_a_stream_ends_alone() {
    on_all(|medium, dispatch| {
        let end_first = |connection: &mut Connection| {
            let (mut reader, mut writer) = connection.split();
            let all = reader.len();
            let asked = reader.next(all)? == b"end";
            if asked {
                writer.write_bytes(b"bye");
                connection.shutdown_write();
            }
            Ok(())
        };
        let limits = Limits { half_open: true, ..Limits::default() };
        let service = Service { limits, on_request: end_first, ..echoing() };
        let running = Running::new(medium, dispatch, &service);
        let mut peer = running.peer();
        let handle = running.connected();
        peer.send(b"end");
        assert_eq!(peer.receive_all().expect("an end in order"), b"bye");
        // Our half has ended, and the peer's has not.
        peer.send(b"late");
        peer.end();
        assert!(matches!(running.disconnected(), CloseReason::Peer));
        assert_eq!(handle.bytes_received(), 7);
        running.wait_empty();
    });
}

#[test]
fn a_reset_by_the_peer_is_told_from_an_end() {
    on_all(|medium, dispatch| {
        let running = Running::new(medium, dispatch, &echoing());
        let mut peer = running.peer();
        peer.send(b"hello");
        assert_eq!(peer.receive(1), b"h");
        running.connected();
        peer.reset();
        let reason = running.disconnected();
        assert!(matches!(reason, CloseReason::Reset), "{reason}");
        running.wait_empty();
    });
}

#[test]
fn an_abort_resets_the_peer() {
    on_all(|medium, dispatch| {
        let running = Running::new(medium, dispatch, &echoing());
        let mut peer = running.peer();
        running.connected().abort();
        let end = peer.receive_all();
        // A Unix stream is reset only where bytes are unread.
        assert!(end.is_err() || medium == Medium::Unix, "{end:?}");
        assert!(matches!(running.disconnected(), CloseReason::Local));
        running.wait_empty();
    });
}

#[test]
fn a_peer_that_does_not_read_holds_the_output_up_and_nothing_is_lost() {
    // More than the kernel's buffers hold.
    const MUCH: usize = 12 << 20;
    on_all(|medium, dispatch| {
        let flood = |connection: &mut Connection| {
            let all = connection.reader().len();
            connection.reader().skip(all)?;
            connection.writer().write_shared(pattern(MUCH).into());
            Ok(())
        };
        let limits =
            Limits { output: OutputLimits { low: 16 << 10, high: 64 << 10 }, ..Limits::default() };
        let service = Service { limits, on_request: flood, ..echoing() };
        let running = Running::new(medium, dispatch, &service);
        let mut peer = running.peer();
        let handle = running.connected();
        peer.send(b"go");
        assert!(matches!(running.next(), Seen::HighWater));
        assert!(handle.is_congested() && handle.send("no room").is_err());
        assert!(peer.receive(MUCH) == pattern(MUCH), "bytes are lost, or out of order");
        assert!(matches!(running.next(), Seen::Drained));
        handle.send("more").expect("room");
        assert_eq!(peer.receive(4), b"more");
    });
}

/// The user has the descriptor from then on; a stream that has none stays where it is.
#[test]
fn a_stream_that_is_given_away_is_watched_no_more() {
    on_all(|medium, dispatch| {
        let give_away = |connection: &mut Connection| match connection.detach() {
            Ok(detached) => {
                let stream = Stream::from(detached.socket);
                stream.push(&detached.input).expect("room");
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::Unsupported => echo(connection),
            Err(error) => Err(error),
        };
        let service = Service { on_request: give_away, ..echoing() };
        let running = Running::new(medium, dispatch, &service);
        let mut peer = running.peer();
        let _handle = running.connected();
        assert_echoes(&mut peer, b"hello");
        if medium.is_memory() {
            return assert_echoes(&mut peer, b"hello again");
        }
        assert_eq!(peer.receive_all().expect("an end in order"), b"");
        let reason = running.disconnected().to_string();
        assert!(reason.contains("given away"), "{reason}");
        running.wait_empty();
    });
}

#[test]
fn a_send_of_another_thread_wakes_the_loop() {
    on_all(|medium, dispatch| {
        let running = Running::new(medium, dispatch, &echoing());
        let mut peer = running.peer();
        let handle = running.connected();
        for number in 0..200_u32 {
            // In turn a send, which this thread does itself, and a callback, which the loop does.
            handle.send(number.to_le_bytes().to_vec()).expect("an open connection");
            assert_eq!(peer.receive(4), number.to_le_bytes());
            handle
                .run(|connection| {
                    connection.writer().write_bytes(b"ran");
                    Ok(())
                })
                .expect("an open connection");
            assert_eq!(peer.receive(3), b"ran");
        }
    });
}

#[test]
fn a_stop_closes_open_connections() {
    on_all(|medium, dispatch| {
        let running = Running::new(medium, dispatch, &echoing());
        let mut peers: Vec<_> = (0..3).map(|_| running.peer()).collect();
        for peer in &mut peers {
            assert_echoes(peer, b"hello");
            running.connected();
        }
        running.remote.stop(PATIENCE);
        for mut peer in peers {
            assert!(peer.receive_all().is_ok_and(|rest| rest.is_empty()));
            assert!(matches!(running.disconnected(), CloseReason::Shutdown));
        }
        running.wait_ended();
        running.wait_empty();
    });
}

#[test]
fn a_retired_loop_serves_until_its_last_connection_ends() {
    on_all(|medium, dispatch| {
        let running = Running::new(medium, dispatch, &echoing());
        let mut peer = running.peer();
        drop(running.connected());
        running.remote.retire();
        assert!(matches!(running.next(), Seen::Retired));
        assert_echoes(&mut peer, b"hello");
        assert!(!running.remote.has_ended());
        drop(peer);
        assert!(matches!(running.disconnected(), CloseReason::Peer));
        running.wait_ended();
    });
}

#[test]
fn a_shutdown_serves_what_has_arrived() {
    on_all(|medium, dispatch| {
        let running = Running::new(medium, dispatch, &echoing());
        let (mut idle, mut busy) = (running.peer(), running.peer());
        let handles = [running.connected(), running.connected()];
        // Under Inline the loop stands still until both are there, and it is told of either first.
        let (begun, begins) = channel();
        let (go_on, waits) = channel::<()>();
        let job = move |_: &mut Connection| {
            let _ = begun.send(());
            let _ = waits.recv();
            Ok(())
        };
        handles[0].run(job).expect("an open connection");
        begins.recv().expect("the job runs");
        busy.send(b"last");
        running.remote.shut_down(&running.group);
        drop(go_on);
        assert_eq!(busy.receive_all().expect("an end in order"), b"last");
        assert_eq!(idle.receive_all().expect("an end in order"), b"");
        for _ in 0..2 {
            assert!(matches!(running.disconnected(), CloseReason::Shutdown));
        }
        running.wait_empty();
    });
}

#[test]
fn an_event_of_a_stream_that_has_gone_reaches_no_other() {
    on_all(|medium, dispatch| {
        let running = Running::new(medium, dispatch, &echoing());
        for _ in 0..20 {
            let (mut first, mut second) = (running.peer(), running.peer());
            let handles = [running.connected(), running.connected()];
            assert_echoes(&mut first, b"first");
            drop(first);
            running.disconnected();
            // It has the place of the first one in the loop's table.
            let mut third = running.peer();
            let handle = running.connected();
            assert_echoes(&mut second, b"second");
            assert_echoes(&mut third, b"third");
            assert!(handle.is_active(), "{medium:?}: it was told of another's end");
            drop((second, third, handles));
            running.disconnected();
            running.disconnected();
        }
        running.wait_empty();
        // Only this driver can be made to report one.
        let stale = running.remote.stats().stale_events;
        assert!(stale > 0 || medium != Medium::Spurious, "no event was stale");
    });
}

#[test]
fn a_preamble_comes_before_the_connection() {
    on_all(|medium, dispatch| {
        let preamble = Some((4, Duration::from_secs(3600)));
        let running = Running::new(medium, dispatch, &Service { preamble, ..echoing() });
        let mut peer = running.peer();
        peer.send(b"he");
        peer.send(b"ad");
        assert!(matches!(running.next(), Seen::Preamble(true)));
        running.connected();
        assert_echoes(&mut peer, b"body");
        // The peer ends this one before it is complete.
        let mut short = running.peer();
        short.send(b"he");
        short.end();
        assert!(matches!(running.next(), Seen::Preamble(false)));
        drop(short.receive_all());
    });
}

#[test]
fn a_preamble_that_is_late_ends() {
    on_all(|medium, dispatch| {
        let preamble = Some((4, Duration::from_millis(1)));
        let running = Running::new(medium, dispatch, &Service { preamble, ..echoing() });
        let mut peer = running.peer();
        assert!(matches!(running.next(), Seen::Preamble(false)));
        assert_eq!(peer.receive_all().expect("an end in order"), b"");
    });
}

/// A dial on the reactor of `running`, with a group of its own.
fn dial(
    running: &Running,
    to: &Address,
) -> (Arc<ConnectionGroup>, Result<Attempt, AttemptOutcome>, Arc<Notify>) {
    let group = ConnectionGroup::dialled(Limits::default()).expect("good limits");
    let notify = Arc::new(Notify::default());
    let options = ConnectOptions::default();
    let attempt = Attempt::start(to, &options, &group, &running.remote, &notify, None);
    (group, attempt, notify)
}

fn outcome_of(attempt: &mut Attempt, notify: &Arc<Notify>) -> AttemptOutcome {
    let begun = clock::now();
    loop {
        if let Some(outcome) = attempt.outcome() {
            return outcome;
        }
        notify.wait(Some(clock::now() + PATIENCE)).expect("this thread may wait");
        assert!(clock::now() < begun + PATIENCE, "no outcome");
    }
}

fn assert_left(group: &ConnectionGroup) {
    assert_eq!(group.wait_empty(clock::now() + PATIENCE), 0);
}

#[test]
fn a_dial_that_succeeds_reads_and_writes() {
    for medium in Medium::ALL {
        let running = Running::new(medium, Dispatch::Inline, &echoing());
        let host = medium.host();
        let address = host.address();
        let server = thread::spawn(move || {
            let mut peer = host.accept();
            host.remove();
            let bytes = peer.receive(4);
            peer.send(&bytes);
            peer.end();
            peer.receive_all().expect("an end in order")
        });
        let (group, attempt, notify) = dial(&running, &address);
        let mut attempt = attempt.expect("a listener");
        let outcome = outcome_of(&mut attempt, &notify);
        assert!(matches!(outcome, AttemptOutcome::Connected), "{medium:?}: {outcome}");
        let mut connection = attempt.into_connection();
        connection.writer().write_bytes(b"ping");
        connection.writer().flush().expect("an open connection");
        assert_eq!(connection.reader().next(4).expect("an answer"), b"ping");
        assert!(
            connection.reader().next(1).is_err_and(|it| matches!(it, crate::Error::EndOfStream))
        );
        drop(connection);
        assert_eq!(server.join().expect("no panic"), b"");
        assert_left(&group);
    }
}

#[test]
fn a_dial_that_is_refused_says_so() {
    for medium in Medium::ALL {
        let running = Running::new(medium, Dispatch::Inline, &echoing());
        let (group, attempt, notify) = dial(&running, &medium.nowhere());
        let outcome = match attempt {
            Ok(mut attempt) => outcome_of(&mut attempt, &notify),
            Err(outcome) => outcome,
        };
        let AttemptOutcome::Failed(error) = outcome else { panic!("{medium:?}: {outcome}") };
        let kind = error.kind();
        let is_refused = kind == ErrorKind::ConnectionRefused;
        // The path of a Unix listener that has gone.
        assert!(is_refused || kind == ErrorKind::NotFound, "{medium:?}: {error}");
        assert_left(&group);
    }
}

#[test]
fn a_dial_is_given_up_while_it_is_on_its_way() {
    for medium in [Medium::Tcp, Medium::Memory, Medium::Spurious] {
        let running = Running::new(medium, Dispatch::Inline, &echoing());
        let (silent, address) = silent_listener(medium);
        // The queue of a TCP listener takes the first of them.
        let mut dials: Vec<_> = (0..4).map(|_| dial(&running, &address)).collect();
        let (group, last, notify) = dials.pop().expect("four");
        let mut last = last.expect("it is on its way");
        // What the loop does after this comes after the registration.
        let mut peer = running.peer();
        assert_echoes(&mut peer, b"hello");
        assert!(last.outcome().is_none(), "{medium:?}: it has ended");
        drop((last, notify, dials));
        assert_left(&group);
        drop(silent);
        assert_echoes(&mut peer, b"the loop goes on");
    }
}

/// A listener that answers no dial, or only the first few.
fn silent_listener(medium: Medium) -> (Listener, Address) {
    if medium.is_memory() {
        let queue = Queue::open(true);
        let address = queue.address().into();
        return (Listener::in_memory(queue), address);
    }
    let any = Address::Inet(([127, 0, 0, 1], 0).into());
    let options = SocketOptions { backlog: Some(0), ..SocketOptions::default() };
    let listener = Listener::open(&any, &options).expect("a port");
    let address = listener.local_address().expect("an address");
    (listener, address)
}

/// Reads end at the mark of urgent data, though more has arrived.
#[test]
fn what_comes_behind_urgent_data_is_received() {
    for dispatch in [Dispatch::Inline, Dispatch::HandOff(HandOffOptions::default())] {
        let running = Running::new(Medium::Tcp, dispatch, &echoing());
        let mut peer = running.peer();
        assert_echoes(&mut peer, b"before");
        for _ in 0..100 {
            peer.send(b"a");
            let Peer::Tcp(stream) = &peer else { unreachable!("TCP") };
            crate::sys::stream::send_urgent(stream, b"!").expect("room");
            peer.send(b"b");
            assert_eq!(peer.receive(2), b"ab");
        }
    }
}
