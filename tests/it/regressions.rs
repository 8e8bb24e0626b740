//! Bugs that were reported and mended: one test each, which says what was reported.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use netpoll::{
    Bytes, CloseReason, Connection, Dispatch, Error, EventLoop, PoolOptions, Result, Source,
    dial_connection,
};

use crate::util::{
    Client, Count, Journal, PATIENCE, Server, echo_once, eventually, modes, quiet, within,
};

mod contract;
mod pool;

/// More than all socket buffers between two ends take.
const MUCH: usize = 16 << 20;
/// A linger time that runs out.
const BRIEFLY: Duration = Duration::from_millis(20);
/// What is said of locks.
const UNHARMED: &str = "nobody panics while holding it";

fn pool_of(max_threads: usize, queue: usize, idle: Duration) -> Dispatch {
    Dispatch::Pool(PoolOptions { max_threads, queue, idle })
}

/// A gate that callbacks wait at until the test opens it.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn open(&self) {
        *self.0.0.lock().expect(UNHARMED) = true;
        self.0.1.notify_all();
    }

    fn pass(&self) {
        let open = self.0.0.lock().expect(UNHARMED);
        let waited = self.0.1.wait_timeout_while(open, PATIENCE, |open| !*open);
        assert!(!waited.expect(UNHARMED).1.timed_out(), "nobody opened the gate");
    }
}

/// Reported: if the buffer was full and no callback took from it, the peer's end was never seen.
#[test]
fn a_peer_that_goes_while_the_input_is_full_is_noticed() {
    const LIMIT: usize = 16 << 10;
    for dispatch in modes() {
        for (reset, reason) in [(false, "Peer"), (true, "Reset")] {
            let (journal, full) = (Journal::default(), Count::default());
            let filled = full.clone();
            let server = Server::start(
                EventLoop::builder()
                    .on_request(move |(): &mut (), conn: &mut Connection| {
                        if conn.reader().len() == LIMIT {
                            filled.add();
                        }
                        Ok(())
                    })
                    .on_disconnect(journal.on_disconnect())
                    .input_limit(LIMIT)
                    .dispatch(dispatch),
            );
            let mut client = server.connect();
            client.say(&vec![0; 3 * LIMIT]);
            eventually("the buffer is full", || full.get() > 0);
            if reset {
                client.reset();
            } else {
                drop(client);
            }
            assert_eq!(journal.wait(1), [reason], "{dispatch:?}");
        }
    }
}

/// Reported: `Handle::wake` in `on_prepare`, before the reactor knew the connection, was lost.
#[test]
fn a_wake_from_on_prepare_calls_on_request_once() {
    for dispatch in modes() {
        let calls = Journal::default();
        let [connected, requested] = [(); 2].map(|()| calls.clone());
        let server = Server::start(
            EventLoop::builder()
                .on_prepare(|conn: &Connection| {
                    conn.handle().wake();
                    conn.handle().wake();
                    Ok(())
                })
                .on_connect(move |(): &mut (), _: &mut Connection| {
                    connected.add("connect");
                    Ok(())
                })
                .on_request(move |(): &mut (), conn: &mut Connection| {
                    requested.add("request");
                    echo_once(conn)
                })
                .dispatch(dispatch),
        );
        let mut client = server.connect();
        assert_eq!(calls.wait(2), ["connect", "request"], "{dispatch:?}");
        quiet(20);
        client.echo(b"x");
        assert_eq!(calls.entries(), ["connect", "request", "request"], "{dispatch:?}");
    }
}

/// Reported: a close whose linger time ran out before all was sent looked like a complete stream.
#[test]
fn a_close_that_loses_bytes_is_a_reset() {
    for dispatch in modes() {
        let journal = Journal::default();
        let server = Server::start(
            EventLoop::builder()
                .on_request(|(): &mut (), conn: &mut Connection| {
                    conn.writer().write_shared(Bytes::from(vec![1; MUCH]));
                    conn.close();
                    Ok(())
                })
                .on_disconnect(journal.on_disconnect())
                .linger(BRIEFLY)
                .dispatch(dispatch),
        );
        let mut client = server.connect();
        client.say(b"x");
        assert_eq!(journal.wait(1), ["Local"], "{dispatch:?}");
        // From here on nothing more is sent: the socket is closed when the server is.
        server.stop();
        let end = client.read_to_end(&mut Vec::new()).expect_err("not all was sent");
        assert_eq!(end.kind(), ErrorKind::ConnectionReset, "{dispatch:?}");
    }
}

/// Reported: each byte that arrived gave `until` the whole read timeout again.
#[test]
fn until_times_out_though_bytes_trickle() {
    let journal = Journal::default();
    let told = journal.clone();
    let server = Server::start(
        EventLoop::builder()
            .on_request(move |(): &mut (), conn: &mut Connection| {
                told.add(format!("{:?}", conn.reader().until(b'\n')));
                Ok(())
            })
            .read_timeout(Duration::from_millis(100)),
    );
    let mut client = server.connect();
    // A second, which each of these bytes would prolong.
    for _ in 0..100 {
        client.say(b"x");
        if within(Duration::from_millis(10), || journal.len() > 0) {
            break;
        }
    }
    // The next wait may have timed out, too, if we were away for long.
    assert_eq!(journal.entries()[0], "Err(timed out waiting for bytes from the peer)");
}

