//! Bytes on the wire that never end and bring a reader nothing: what waits for others ends in time
//! all the same.

use std::any::Any;
use std::io::{ErrorKind, Write as _};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use netpoll::filter::{Filter, FilterClient, FilterError, FilterServer, FilterState, Opened};
use netpoll::{
    Address, Cancel, Connection, Dialer, Error, EventLoop, EventLoopBuilder, Handle, LinkBuffer,
    Listener, Result, Running, Wait,
};

use super::next;
use crate::util::{Client as _, Journal, PATIENCE, connect, echo, hand_off, lock, modes, pool};

const SHORT: Duration = Duration::from_millis(100);

type Opening = std::result::Result<Opened, FilterError>;
type Sealing = std::result::Result<usize, FilterError>;

/// A filter that opens whatever comes as nothing. Meanwhile it has the peer send as much as the
/// socket takes, so each receive finds more than it takes: a peer that is always faster.
#[derive(Debug)]
struct Endless {
    flood: Arc<Flood>,
    state: FilterState,
}

#[derive(Debug, Default)]
struct Flood {
    /// The other end of the connection.
    peer: Mutex<Option<UnixStream>>,
    is_over: AtomicBool,
}

/// The test's hold on a flood: what goes on for ever because of a fault ends with its test.
struct Flooding(Arc<Flood>);

impl Drop for Flooding {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::SeqCst);
    }
}

impl Flood {
    fn begin(&self, peer: UnixStream) {
        peer.set_nonblocking(true).expect("an option");
        *lock(&self.peer) = Some(peer);
        self.go_on();
    }

    fn go_on(&self) {
        let peer = lock(&self.peer);
        let Some(mut peer) = peer.as_ref() else { return };
        while !self.is_over.load(Ordering::SeqCst) {
            if peer.write(&[0; 4096]).is_err() {
                return; // the socket is full, or the connection has ended
            }
        }
    }
}

impl Filter for Endless {
    fn open(&self, wire: &mut [u8], _: usize, _: &mut LinkBuffer) -> Opening {
        self.flood.go_on();
        Ok(Opened::new(wire.len(), self.state, false))
    }

    fn say(&self, _: &mut LinkBuffer) {}

    fn seal(&self, plain: &LinkBuffer, _: usize, _: &mut LinkBuffer) -> Sealing {
        Ok(plain.len())
    }

    fn finish(&self, _: &mut LinkBuffer) {}

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl FilterServer for Endless {
    fn accept(&self, _: &Address, _: Option<&Address>) -> Result<Arc<dyn Filter>> {
        Ok(Arc::new(Self { flood: self.flood.clone(), state: self.state }))
    }

    fn handshake_timeout(&self) -> Option<Duration> {
        Some(SHORT)
    }
}

impl FilterClient for Endless {
    fn dial(&self, _: &str, _: &Address) -> Result<Arc<dyn Filter>> {
        Ok(Arc::new(Self { flood: self.flood.clone(), state: self.state }))
    }
}

/// Serves one connection that is flooded.
fn serve<S: Send + 'static>(
    builder: EventLoopBuilder<S>,
    state: FilterState,
) -> (Running, Flooding) {
    let flooding = Flooding(Arc::default());
    let (peer, ours) = UnixStream::pair().expect("two ends");
    flooding.0.begin(peer);
    let listener = Listener::bind("tcp", "127.0.0.1:0").expect("a port");
    let running = builder.build().expect("options").spawn(listener).expect("it serves");
    let filter = Endless { flood: flooding.0.clone(), state };
    running.event_loop().adopt_with(ours, Arc::new(filter)).expect("adopted");
    (running, flooding)
}

/// A builder whose `on_connect` reads; it hands out the connection's handle before, and after it
/// how that ended.
fn reading() -> (EventLoopBuilder, mpsc::Receiver<Handle>, mpsc::Receiver<Result<u8>>) {
    let ((begins, begun), (tells, told)) = (mpsc::channel(), mpsc::channel());
    let builder = EventLoop::builder()
        .on_connect(move |(): &mut (), conn: &mut Connection| {
            let _ = begins.send(conn.handle());
            let _ = tells.send(conn.reader().read_byte());
            Ok(())
        })
        .on_request(|(): &mut (), _: &mut Connection| Ok(()));
    (builder, begun, told)
}

#[test]
fn a_read_of_a_callback_ends_at_its_timeout() {
    for dispatch in [pool(), hand_off()] {
        let (builder, _, told) = reading();
        let builder = builder.read_timeout(SHORT).dispatch(dispatch);
        let _served = serve(builder, FilterState::Open);
        let error = next(&told).expect_err("nothing comes");
        assert!(matches!(error, Error::TimedOut(Wait::Read)), "{dispatch:?}: {error}");
    }
}

