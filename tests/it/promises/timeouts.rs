//! Deadlines and timeouts: what each ends, what postpones it, and what it leaves alone.

use std::io::Read;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use netpoll::{Connection, Error, EventLoop, Handle, Keepalive, ReceiveRate, Result, Wait};

use super::{AT_ONCE, handing_out, next, pair, telling};
use crate::util::{
    Client, Gate, Journal, PATIENCE, Server, echo, echo_once, eventually, hand_off, modes, noise,
    pool, quiet,
};

/// Each wait is given the whole of [`PATIENCE`], so that only the deadline can end it in time.
#[test]
fn a_deadline_ends_a_wait_that_has_begun() {
    type Operation = fn(&mut Connection) -> Result<()>;
    type End = fn(&Handle);
    let read: Operation = |conn| conn.reader().peek(1000).map(drop);
    let write: Operation = |conn| {
        conn.writer().write_bytes(noise(1, 16 << 20));
        conn.writer().flush()
    };
    let ends: [(Operation, End, Wait); 2] = [
        (read, |handle| handle.set_read_deadline(Some(Instant::now())), Wait::Read),
        (write, |handle| handle.set_write_deadline(Some(Instant::now())), Wait::Write),
    ];
    for (operation, end, wait) in ends {
        let (builder, handles) = handing_out();
        let (sender, reports) = mpsc::channel();
        let server = Server::start(
            builder
                .on_request(move |(): &mut (), conn: &mut Connection| {
                    let _ = sender.send("begun".to_owned());
                    let error = operation(conn).expect_err("an end to the wait");
                    let kept = conn.reader().len();
                    let _ = sender.send(format!("{error:?}, {kept} kept, {}", conn.is_active()));
                    Ok(())
                })
                .read_timeout(PATIENCE)
                .write_timeout(PATIENCE)
                .dispatch(pool()),
        );
        let mut client = server.connect();
        let handle = next(&handles);
        client.say(b"12345");
        assert_eq!(next(&reports), "begun");
        eventually("what it writes is queued", || wait == Wait::Read || handle.is_congested());
        quiet(20); // it waits by then; were it not, the outcome would be the same
        let begun = Instant::now();
        end(&handle);
        assert_eq!(next(&reports), format!("{}, 5 kept, true", Error::TimedOut(wait)));
        assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    }
}

#[test]
fn a_deadline_that_has_passed_lets_through_what_need_not_wait() -> Result<()> {
    let (mut conn, mut peer) = pair()?;
    peer.say(b"12345");
    conn.reader().peek(5)?;
    conn.set_read_deadline(Some(Instant::now()));
    assert_eq!(conn.reader().next(2)?, b"12", "it is buffered");
    assert!(matches!(conn.reader().next(4), Err(Error::TimedOut(Wait::Read))));
    assert_eq!(conn.reader().next(3)?, b"345", "the failed read kept it");
    conn.set_read_deadline(None);
    peer.say(b"later");
    assert_eq!(conn.reader().next(5)?, b"later");

    conn.set_write_deadline(Some(Instant::now()));
    conn.writer().write_bytes(b"it fits the socket");
    conn.writer().flush()?;
    peer.hear(b"it fits the socket");
    conn.writer().write_bytes(noise(1, 16 << 20));
    assert!(matches!(conn.writer().flush(), Err(Error::TimedOut(Wait::Write))));
    conn.set_write_deadline(None);
    peer.hear(noise(1, 16 << 20));
    conn.writer().flush()
}

#[test]
fn a_deadline_can_be_put_off_while_a_read_waits() -> Result<()> {
    let (mut conn, mut peer) = pair()?;
    let handle = conn.handle();
    conn.set_read_deadline(Some(Instant::now() + Duration::from_secs(1)));
    let waiting = thread::spawn(move || conn.reader().next(5).map(<[u8]>::to_vec));
    handle.set_read_deadline(None);
    quiet(1200); // longer than the first deadline
    peer.say(b"hello");
    assert_eq!(waiting.join().expect("a reader")?, b"hello");
    Ok(())
}

