//! What systemd is told: by an event loop, and by its user. A socket of the test plays systemd.

use std::io::ErrorKind;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use netpoll::{AtLimit, Connection, Dispatch, EventLoop, HandOverOptions, Listener, Systemd};

use crate::util::{
    Client, Count, Gate, PATIENCE, Server, Serving, alone_with, connect, echo, eventually,
    hand_off, holding, inet, modes, our_threads,
};

/// Long enough for the messages that were under way, and a bound of nothing else.
const WATCHDOG: Duration = Duration::from_millis(400);

/// The socket at which a service manager listens.
struct Manager {
    socket: UnixDatagram,
    name: String,
}

impl Manager {
    fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Self::at(&format!("@netpoll-test-{}-{number}", std::process::id()))
    }

    /// At a path, or an `@name`.
    fn at(name: &str) -> Self {
        let socket = match name.strip_prefix('@') {
            Some(bare) => {
                SocketAddr::from_abstract_name(bare).and_then(|it| UnixDatagram::bind_addr(&it))
            }
            None => UnixDatagram::bind(name),
        };
        let socket = socket.expect("a socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("an option");
        Self { socket, name: name.to_owned() }
    }

    fn systemd(&self, watchdog: Option<Duration>) -> Systemd {
        Systemd::at(&self.name, watchdog).expect("an address")
    }

    fn hears(&self) -> String {
        self.within(PATIENCE).expect("a message")
    }

    /// The next message, if one comes in time.
    fn within(&self, time: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(time)).expect("an option");
        let mut bytes = [0; 256];
        match self.socket.recv(&mut bytes) {
            Ok(len) => Some(String::from_utf8_lossy(&bytes[..len]).into_owned()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// Waits until no sign of life has come for the whole time of the watchdog, as that expires.
    fn expires(&self) -> bool {
        // Those that were under way.
        (0..4).any(|_| self.within(WATCHDOG).is_none())
    }

    /// Nothing is left but signs of life and, at its end, this.
    fn ends_with(&self, last: &str) {
        loop {
            match self.hears().as_str() {
                "WATCHDOG=1" => {}
                other => return assert_eq!(other, last),
            }
        }
    }

    fn is_silent(&self) -> bool {
        self.within(Duration::from_millis(1)).is_none()
    }
}

#[test]
fn it_is_told_when_the_event_loop_serves_and_when_it_stops() {
    let path = std::env::temp_dir().join(format!("netpoll-notify-{}", std::process::id()));
    let path = path.to_str().expect("a path in UTF-8");
    for manager in [Manager::new(), Manager::at(path)] {
        for mode in modes() {
            for loops in [1, 2] {
                let builder = echo().dispatch(mode).loops(loops);
                let server = Server::start(builder.systemd(manager.systemd(None)));
                assert_eq!(manager.hears(), "READY=1");
                server.connect().echo(b"hello");
                assert!(manager.is_silent());
                server.stop();
                assert_eq!(manager.hears(), "STOPPING=1");
                assert!(manager.is_silent());
            }
        }
    }
    std::fs::remove_file(path).expect("it is there");
}

#[test]
fn an_event_loop_that_never_serves_tells_nothing() {
    let manager = Manager::new();
    let event_loop = echo().systemd(manager.systemd(Some(WATCHDOG))).build().expect("options");
    event_loop.shutdown(Duration::ZERO);
    event_loop.serve(Listener::bind("tcp", "127.0.0.1:0").expect("a port")).expect("an end");
    assert!(manager.is_silent());
}

#[test]
fn its_user_says_more() {
    let manager = Manager::new();
    let systemd = manager.systemd(None);
    systemd.reloading().expect("it takes it");
    let reloading = manager.hears();
    let micros = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect("both lines");
    assert!(micros.parse::<u64>().expect("a number") > 0);
    systemd.ready().expect("it takes it");
    assert_eq!(manager.hears(), "READY=1");
    systemd.status("7 clients\nREADY=1").expect("it takes it");
    assert_eq!(manager.hears(), "STATUS=7 clients");
    systemd.stopping().expect("it takes it");
    assert_eq!(manager.hears(), "STOPPING=1");
    drop(manager);
    assert!(systemd.ready().is_err());
}

/// A manager that takes no messages delays, and stops nothing.
#[test]
fn a_manager_that_is_gone_or_full_ends_no_server() {
    let manager = Manager::new();
    let gone = manager.systemd(Some(WATCHDOG));
    drop(manager);
    let full = Manager::new();
    let stuffed = full.systemd(None);
    while stuffed.notify("X=1").is_ok() {}
    for systemd in [gone, stuffed] {
        let begun = Instant::now();
        let server = Server::start(echo().systemd(systemd));
        server.connect().echo(b"hello");
        server.stop();
        assert!(begun.elapsed() < PATIENCE);
    }
}

#[test]
fn a_loop_that_is_stuck_lets_the_watchdog_expire() {
    for loops in [1, 2] {
        let manager = Manager::new();
        let (builder, gate, held) = holding(EventLoop::builder());
        let builder = builder.loops(loops).systemd(manager.systemd(Some(WATCHDOG)));
        let server = Server::start(builder);
        assert_eq!(manager.hears(), "READY=1");
        for _ in 0..3 {
            assert_eq!(manager.hears(), "WATCHDOG=1", "idle loops turn");
        }
        let mut client = server.connect();
        client.say(b"!");
        eventually("a loop is stuck", || held.get() == 1);
        assert!(manager.expires(), "with {loops} loops");
        gate.open();
        client.hear(b"!");
        assert_eq!(manager.hears(), "WATCHDOG=1", "it turns again");
        server.stop();
        manager.ends_with("STOPPING=1");
    }
}

#[test]
fn the_loop_that_accepts_must_turn_as_well() {
    let manager = Manager::new();
    let (gate, held) = (Gate::default(), Count::default());
    let (closed, entered) = (gate.clone(), held.clone());
    let refuse = move |_: &netpoll::Refusal<'_>| {
        entered.add();
        closed.pass();
        Vec::new()
    };
    let builder = echo().loops(2).max_connections(1).at_limit(AtLimit::tell(refuse));
    let server = Server::start(builder.systemd(manager.systemd(Some(WATCHDOG))));
    assert_eq!(manager.hears(), "READY=1");
    let mut only = server.connect();
    only.echo(b"hello");
    let _refused = server.connect();
    eventually("the acceptor is stuck", || held.get() == 1);
    assert!(manager.expires());
    only.echo(b"others are served");
    gate.open();
    assert_eq!(manager.hears(), "WATCHDOG=1");
}

/// A callback that blocks is no loop that is stuck, where another thread goes on with the loop.
#[test]
fn callbacks_that_block_elsewhere_do_not_let_it_expire() {
    for mode in [hand_off(), crate::util::pool()] {
        let manager = Manager::new();
        let (builder, gate, held) = holding(EventLoop::builder());
        let builder = builder.loops(1).dispatch(mode);
        let server = Server::start(builder.systemd(manager.systemd(Some(WATCHDOG))));
        assert_eq!(manager.hears(), "READY=1");
        let mut client = server.connect();
        client.say(b"!");
        eventually("a callback blocks", || held.get() == 1);
        for _ in 0..8 {
            assert_eq!(manager.hears(), "WATCHDOG=1", "{mode:?}");
        }
        // It lives while it drains, too.
        server.event_loop.shutdown(PATIENCE);
        manager.ends_with("STOPPING=1");
        for _ in 0..8 {
            assert_eq!(manager.hears(), "WATCHDOG=1", "{mode:?}");
        }
        gate.open();
        client.hear(b"!");
        server.join();
        while !manager.is_silent() {}
    }
}

#[test]
fn after_a_restart_the_new_process_is_the_service() {
    let [before, after] = [Manager::new(), Manager::new()];
    let old = echo().systemd(before.systemd(Some(WATCHDOG))).build().expect("options");
    let old = old.spawn(Listener::bind("tcp", "127.0.0.1:0").expect("a port")).expect("a server");
    assert_eq!(before.hears(), "READY=1");
    assert_eq!(before.hears(), "WATCHDOG=1");
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let event_loop = old.event_loop().clone();
    let giving =
        thread::spawn(move || event_loop.hand_over_with(&ours, HandOverOptions::default()));
    let listeners = Listener::take_over(theirs).expect("its sockets");
    let new = echo().systemd(after.systemd(Some(WATCHDOG))).build().expect("options");
    let new = new.spawn(listeners).expect("a server");
    giving.join().expect("no panic").expect("the new one serves");
    assert_eq!(after.hears(), format!("READY=1\nMAINPID={}", std::process::id()));
    assert_eq!(after.hears(), "WATCHDOG=1");
    // The old one is no longer the service: it shows no sign of life, and does not stop that.
    assert!(before.expires());
    old.shutdown(PATIENCE);
    old.wait().expect("an end");
    assert!(before.is_silent());
    drop(new);
    after.ends_with("STOPPING=1");
}

#[test]
fn without_a_manager_there_is_no_thread_and_nothing_happens() {
    let name = "systemd::without_a_manager_there_is_no_thread_and_nothing_happens";
    alone_with(name, &[("NOTIFY_SOCKET", ""), ("WATCHDOG_USEC", "100000")], || {
        let systemd = Systemd::from_env().expect("an environment");
        assert!(!systemd.is_present());
        let server = Server::start(echo().systemd(systemd));
        server.connect().echo(b"hello");
        assert!(!our_threads().iter().any(|it| it.starts_with("netpoll-watchd")));
    });
}

#[test]
fn the_environment_names_the_manager_and_its_watchdog() {
    let at = format!("@netpoll-test-environment-{}", std::process::id());
    let name = "systemd::the_environment_names_the_manager_and_its_watchdog";
    alone_with(name, &[("NOTIFY_SOCKET", &at), ("WATCHDOG_USEC", "100000")], || {
        let manager = Manager::at(&std::env::var("NOTIFY_SOCKET").expect("it is set"));
        let systemd = Systemd::from_env().expect("an environment");
        assert_eq!(systemd.watchdog(), Some(Duration::from_millis(100)));
        let listener = Listener::bind("tcp", "127.0.0.1:0").expect("a port");
        let address = inet(&listener);
        let event_loop = EventLoop::builder()
            .on_request(|(): &mut (), conn: &mut Connection| crate::util::echo_once(conn))
            .dispatch(Dispatch::Inline)
            .systemd(systemd)
            .build()
            .expect("options");
        let server = Serving::start(event_loop, listener);
        assert_eq!([manager.hears(), manager.hears()], ["READY=1", "WATCHDOG=1"]);
        assert!(our_threads().iter().any(|it| it.starts_with("netpoll-watchd")));
        connect(address).echo(b"hello");
        server.stop();
        manager.ends_with("STOPPING=1");
        assert!(!our_threads().iter().any(|it| it.starts_with("netpoll-watchd")));
    });
}
