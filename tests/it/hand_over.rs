//! Hot restart: what the old process gives, to which process, and which of the two serves when
//! something goes wrong. Both are in this process, which the protocol does not know.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use netpoll::{
    AtLimit, Connection, Error, EventLoop, HandOverOptions, Listener, ProxyProtocol, Result,
    Running, TrustedProxies,
};
use socket2::{Domain, Socket, Type};

use crate::util::{
    Client, PATIENCE, alone, connect, echo, eventually, quiet, refuses, set_fd_limit,
};

/// A server that says its name to each client.
fn named(name: &'static str) -> EventLoop {
    let builder = EventLoop::builder().on_connect(move |(): &mut (), conn: &mut Connection| {
        conn.writer().write_bytes(name.as_bytes());
        Ok(())
    });
    let builder = builder.on_request(|(): &mut (), conn: &mut Connection| {
        let unread = conn.reader().len();
        conn.reader().skip(unread)
    });
    builder.at_limit(AtLimit::Close).build().expect("options")
}

/// Where no other test has a port: those of servers that are gone stay refused.
fn bind() -> Listener {
    Listener::bind("tcp", "127.0.21.8:0").expect("a port")
}

fn address(running: &Running) -> SocketAddr {
    running.address().inet().expect("of TCP")
}

/// Which server serves.
fn hear(at: SocketAddr) -> String {
    let mut name = [0; 3];
    connect(at).read_exact(&mut name).expect("a server's name");
    String::from_utf8_lossy(&name).into_owned()
}

/// The old process's part, on a thread of its own.
fn give(old: &Running, to: UnixStream, options: HandOverOptions) -> JoinHandle<Result<()>> {
    let old = old.event_loop().clone();
    thread::spawn(move || old.hand_over_with(&to, options))
}

fn within(deadline: Duration) -> HandOverOptions {
    HandOverOptions { deadline, ..HandOverOptions::default() }
}

fn kind(outcome: &Result<()>) -> ErrorKind {
    outcome.as_ref().expect_err("a failure").kind()
}