#[test]
fn a_read_of_a_callback_ends_at_a_deadline_that_another_thread_sets() {
    for dispatch in [pool(), hand_off()] {
        let (builder, begun, told) = reading();
        let _served = serve(builder.dispatch(dispatch), FilterState::Open);
        next(&begun).set_read_deadline(Some(Instant::now() + SHORT));
        let error = next(&told).expect_err("nothing comes");
        assert!(matches!(error, Error::TimedOut(Wait::Read)), "{dispatch:?}: {error}");
    }
}

#[test]
fn a_read_of_a_callback_ends_when_another_thread_closes() {
    let closing: [fn(&Handle); 2] = [Handle::close, Handle::abort];
    for (dispatch, close) in [pool(), hand_off()].into_iter().zip(closing) {
        let (builder, begun, told) = reading();
        let _served = serve(builder.dispatch(dispatch), FilterState::Open);
        close(&next(&begun));
        let error = next(&told).expect_err("nothing comes");
        assert!(matches!(error, Error::Closed), "{dispatch:?}: {error}");
    }
}

#[test]
fn a_shutdown_with_a_deadline_ends_a_read_of_a_callback() {
    for dispatch in [pool(), hand_off()] {
        let (builder, begun, told) = reading();
        let (running, _flooding) = serve(builder.dispatch(dispatch), FilterState::Open);
        next(&begun);
        running.shutdown(SHORT);
        next(&told).expect_err("nothing comes");
        assert_eq!(running.wait().expect("it ends").aborted, 1, "{dispatch:?}");
    }
}

/// In no mode does it hold the other connections of its loop.
#[test]
fn a_handshake_ends_at_its_timeout() {
    for dispatch in modes() {
        let journal = Journal::default();
        let builder = echo().on_disconnect(journal.on_disconnect()).loops(1).dispatch(dispatch);
        let (running, _flooding) = serve(builder, FilterState::Handshaking);
        let mut other = connect(running.address().inet().expect("of TCP"));
        while journal.len() == 0 {
            other.echo(b"and others go on");
        }
        assert_eq!(journal.entries(), ["Timeout"], "{dispatch:?}");
    }
}

/// Dials a server that floods.
fn dial(state: FilterState, timeout: Duration, cancel: &Cancel) -> (Result<Connection>, Flooding) {
    let flooding = Flooding(Arc::default());
    let name = format!("netpoll-floods-{}-{:?}", std::process::id(), std::thread::current().id());
    let address = SocketAddr::from_abstract_name(&name).expect("a name");
    let listener = UnixListener::bind_addr(&address).expect("a name that is free");
    let flood = flooding.0.clone();
    let accepting = std::thread::spawn(move || {
        flood.begin(listener.accept().expect("a client").0);
    });
    let filter = Endless { flood: flooding.0.clone(), state };
    let dialer = Dialer::builder().filter(Arc::new(filter)).build().expect("options");
    let dialled = dialer.dial_with("unix", &format!("@{name}"), timeout, cancel);
    accepting.join().expect("it has accepted");
    (dialled, flooding)
}

#[test]
fn a_read_of_a_dialled_connection_ends_at_its_timeout() {
    let (dialled, _flooding) = dial(FilterState::Open, PATIENCE, &Cancel::new());
    let mut conn = dialled.expect("dialled");
    conn.set_read_timeout(Some(SHORT));
    let (tells, told) = mpsc::channel();
    std::thread::spawn(move || tells.send(conn.reader().read_byte()));
    let error = next(&told).expect_err("nothing comes");
    assert!(matches!(error, Error::TimedOut(Wait::Read)), "{error}");
}

#[test]
fn the_handshake_of_a_dial_ends_when_it_is_cancelled() {
    let cancel = Cancel::new();
    let cancelling = cancel.clone();
    let (tells, told) = mpsc::channel();
    let dialling = std::thread::spawn(move || {
        let (dialled, _flooding) = dial(FilterState::Handshaking, 4 * PATIENCE, &cancelling);
        tells.send(dialled.map(drop)).expect("the test waits");
    });
    // sleep: nothing tells that the handshake goes on; before it, the dial ends as well
    std::thread::sleep(SHORT);
    cancel.cancel();
    let error = next(&told).expect_err("it is cancelled");
    assert_eq!(error.kind(), ErrorKind::Interrupted, "{error}");
    dialling.join().expect("no panic");
}

#[test]
fn the_handshake_of_a_dial_ends_at_its_deadline() {
    let (tells, told) = mpsc::channel();
    std::thread::spawn(move || {
        let (dialled, _flooding) = dial(FilterState::Handshaking, SHORT, &Cancel::new());
        tells.send(dialled.map(drop))
    });
    let error = next(&told).expect_err("it never ends");
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
}