/// Memory that a user lends to a connection, with what happens when it is given back.
struct Lent<F: Fn()> {
    bytes: Vec<u8>,
    on_return: F,
}

impl<F: Fn()> AsRef<[u8]> for Lent<F> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl<F: Fn()> Drop for Lent<F> {
    fn drop(&mut self) {
        (self.on_return)();
    }
}

fn lend(len: usize, on_return: impl Fn() + Send + 'static) -> Bytes {
    Bytes::from_owner(Lent { bytes: vec![1; len], on_return })
}

/// How lent memory is given back: when it is sent at once, when the reactor has sent it, when it is
/// lost as the peer resets, when it is given up by a close, and when it is never sent.
const RETURNS: [&[u8]; 5] = [b"at once", b"later", b"lost", b"given up", b"unsent"];

/// What a callback does with lent memory, told by the request.
fn send_lent(conn: &mut Connection, on_return: impl Fn() + Send + 'static) -> Result<()> {
    let mut reader = conn.reader();
    let how = reader.read_bytes(reader.len())?;
    let len = if matches!(&*how, b"at once" | b"unsent") { 8192 } else { MUCH };
    conn.writer().write_shared(lend(len, on_return));
    match &*how {
        b"unsent" => return Err(Error::Closed),
        b"given up" => conn.close(),
        _ => {}
    }
    Ok(())
}

/// The client's side of it. It keeps open what the server is to close.
fn have_returned(mut client: TcpStream, how: &[u8]) -> Option<TcpStream> {
    client.say(how);
    match how {
        b"at once" => client.hear(&[1; 8192]),
        b"later" => client.hear(&vec![1; MUCH]),
        b"lost" => {
            client.hear(&[1; 8192]);
            client.reset();
            return None;
        }
        b"unsent" => assert_eq!(client.rest(), b""),
        _ => {}
    }
    Some(client)
}

/// Reported: memory was given back under the output's lock, so an owner whose `Drop` asked the
/// connection's handle for anything waited for itself for ever.
#[test]
fn lent_memory_may_use_the_connection_as_it_is_returned() {
    for dispatch in modes() {
        for how in RETURNS {
            let returned = Count::default();
            let counted = returned.clone();
            let server = Server::start(
                EventLoop::builder()
                    .on_request(move |(): &mut (), conn: &mut Connection| {
                        let (handle, counted) = (conn.handle(), counted.clone());
                        send_lent(conn, move || {
                            handle.pending();
                            counted.add();
                        })
                    })
                    .dispatch(dispatch)
                    .linger(BRIEFLY)
                    .loops(1),
            );
            let _client = have_returned(server.connect(), how);
            if !within(PATIENCE, || returned.get() == 1) {
                // A thread that waits for itself would also keep its server from ending.
                std::mem::forget(server);
                panic!("not returned when sent {}, {dispatch:?}", how.escape_ascii());
            }
        }
    }
}

/// Reported: what a callback had put into its own input, and read, was given back when the thread
/// let go of the connection, with nothing to stop a panic.
#[test]
fn lent_memory_that_was_read_panics_for_its_connection_alone() {
    for dispatch in modes() {
        let server = Server::start(
            EventLoop::builder()
                .on_request(|(): &mut (), conn: &mut Connection| {
                    if conn.reader().peek(1)? != b"!" {
                        return echo_once(conn);
                    }
                    let mut reader = conn.reader();
                    reader.skip(1)?;
                    reader.buffered().write_shared(lend(8192, || panic!("on purpose")));
                    reader.buffered().flush();
                    reader.next(8192).map(drop)
                })
                .dispatch(dispatch)
                .loops(1),
        );
        let (mut guilty, mut other) = (server.connect(), server.connect());
        other.echo(b"before");
        guilty.say(b"!");
        assert_eq!(guilty.rest(), b"", "{dispatch:?}");
        other.echo(b"after");
    }
}

/// Reported: an owner whose `Drop` panicked took its reactor or its worker down, and all other
/// connections with it.
#[test]
fn lent_memory_that_panics_as_it_is_returned_harms_no_other_connection() {
    for dispatch in [Dispatch::Inline, pool_of(1, 16, PATIENCE)] {
        let returned = Count::default();
        let counted = returned.clone();
        let server = Server::start(
            EventLoop::builder()
                .on_request(move |(): &mut (), conn: &mut Connection| {
                    if conn.reader().peek(1)? == b"=" {
                        return echo_once(conn);
                    }
                    let counted = counted.clone();
                    send_lent(conn, move || {
                        counted.add();
                        panic!("told to");
                    })
                })
                .dispatch(dispatch)
                .linger(BRIEFLY)
                .loops(1),
        );
        let mut bystander = server.connect();
        for (before, how) in RETURNS.into_iter().enumerate() {
            bystander.echo(b"=before");
            let _client = have_returned(server.connect(), how);
            eventually("it is returned", || returned.get() == before + 1);
            bystander.echo(b"=after");
            server.connect().echo(b"=anew");
        }
        assert_eq!(server.stop().aborted, 0, "{dispatch:?}");
    }
}