/// Bytes either way postpone it: one client only sends, one only receives, and one does nothing.
#[test]
fn an_idle_timeout_ends_only_a_connection_on_which_nothing_passes() {
    const IDLE: Duration = Duration::from_millis(1500);
    for dispatch in modes() {
        let (builder, handles) = handing_out();
        let journal = Journal::default();
        let server = Server::start(
            builder
                .on_request(|(): &mut (), conn: &mut Connection| {
                    let len = conn.reader().len();
                    conn.reader().skip(len)
                })
                .on_disconnect(telling(&journal))
                .idle_timeout(IDLE)
                .dispatch(dispatch),
        );
        let mut sending = server.connect();
        let sender = next(&handles);
        let mut receiving = server.connect();
        let receiver = next(&handles);
        let begun = Instant::now();
        let mut silent = server.connect();
        let silence = thread::spawn(move || (silent.rest().len(), begun.elapsed()));
        let mut last = begun;
        while begun.elapsed() < 2 * IDLE {
            last = Instant::now();
            sending.say(b"x");
            receiver.send("x").expect("it is not idle");
            receiving.hear(b"x");
            quiet(20); // much less than the timeout
        }
        let (heard, after) = silence.join().expect("a client");
        assert!(heard == 0 && after >= IDLE && after < AT_ONCE, "{dispatch:?}: {after:?}");
        assert_eq!(journal.entries(), ["Timeout(Idle)"]);
        assert!(
            sender.is_active() && receiver.is_active(),
            "{dispatch:?}: {:?}",
            journal.entries()
        );
        assert_eq!(journal.wait(3), ["Timeout(Idle)"; 3]);
        assert!(last.elapsed() >= IDLE, "{dispatch:?}: after {:?}", last.elapsed());
    }
}

#[test]
fn a_connection_whose_callback_works_is_not_idle() {
    const IDLE: Duration = Duration::from_millis(500);
    let journal = Journal::default();
    let (gate, (entered, inside)) = (Gate::default(), mpsc::channel());
    let closed = gate.clone();
    let server = Server::start(
        EventLoop::builder()
            .on_request(move |(): &mut (), conn: &mut Connection| {
                let _ = entered.send(());
                closed.pass();
                echo_once(conn)
            })
            .on_disconnect(telling(&journal))
            .idle_timeout(IDLE)
            .dispatch(pool()),
    );
    let mut client = server.connect();
    client.say(b"long work");
    next(&inside);
    quiet(1500);
    assert_eq!(journal.len(), 0);
    gate.open();
    client.hear(b"long work");
    assert_eq!(client.rest(), b"");
    assert_eq!(journal.wait(1), ["Timeout(Idle)"]);
}

#[test]
fn a_first_byte_that_does_not_come_ends_the_connection() {
    // Long enough for the connection to begin on a loaded machine: before that no callback can
    // receive the reason.
    const FIRST: Duration = Duration::from_millis(700);
    for dispatch in modes() {
        let journal = Journal::default();
        let server = Server::start(
            echo().on_disconnect(telling(&journal)).first_byte_timeout(FIRST).dispatch(dispatch),
        );
        let begun = Instant::now();
        let (mut silent, mut speaking) = (server.connect(), server.connect());
        // One that is late here, on a loaded machine, has been ended by right.
        let spoke = std::io::Write::write_all(&mut speaking, b"x").is_ok()
            && begun.elapsed() < FIRST
            && speaking.read_exact(&mut [0]).is_ok();
        assert_eq!(silent.rest(), b"");
        assert!(begun.elapsed() >= FIRST, "{dispatch:?}: after {:?}", begun.elapsed());
        assert_eq!(journal.wait(1)[0], "Timeout(FirstByte)", "{dispatch:?}");
        if spoke {
            quiet(FIRST.as_millis() as u64);
            speaking.echo(b"nothing hurries me now");
        }
    }
}

/// A byte now and then is cut; a whole request at once, and then silence for long, is not.
#[test]
fn a_trickle_is_cut_and_an_idle_connection_is_not() {
    const RATE: ReceiveRate = ReceiveRate { bytes: 100, per: Duration::from_millis(300) };
    for dispatch in modes() {
        let journal = Journal::default();
        let server = Server::start(
            EventLoop::builder()
                .on_request(|(): &mut (), conn: &mut Connection| {
                    let line = conn.reader().until(b'\n')?.to_vec();
                    conn.writer().write_bytes(&line);
                    Ok(())
                })
                .on_disconnect(telling(&journal))
                .min_receive_rate(RATE)
                .dispatch(dispatch),
        );
        let mut idle = server.connect();
        idle.echo(b"a line\n");
        let begun = Instant::now();
        let mut trickling = server.connect();
        while journal.len() == 0 {
            assert!(begun.elapsed() < PATIENCE, "{dispatch:?}: it is not cut");
            let _ = std::io::Write::write_all(&mut trickling, b"x");
            quiet(20); // the pace of the trickle: 15 bytes where 100 are asked for
        }
        assert!(begun.elapsed() >= RATE.per, "{dispatch:?}: cut after {:?}", begun.elapsed());
        assert_eq!(journal.entries(), ["Timeout(Rate)"], "{dispatch:?}");
        quiet(2 * RATE.per.as_millis() as u64);
        idle.echo(b"another line\n");
        assert_eq!(journal.len(), 1);
    }
}