/// Speaks as a successor does, up to the sockets, and receives them.
fn greet(stream: &mut UnixStream) {
    stream.write_all(b"netpoll hand-over 1\n").expect("room");
    let mut some = [0; 20];
    stream.read_exact(&mut some).expect("an answer");
    assert_eq!(&some, b"netpoll hand-over 1\n");
}

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("netpoll-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).expect("a directory");
        Self(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("UTF-8").to_owned()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn the_old_one_is_told_when_the_new_one_serves_and_not_before() {
    let old = named("old").spawn(bind()).expect("a server");
    let at = address(&old);
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    // It can be handed over as soon as it was started.
    let giving = give(&old, ours, HandOverOptions::default());
    let listeners = Listener::take_over(theirs).expect("its sockets");
    quiet(50);
    assert!(!giving.is_finished(), "nothing serves yet");
    assert_eq!(hear(at), "old");
    let new = named("new").spawn(listeners).expect("a server");
    giving.join().expect("no panic").expect("the new one serves");
    old.shutdown(PATIENCE);
    assert_eq!(old.wait().expect("a report").aborted, 0);
    assert_eq!((hear(at), address(&new)), ("new".to_owned(), at));
}

#[test]
fn a_successor_that_fails_leaves_the_old_one_serving() {
    let old = named("old").spawn(bind()).expect("a server");
    let at = address(&old);
    let failures: [fn(UnixStream); 4] = [
        drop,
        |stream| drop(Listener::take_over(stream).expect("its sockets")),
        // All or none: with one that is no listener any more the event loop does not serve.
        |stream| {
            let mut listeners = Listener::take_over(stream).expect("its sockets");
            let (pipe, _other) = UnixStream::pair().expect("a pair");
            listeners.push(Listener::from(std::os::fd::OwnedFd::from(pipe)));
            assert!(named("new").spawn(listeners).is_err());
        },
        |mut stream| {
            greet(&mut stream);
            stream.write_all(b"?").expect("room");
            quiet(10);
        },
    ];
    for fail in failures {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let giving = give(&old, ours, HandOverOptions::default());
        fail(theirs);
        assert!(giving.join().expect("no panic").is_err());
        assert_eq!(hear(at), "old");
    }
    old.shutdown(PATIENCE);
    assert_eq!(old.wait().expect("a report").aborted, 0);
    // It has closed its socket in order: nothing was left to another process.
    eventually("the port is closed", || refuses(at));
}

#[test]
fn a_peer_that_is_no_successor_is_given_nothing() {
    let old = named("old").spawn(bind()).expect("a server");
    for said in [&b""[..], b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"] {
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        theirs.write_all(said).expect("room");
        let giving = give(&old, ours, within(Duration::from_millis(100)));
        let outcome = giving.join().expect("no panic");
        let expected = if said.is_empty() { ErrorKind::TimedOut } else { ErrorKind::InvalidData };
        assert_eq!(kind(&outcome), expected);
        // The one byte says that the old one goes on; no message carried a socket.
        assert_eq!(received(&theirs), (1, 0));
    }
    assert_eq!(hear(address(&old)), "old");
}

/// How many bytes and descriptors there are to be received.
fn received(from: &UnixStream) -> (usize, usize) {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
    use std::os::fd::AsRawFd;
    let (mut bytes, mut space) = ([0; 64], nix::cmsg_space!([i32; 8]));
    let mut slices = [std::io::IoSliceMut::new(&mut bytes)];
    let message =
        recvmsg::<()>(from.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::MSG_DONTWAIT);
    let message = message.expect("a message");
    let rights = message.cmsgs().expect("whole").filter_map(|it| match it {
        ControlMessageOwned::ScmRights(numbers) => Some(numbers.len()),
        _ => None,
    });
    (message.bytes, rights.sum())
}

#[test]
fn a_successor_that_is_silent_is_waited_for_until_the_deadline_and_is_the_only_one() {
    let old = named("old").spawn(bind()).expect("a server");
    let (ours, mut theirs) = UnixStream::pair().expect("a pair");
    let begun = Instant::now();
    let giving = give(&old, ours, within(Duration::from_millis(300)));
    greet(&mut theirs);
    let (second, _other) = UnixStream::pair().expect("a pair");
    let refused = old.event_loop().hand_over(&second);
    assert!(matches!(refused, Err(Error::Config(_))), "{refused:?}");
    assert_eq!(kind(&giving.join().expect("no panic")), ErrorKind::TimedOut);
    assert!(begun.elapsed() >= Duration::from_millis(300));
    let mut rest = Vec::new();
    theirs.read_to_end(&mut rest).expect("the end");
    assert_eq!(rest.last(), Some(&b'-'), "it is told that it must not serve");
    // The next one is welcome.
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let giving = give(&old, ours, HandOverOptions::default());
    let new = named("new").spawn(Listener::take_over(theirs).expect("its sockets"));
    giving.join().expect("no panic").expect("the new one serves");
    drop(old);
    assert_eq!(hear(address(&new.expect("a server"))), "new");
}

#[test]
fn any_deadline_is_refused_by_name_or_works() {
    for deadline in [Duration::ZERO, Duration::MAX] {
        let old = named("old").spawn(bind()).expect("a server");
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let giving = give(&old, ours, within(deadline));
        match Listener::take_over_with(theirs, within(deadline)) {
            Ok(listeners) => {
                let _new = named("new").spawn(listeners).expect("a server");
                giving.join().expect("no panic").expect("the new one serves");
            }
            Err(error) => {
                assert!(error.to_string().contains("deadline"), "{error}");
                assert_eq!(kind(&giving.join().expect("no panic")), ErrorKind::InvalidInput);
            }
        }
    }
}

#[test]
fn a_successor_that_is_late_does_not_serve() {
    let old = named("old").spawn(bind()).expect("a server");
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let giving = give(&old, ours, within(Duration::from_millis(50)));
    let listeners = Listener::take_over(theirs).expect("its sockets");
    assert_eq!(kind(&giving.join().expect("no panic")), ErrorKind::TimedOut);
    let late = named("new").spawn(listeners).expect_err("the old one goes on");
    assert_eq!(late.kind(), ErrorKind::TimedOut);
    assert_eq!(hear(address(&old)), "old");
}

#[test]
fn a_successor_serves_when_the_old_one_dies_in_between() {
    let old = named("old").spawn(bind()).expect("a server");
    let at = address(&old);
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let copy = ours.try_clone().expect("a descriptor");
    let giving = give(&old, ours, within(PATIENCE));
    let listeners = Listener::take_over(theirs).expect("its sockets");
    // As by its death: its end of the stream closes, without a word.
    copy.shutdown(std::net::Shutdown::Both).expect("open");
    assert!(giving.join().expect("no panic").is_err());
    drop(old);
    let _new = named("new").spawn(listeners).expect("a server");
    assert_eq!(hear(at), "new");
}

#[test]
fn another_user_is_refused_on_both_sides_unless_it_is_allowed() {
    alone("hand_over::another_user_is_refused_on_both_sides_unless_it_is_allowed", || {
        const OTHER: u32 = 65_534;
        let seteuid = |user| nix::unistd::seteuid(nix::unistd::Uid::from_raw(user));
        // The kernel records the user of a socket when it is made.
        if seteuid(OTHER).is_err() {
            return eprintln!("SKIP: only root can be another user");
        }
        let pairs = [UnixStream::pair(), UnixStream::pair()].map(|it| it.expect("a pair"));
        seteuid(0).expect("it was root");
        let old = named("old").spawn(bind()).expect("a server");
        let [(ours, theirs), (our_second, their_second)] = pairs;
        let refused = old.event_loop().hand_over(&ours);
        assert_eq!(kind(&refused), ErrorKind::PermissionDenied);
        let refused = Listener::take_over(theirs).expect_err("who is that?");
        assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
        let allowed = HandOverOptions { user: Some(OTHER), ..HandOverOptions::default() };
        let giving = give(&old, our_second, allowed);
        let listeners = Listener::take_over_with(their_second, allowed).expect("its sockets");
        let _new = named("new").spawn(listeners).expect("a server");
        giving.join().expect("no panic").expect("the new one serves");
    });
}

/// Hands `listener`'s server over, and stops it.
fn replaced(listener: Listener, change: impl FnOnce(Vec<Listener>) -> Vec<Listener>) -> Running {
    let old = named("old").spawn(listener).expect("a server");
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let giving = give(&old, ours, HandOverOptions::default());
    let listeners = change(Listener::take_over(theirs).expect("its sockets"));
    let new = named("new").spawn(listeners).expect("a server");
    giving.join().expect("no panic").expect("the new one serves");
    drop(old);
    new
}

#[test]
fn limits_and_the_proxy_protocol_travel_along() {
    let reuse = Listener::options().reuse_port(true).bind("tcp", "127.0.0.1:0").expect("a port");
    for listener in [bind(), reuse] {
        let proxy = ProxyProtocol {
            deadline: Duration::from_secs(3600),
            limit: 300,
            trusted: Some(TrustedProxies::new(["127.0.0.1"]).expect("a network")),
        };
        let listener = listener.named("web").max_connections(2).proxy_protocol(proxy);
        let new = replaced(listener, |listeners| {
            let names: Vec<_> = listeners.iter().map(Listener::name).collect();
            assert_eq!(names, [Some("web")]);
            listeners
        });
        let at = address(&new);
        let mut clients = [(); 2].map(|()| connect(at));
        for client in &mut clients {
            client.say(b"PROXY UNKNOWN\r\n");
            client.hear(b"new");
        }
        // Whichever socket of the listener it comes by, it is one too many.
        for _ in 0..8 {
            connect(at).end();
        }
        eventually("they are counted", || new.stats().refused == 8);
        // Only that address is a proxy's.
        let stranger = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        stranger.bind(&SocketAddr::from(([127, 0, 0, 2], 0)).into()).expect("an address");
        stranger.connect(&at.into()).expect("it listens");
        eventually("it is refused as well", || new.stats().refused == 9);
    }
}

#[test]
fn that_the_idle_loop_accepts_travels_along() {
    let new = replaced(bind().idle_loop_accepts(true), |listeners| listeners);
    (0..20).for_each(|_| assert_eq!(hear(address(&new)), "new"));
    assert_eq!(new.stats().main.accepted, 0);
}

#[test]
fn sockets_of_loops_travel_with_their_options() {
    let listener = Listener::options()
        .reuse_port(true)
        .nodelay(false)
        .receive_buffer(32 << 10)
        .bind("tcp", "127.0.0.1:0")
        .expect("a port");
    let old = echo().loops(2).build().expect("options").spawn(listener).expect("a server");
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let giving = give(&old, ours, HandOverOptions::default());
    let listeners = Listener::take_over(theirs).expect("its sockets");
    let (sender, seen) = mpsc::channel();
    let new =
        EventLoop::builder().loops(4).on_request(move |(): &mut (), conn: &mut Connection| {
            let socket = socket2::SockRef::from(&*conn);
            let _ = sender.send((socket.tcp_nodelay()?, socket.recv_buffer_size()?));
            Ok(())
        });
    let new = new.build().expect("options").spawn(listeners).expect("a server");
    giving.join().expect("no panic").expect("the new one serves");
    drop(old);
    // Enough that some come by the sockets that the new one has opened.
    let mut clients: Vec<_> = (0..64).map(|_| connect(address(&new))).collect();
    for client in &mut clients {
        client.say(b"!");
        // The kernel doubles what it is asked for.
        assert_eq!(seen.recv_timeout(PATIENCE).expect("a request"), (false, 64 << 10));
    }
    let loops = new.stats().loops;
    assert!(loops.iter().all(|it| it.accepted > 0), "each has a socket of its own: {loops:?}");
}

#[test]
fn a_path_is_removed_by_the_process_that_has_it_and_only_its_own() {
    let scratch = Scratch::new("hand-over-path");
    let path = scratch.path("service");
    let there = || std::fs::symlink_metadata(&path).is_ok();
    let unix = || Listener::bind("unix", &path).expect("a path");

    // A process that only took it leaves it.
    let old = named("old").spawn(unix()).expect("a server");
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let giving = give(&old, ours, HandOverOptions::default());
    drop(Listener::take_over(theirs).expect("its sockets"));
    giving.join().expect("no panic").expect_err("it was not served");
    UnixStream::connect(&path).expect("it is there");
    drop(old);
    assert!(!there(), "its owner has removed it");

    // A process that serves it removes it.
    let new = replaced(unix(), |it| it);
    UnixStream::connect(&path).expect("it is there");
    drop(new);
    assert!(!there());

    // What another has put there meanwhile stays.
    let new = replaced(unix(), |it| {
        std::fs::remove_file(&path).expect("it is there");
        std::fs::write(&path, "mine").expect("a file");
        it
    });
    drop(new);
    assert_eq!(std::fs::read_to_string(&path).expect("it is there"), "mine");
}

#[test]
fn a_listener_that_is_declined_is_closed_and_its_path_removed() {
    let scratch = Scratch::new("hand-over-declined");
    let path = scratch.path("service");
    for first in [true, false] {
        let unix = Listener::bind("unix", &path).expect("a path").named("unix");
        let old = named("old").spawn([bind().named("tcp"), unix]).expect("a server");
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let giving = give(&old, ours, HandOverOptions::default());
        let mut listeners = Listener::take_over(theirs).expect("its sockets");
        let unwanted = listeners.pop().expect("two");
        let spawn = |listeners| named("new").spawn(listeners).expect("a server");
        let new = if first {
            unwanted.decline();
            spawn(listeners)
        } else {
            let new = spawn(listeners);
            unwanted.decline();
            new
        };
        giving.join().expect("no panic").expect("the new one serves");
        eventually("the path is removed", || !std::fs::exists(&path).expect("a directory"));
        drop(old);
        assert_eq!(hear(address(&new)), "new");
    }
}

#[test]
fn several_event_loops_take_over_together() {
    let old = named("old").spawn([bind(), bind()]).expect("a server");
    let addresses: Vec<_> = old.addresses().iter().map(|it| it.inet().expect("of TCP")).collect();
    for fails in [true, false] {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let giving = give(&old, ours, HandOverOptions::default());
        let mut listeners = Listener::take_over(theirs).expect("its sockets");
        let second = listeners.pop().expect("two");
        let one = named("one").spawn(listeners).expect("a server");
        if fails {
            drop(second);
            assert!(giving.join().expect("no panic").is_err());
            assert!(one.wait().is_err(), "the old one goes on");
            assert_eq!(hear(addresses[0]), "old");
            continue;
        }
        quiet(50);
        assert!(!giving.is_finished(), "one of them serves");
        let two = named("two").spawn(second).expect("a server");
        giving.join().expect("no panic").expect("both serve");
        old.shutdown(PATIENCE);
        eventually("the old one has left", || hear(addresses[0]) == "one");
        eventually("the old one has left", || hear(addresses[1]) == "two");
        drop((one, two));
    }
}

#[test]
fn a_shutdown_while_it_is_handed_over_leaves_the_queue_to_the_new_one() {
    let scratch = Scratch::new("hand-over-shutdown");
    let path = scratch.path("service");
    let old = named("old").spawn(Listener::bind("unix", &path).expect("a path"));
    let old = old.expect("a server");
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let giving = give(&old, ours, HandOverOptions::default());
    let listeners = Listener::take_over(theirs).expect("its sockets");
    old.shutdown(PATIENCE);
    old.wait().expect("a report");
    let mut waiting = UnixStream::connect(&path).expect("the path is there");
    let _new = named("new").spawn(listeners).expect("a server");
    giving.join().expect("no panic").expect("the new one serves");
    let mut name = [0; 3];
    waiting.read_exact(&mut name).expect("it is served");
    assert_eq!(&name, b"new");
}

#[test]
fn spawn_returns_the_error_of_a_server_that_could_serve_nobody() {
    alone("hand_over::spawn_returns_the_error_of_a_server_that_could_serve_nobody", || {
        let (mut failed, mut limit) = (0, 0);
        let open = std::fs::read_dir("/proc/self/fd").expect("procfs").count() as u64;
        // Up to the first limit at which there is a server.
        let server = loop {
            set_fd_limit(open + limit);
            let server = Listener::bind("tcp", "127.0.0.1:0")
                .and_then(|listener| echo().loops(2).build().expect("options").spawn(listener));
            match server {
                Ok(server) => break server,
                Err(error) => assert!(error.to_string().contains("files"), "{error}"),
            }
            (failed, limit) = (failed + 1, limit + 1);
        };
        assert!(failed > 6, "{failed}");
        let at = address(&server);
        set_fd_limit(open + limit + 1); // the client's
        connect(at).echo(b"hello");
    });
}