/// Reported: a dialled connection that was closed sent its FIN when it was dropped, not before.
#[test]
fn the_peer_of_a_dialled_connection_hears_of_its_close_at_once() {
    let closes: [fn(&mut Connection); 2] = [Connection::close, |conn| conn.handle().close()];
    for close in closes {
        for len in [3, MUCH] {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            let address = listener.local_addr().expect("an address").to_string();
            let mut conn = dial_connection("tcp", &address, PATIENCE).expect("a connection");
            let (mut peer, _) = listener.accept().expect("a connection");
            peer.set_read_timeout(Some(PATIENCE)).expect("an option");
            conn.handle().send(vec![1; len]).expect("accepted");
            close(&mut conn);
            assert_eq!(peer.rest().len(), len);
            assert!(conn.writer().write(b"late").and_then(|_| Write::flush(&mut conn)).is_err());
        }
    }
}

/// Reported: what a callback wrote behind its own `close` was sent when it returned.
#[test]
fn what_is_written_after_a_close_is_not_sent() {
    for dispatch in modes() {
        let journal = Journal::default();
        let told = journal.clone();
        let server = Server::start(
            EventLoop::builder()
                .on_request(move |(): &mut (), conn: &mut Connection| {
                    conn.writer().write_bytes(b"one");
                    conn.close();
                    conn.writer().write_bytes(b"two");
                    told.add(format!("{:?}", conn.writer().flush()));
                    conn.writer().write_bytes(b"three");
                    Ok(())
                })
                .dispatch(dispatch),
        );
        let mut client = server.connect();
        client.say(b"x");
        assert_eq!(client.rest(), b"one", "{dispatch:?}");
        assert_eq!(
            journal.entries(),
            ["Err(the connection is closed on this side)"],
            "{dispatch:?}"
        );
    }
}

/// Reported: a read ends at the mark of urgent data, which was taken for an empty socket, so what
/// stood behind it was not read until more came.
#[test]
fn bytes_behind_urgent_data_are_read() {
    for dispatch in modes() {
        let (entered, inside) = mpsc::channel();
        let gate = Gate::default();
        let closed = gate.clone();
        let server = Server::start(
            EventLoop::builder()
                .on_connect(move |(): &mut (), _: &mut Connection| {
                    let _ = entered.send(());
                    closed.pass();
                    Ok(())
                })
                .on_request(|(): &mut (), conn: &mut Connection| echo_once(conn))
                .dispatch(dispatch),
        );
        let mut client = server.connect();
        inside.recv_timeout(PATIENCE).expect("a callback");
        client.say(b"abc");
        socket2::SockRef::from(&client).send_out_of_band(b"!").expect("urgent data");
        client.say(b"def");
        gate.open();
        client.hear(b"abcdef");
        client.echo(b"ghi");
    }
}

/// Reported: `Error::Full` is of the kind `WouldBlock`, so a callback that ended by it was taken to
/// wait for more bytes, and its connection stayed.
#[test]
fn a_callback_that_fails_with_full_closes() {
    for dispatch in modes() {
        let journal = Journal::default();
        let told = journal.clone();
        let server = Server::start(
            EventLoop::builder()
                .on_request(|(): &mut (), _: &mut Connection| -> Result<()> { Err(Error::Full) })
                .on_disconnect(move |(): (), reason: &CloseReason| told.add(format!("{reason:?}")))
                .dispatch(dispatch),
        );
        let mut client = server.connect();
        client.say(b"x");
        assert_eq!(journal.wait(1), ["Limit(Output)"], "{dispatch:?}");
        assert_eq!(client.rest(), b"");
    }
}

/// Reported: a callback that answers line by line with `try_until` and meets the end of the stream
/// behind a partial line lost the answers to the whole ones.
#[test]
fn answers_given_on_the_way_to_the_end_of_the_stream_are_sent() {
    for dispatch in modes() {
        let (journal, gate) = (Journal::default(), Gate::default());
        let closed = gate.clone();
        let server = Server::start(
            EventLoop::builder()
                .on_connect(move |(): &mut (), _: &mut Connection| {
                    closed.pass();
                    Ok(())
                })
                .on_request(|(): &mut (), conn: &mut Connection| {
                    let (mut reader, mut writer) = conn.split();
                    loop {
                        let line = reader.try_until(b'\n')?;
                        writer.write_bytes(line);
                    }
                })
                .on_disconnect(journal.on_disconnect())
                .dispatch(dispatch),
        );
        let mut client = server.connect();
        client.say(b"one\ntwo\nthr");
        client.half_close();
        gate.open();
        assert_eq!(client.rest(), b"one\ntwo\n", "{dispatch:?}");
        assert_eq!(journal.wait(1), ["Peer"], "{dispatch:?}");
    }
}