#[test]
fn a_time_to_close_comes_whatever_passes_and_can_be_taken_back() {
    for dispatch in modes() {
        let (builder, handles) = handing_out();
        let journal = Journal::default();
        let server = Server::start(
            builder
                .on_request(|(): &mut (), conn: &mut Connection| echo_once(conn))
                .on_disconnect(telling(&journal))
                .dispatch(dispatch),
        );
        let mut client = server.connect();
        let handle = next(&handles);
        handle.close_at(Some(Instant::now() + Duration::from_secs(1)));
        handle.close_at(None);
        quiet(1200);
        client.echo(b"still there");
        let begun = Instant::now();
        handle.close_at(Some(begun + Duration::from_millis(200)));
        while journal.len() == 0 {
            assert!(begun.elapsed() < PATIENCE, "{dispatch:?}: it never comes");
            let _ = std::io::Write::write_all(&mut client, b"x");
            quiet(5); // something always passes
        }
        assert!(begun.elapsed() >= Duration::from_millis(200), "{:?}", begun.elapsed());
        assert_eq!(journal.entries(), ["Timeout(Deadline)"], "{dispatch:?}");
    }
}

/// What times out ends a wait that a callback is in as well, and says which limit it was.
#[test]
fn a_limit_of_time_ends_a_wait_and_names_itself() {
    let (builder, handles) = handing_out();
    let (journal, (sender, reports)) = (Journal::default(), mpsc::channel());
    let server = Server::start(
        builder
            .on_request(move |(): &mut (), conn: &mut Connection| {
                let _ = sender.send("begun".to_owned());
                let error = conn.reader().peek(1000).expect_err("no more comes");
                let _ = sender.send(format!("{error:?}"));
                Err(error)
            })
            .on_disconnect(telling(&journal))
            .dispatch(pool()),
    );
    let mut client = server.connect();
    client.say(b"12345");
    assert_eq!(next(&reports), "begun");
    next(&handles).close_at(Some(Instant::now() + Duration::from_millis(50)));
    assert_eq!(next(&reports), Error::TimedOut(Wait::Deadline).to_string());
    assert_eq!(journal.wait(1), ["Timeout(Deadline)"]);
}

/// The kernel's own probes and its patience for acknowledgements reach the socket.
#[test]
fn the_kernels_timeouts_reach_the_socket() {
    const PROBES: Keepalive =
        Keepalive { idle: Duration::from_secs(7), interval: Duration::from_secs(3), count: 4 };
    fn told(conn: &Connection) -> String {
        let socket = socket2::SockRef::from(conn);
        let time = |time: std::io::Result<Duration>| time.expect("an option").as_secs();
        format!(
            "{} {}/{}/{} {:?}",
            socket.keepalive().expect("an option"),
            time(socket.tcp_keepalive_time()),
            time(socket.tcp_keepalive_interval()),
            socket.tcp_keepalive_retries().expect("an option"),
            socket.tcp_user_timeout().expect("an option"),
        )
    }
    for dispatch in modes() {
        let (sender, reports) = mpsc::channel();
        let server = Server::start(
            EventLoop::builder()
                .on_request(move |(): &mut (), conn: &mut Connection| {
                    conn.set_keepalive(Some(PROBES))?;
                    conn.set_user_timeout(Some(Duration::from_secs(9)))?;
                    let _ = sender.send(told(conn));
                    conn.set_keepalive(None)?;
                    conn.set_user_timeout(None)?;
                    let _ = sender.send(told(conn));
                    echo_once(conn)
                })
                .dispatch(dispatch),
        );
        server.connect().echo(b"hello");
        assert_eq!(next(&reports), "true 7/3/4 Some(9s)", "{dispatch:?}");
        let after = next(&reports);
        assert!(after.starts_with("false") && after.ends_with("None"), "{dispatch:?}: {after}");
    }
}

/// Where flushes may wait. The linger time is an hour, which the connection must not get on top.
#[test]
fn a_peer_that_took_nothing_for_the_write_timeout_is_reset_at_once() {
    for dispatch in [pool(), hand_off()] {
        let journal = Journal::default();
        let builder = EventLoop::builder()
            .on_request(|(): &mut (), conn: &mut Connection| {
                conn.writer().write_bytes(noise(1, 16 << 20));
                conn.writer().flush()
            })
            .on_disconnect(journal.on_disconnect())
            .write_timeout(Duration::from_millis(100))
            .linger(Duration::from_secs(3600))
            .dispatch(dispatch);
        let server = Server::start(builder);
        let mut client = server.connect();
        client.say(b"!");
        assert_eq!(journal.wait(1), ["Timeout"], "{dispatch:?}");
        let error = client.read_to_end(&mut Vec::new()).expect_err("it is cut short");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{dispatch:?}");
    }
}
