//! Listeners: what they listen on, what accepted sockets inherit, and which server owns a path.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use netpoll::{Address, Connection, Error, EventLoop, Keepalive, Listener, Listeners, PollManager};
use socket2::SockRef;

use crate::util::{
    Client, PATIENCE, Process, Serving, alone, connect, echo, echo_once, eventually, inet, is_role,
    modes, refuses,
};

/// A directory of this test's own, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("netpoll-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).expect("a directory");
        Self(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("UTF-8").to_owned()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn talk(mut stream: impl Read + Write, words: &[u8]) {
    stream.write_all(words).expect("the server takes it");
    let mut heard = vec![0; words.len()];
    stream.read_exact(&mut heard).expect("the server answers");
    assert_eq!(heard, words);
}

fn kind_of(outcome: netpoll::Result<Listener>) -> ErrorKind {
    outcome.expect_err("it can't be listened on").kind()
}

#[test]
fn a_unix_socket_is_served_and_its_path_goes_with_it() {
    let scratch = Scratch::new("path");
    let path = scratch.path("socket");
    for dispatch in modes() {
        let (sender, seen) = mpsc::channel();
        let event_loop = EventLoop::builder()
            .on_request(move |(): &mut (), conn: &mut Connection| {
                let (peer, local) = (conn.peer_addr(), conn.local_addr()?);
                let _ = sender.send((peer, local, conn.peer_credentials()?));
                echo_once(conn)
            })
            .dispatch(dispatch)
            .build()
            .expect("options");
        let server = Serving::start(event_loop, Listener::bind("unix", &path).expect("a path"));
        talk(UnixStream::connect(&path).expect("it listens"), b"hello");
        let (peer, local, who) = seen.recv_timeout(PATIENCE).expect("a request");
        assert_eq!((peer, local), (Address::Unnamed, Address::unix(&path)));
        assert_eq!(who.process, i32::try_from(std::process::id()).expect("a number"));
        assert_eq!(who.user, fs::metadata("/proc/self").expect("procfs").uid());
        assert_eq!(server.stop().aborted, 0);
        assert!(!fs::exists(&path).expect("a directory"), "the path is left behind");
    }
}

#[test]
fn an_abstract_name_is_served() {
    let name = format!("@netpoll-test-{}", std::process::id());
    let listener = Listener::bind("unix", &name).expect("a name");
    assert_eq!(listener.local_addr().expect("an address").to_string(), name);
    assert_eq!(kind_of(Listener::bind("unix", &name)), ErrorKind::AddrInUse);
    let _server = Serving::start(echo().build().expect("options"), listener);
    let address = UnixAddr::from_abstract_name(&name[1..]).expect("a name");
    talk(UnixStream::connect_addr(&address).expect("it listens"), b"hello");
}

#[test]
fn a_dead_socket_is_replaced_and_nothing_else_is() {
    // Where no other test starts a process: that has a copy of each socket until it executes.
    alone("listeners::a_dead_socket_is_replaced_and_nothing_else_is", || {
        let scratch = Scratch::new("stale");
        let path = scratch.path("socket");
        drop(UnixListener::bind(&path).expect("a path"));
        assert!(fs::exists(&path).expect("a directory"), "std leaves dead sockets behind");
        let listener = Listener::bind("unix", &path).expect("the dead one is replaced");
        assert_eq!(kind_of(Listener::bind("unix", &path)), ErrorKind::AddrInUse);
        drop(UnixStream::connect(&path).expect("the living one still listens"));
        drop(listener);

        let full = UnixListener::bind(&path).expect("a path");
        SockRef::from(&full).listen(0).expect("a queue of one");
        let _queued = UnixStream::connect(&path).expect("the queue takes one");
        assert_eq!(kind_of(Listener::bind("unix", &path)), ErrorKind::AddrInUse, "full, not dead");
        fs::remove_file(&path).expect("a file");

        fs::write(&path, "precious").expect("a file");
        assert_eq!(kind_of(Listener::bind("unix", &path)), ErrorKind::AddrInUse);
        assert_eq!(fs::read(&path).expect("still there"), b"precious");
        fs::remove_file(&path).expect("a file");

        fs::create_dir(&path).expect("a directory");
        fs::write(scratch.path("socket/file"), "precious").expect("a file");
        assert_eq!(kind_of(Listener::bind("unix", &path)), ErrorKind::AddrInUse);
        assert_eq!(fs::read(scratch.path("socket/file")).expect("still there"), b"precious");

        let link = scratch.path("link");
        drop(UnixListener::bind(scratch.path("target")).expect("a path"));
        std::os::unix::fs::symlink(scratch.path("target"), &link).expect("a link");
        assert_eq!(
            kind_of(Listener::bind("unix", &link)),
            ErrorKind::AddrInUse,
            "a link is no socket"
        );
        let names = fs::read_dir(&scratch.0).expect("a directory").count();
        assert_eq!(names, 3, "something is left aside");
    });
}

/// The system's limit is 107 bytes.
#[test]
fn a_dead_socket_is_replaced_at_a_path_of_any_length() {
    // As above.
    alone("listeners::a_dead_socket_is_replaced_at_a_path_of_any_length", || {
        let scratch = Scratch::new("long");
        let directory = scratch.path("");
        for length in (directory.len() + 1..=107).rev().take(20).chain([directory.len() + 1]) {
            let path = directory.clone() + &"s".repeat(length - directory.len());
            drop(UnixListener::bind(&path).expect("a path"));
            let listener = Listener::bind("unix", &path).expect("the dead one is replaced");
            assert_eq!(kind_of(Listener::bind("unix", &path)), ErrorKind::AddrInUse);
            assert_eq!(fs::read_dir(&scratch.0).expect("a directory").count(), 1, "left: {length}");
            drop(listener);
            assert_eq!(fs::read_dir(&scratch.0).expect("a directory").count(), 0, "left: {length}");
        }
    });
}

#[test]
fn a_path_that_is_taken_is_said_to_be_one() {
    let scratch = Scratch::new("said");
    let path = scratch.path("socket");
    let _first = Listener::bind("unix", &path).expect("a path");
    let error = Listener::bind("unix", &path).expect_err("it is taken").to_string();
    assert!(error.contains("choose another path") && !error.contains("port"), "{error}");
}

const FORKED: &str = "listeners::a_process_that_forks_while_it_serves";

/// A part of [`a_path_stays_with_the_process_that_serves_it`].
#[test]
fn a_process_that_forks_while_it_serves() {
    if !is_role(FORKED) {
        return;
    }
    let path = std::env::var("NETPOLL_TEST_PATH").expect("a path");
    let bind = |name| Listener::bind("unix", &format!("{path}.{name}")).expect("a path");
    let (unserved, manager) = (bind("unserved"), PollManager::shared().expect("loops"));
    let builder = echo().manager(manager.clone());
    let running = builder.build().expect("options").spawn(bind("served")).expect("a server");
    // The child goes on here, without the threads; its parent ends at once, and drops nothing.
    let parent = std::process::id();
    nix::unistd::daemon(true, true).expect("a child");
    eventually("its parent has ended", || std::os::unix::process::parent_id() != parent);
    let begun = Instant::now();
    let refused = echo().manager(manager.clone()).build().expect("options").spawn(bind("late"));
    let refused = refused.expect_err("it has no threads").to_string();
    let dialled = netpoll::dial_connection("unix", &path, PATIENCE).expect_err("no loops");
    let again = PollManager::shared().expect_err("it is another's").to_string();
    drop((running, manager));
    let there = |name| fs::exists(format!("{path}.{name}")).expect("a directory");
    let paths = [there("served"), there("unserved"), there("late")];
    drop(unserved);
    let at_once = begun.elapsed() < PATIENCE / 2;
    let same = refused == again && dialled.to_string().contains(&again);
    println!("forked {paths:?} {} {at_once} {same}: {refused}", there("unserved"));
}

#[test]
fn a_path_stays_with_the_process_that_serves_it() {
    let scratch = Scratch::new("fork");
    let path = scratch.path("socket");
    let mut process = Process::start(FORKED, &[("NETPOLL_TEST_PATH", &path)]);
    let said = process.said("forked ");
    // The path of the parent's server; and one that was not served and that no other server has.
    assert!(said.starts_with("[true, true, false] false true true: the manager's"), "{said}");
}

/// As a daemon does: its first process ends, with its values, and its child serves.
#[test]
fn a_path_stays_when_another_process_has_the_socket() {
    let scratch = Scratch::new("daemon");
    let path = scratch.path("socket");
    let listener = Listener::bind("unix", &path).expect("a path");
    let theirs = listener.as_fd().try_clone_to_owned().expect("a descriptor");
    drop(listener);
    drop(UnixStream::connect(&path).expect("the other one listens"));
    drop(theirs);
    Listener::bind("unix", &path).expect("now it is dead");
}

#[test]
fn a_path_that_another_has_taken_is_left_to_it() {
    let scratch = Scratch::new("taken");
    let path = scratch.path("socket");
    let first = Listener::bind("unix", &path).expect("a path");
    fs::remove_file(&path).expect("a file");
    let _second = UnixListener::bind(&path).expect("a path");
    drop(first);
    drop(UnixStream::connect(&path).expect("the second's path is still there"));
}

#[test]
fn a_path_has_the_mode_that_was_asked_for() {
    let scratch = Scratch::new("mode");
    let path = scratch.path("socket");
    let _listener = Listener::options().mode(0o640).bind("unix", &path).expect("a path");
    assert_eq!(fs::metadata(&path).expect("a file").permissions().mode() & 0o777, 0o640);
}

#[test]
fn callbacks_know_by_which_of_several_listeners_a_client_came() {
    let scratch = Scratch::new("several");
    let path = scratch.path("socket");
    let tcp = [(); 2].map(|()| Listener::bind("tcp", "127.0.0.1:0").expect("a port"));
    let addresses = tcp.each_ref().map(inet);
    let [first, second] = tcp;
    let unix = Listener::bind("unix", &path).expect("a path");
    let event_loop = EventLoop::builder()
        .on_prepare(|conn: &Connection| {
            let by = conn.handle();
            let by = by.listener().expect("it was accepted");
            Ok(format!("{} {}", by.index, by.name))
        })
        .on_connect(|name: &mut String, conn: &mut Connection| {
            assert_eq!(conn.local_addr()?, conn.listener().expect("a listener").address);
            conn.writer().write_bytes(name.as_bytes());
            conn.close();
            Ok(())
        })
        .on_request(|_: &mut String, _: &mut Connection| Ok(()))
        .build()
        .expect("options");
    let server = Serving::start(event_loop, [first.named("first"), second, unix.named("unix")]);
    assert_eq!(connect(addresses[0]).rest(), b"0 first");
    assert_eq!(connect(addresses[1]).rest(), format!("1 {}", addresses[1]).as_bytes());
    let mut said = String::new();
    let mut stream = UnixStream::connect(&path).expect("it listens");
    stream.read_to_string(&mut said).expect("a name");
    assert_eq!(said, "2 unix");
    server.stop();
}

#[test]
fn accepted_sockets_inherit_what_was_asked_of_the_listener() {
    let keepalive =
        Keepalive { idle: Duration::from_secs(7), interval: Duration::from_secs(3), count: 5 };
    let options = Listener::options()
        .send_buffer(64 << 10)
        .receive_buffer(32 << 10)
        .keepalive(keepalive)
        .backlog(7)
        .defer_accept(Duration::from_secs(2))
        .fast_open(16)
        .device("lo".to_owned());
    for nodelay in [true, false] {
        let listener = options.clone().nodelay(nodelay).bind("tcp", "127.0.0.1:0").expect("a port");
        let address = inet(&listener);
        let (sender, seen) = mpsc::channel();
        let event_loop =
            EventLoop::builder().on_request(move |(): &mut (), conn: &mut Connection| {
                let socket = SockRef::from(&*conn);
                let buffers = (socket.send_buffer_size()?, socket.recv_buffer_size()?);
                let probes = (socket.tcp_keepalive_time()?, socket.tcp_keepalive_retries()?);
                let _ = sender.send((buffers, probes, socket.tcp_nodelay()?, socket.keepalive()?));
                echo_once(conn)
            });
        let _server = Serving::start(event_loop.build().expect("options"), listener);
        connect(address).echo(b"hello");
        let seen = seen.recv_timeout(PATIENCE).expect("a request");
        let probes = (Duration::from_secs(7), 5);
        // The kernel doubles what it is asked for.
        assert_eq!(seen, ((128 << 10, 64 << 10), probes, nodelay, true));
    }
}

#[test]
fn the_hook_sees_the_socket_before_it_is_bound_and_may_refuse() {
    let (sender, seen) = mpsc::channel();
    let options = Listener::options().before_bind(move |socket| {
        let bound = SockRef::from(&socket).local_addr()?.as_socket();
        sender.send(bound.expect("an address").port()).map_err(std::io::Error::other)
    });
    let listener = options.bind("tcp4", "127.0.0.1:0").expect("a port");
    assert_eq!(seen.recv().expect("it was called"), 0);
    drop((listener, seen));
    assert_eq!(kind_of(options.bind("tcp4", "127.0.0.1:0")), ErrorKind::Other);
}

#[test]
fn reuse_port_shares_a_port_and_reuse_address_takes_it_over() {
    let first = Listener::options().reuse_port(true).bind("tcp", "127.0.0.1:0").expect("a port");
    let address = inet(&first).to_string();
    assert_eq!(kind_of(Listener::bind("tcp", &address)), ErrorKind::AddrInUse);
    let second = Listener::options().reuse_port(true).bind("tcp", &address).expect("it is shared");
    drop((first, second));

    // The side that closes first holds the port for a minute.
    let server = TcpListener::bind("127.0.21.11:0").expect("a port");
    let address = server.local_addr().expect("an address").to_string();
    let client = connect(server.local_addr().expect("an address"));
    drop(server.accept().expect("a client"));
    drop((server, client));
    let strict = Listener::options().reuse_address(false).bind("tcp", &address);
    assert_eq!(kind_of(strict), ErrorKind::AddrInUse);
    // At once, but for copies of the socket in processes that other tests start.
    eventually("by default the port is taken", || Listener::bind("tcp", &address).is_ok());
}

#[test]
fn networks_choose_the_family() {
    eventually("tcp6 leaves IPv4 alone", || {
        // Another process may have the port for IPv4.
        let v6 = Listener::bind("tcp6", "[::]:0").expect("a port");
        Listener::bind("tcp4", &format!("0.0.0.0:{}", inet(&v6).port())).is_ok()
    });
    let both = Listener::bind("tcp", ":0").expect("every address");
    let port = inet(&both).port();
    let event_loop = EventLoop::builder()
        .on_request(|(): &mut (), conn: &mut Connection| {
            let ip = conn.peer_addr().ip().expect("a TCP peer");
            conn.reader().read_byte()?;
            conn.writer().write_bytes(ip.to_string().as_bytes());
            conn.close();
            Ok(())
        })
        .build()
        .expect("options");
    let _server = Serving::start(event_loop, both);
    for host in ["127.0.0.1", "::1"] {
        let mut client = TcpStream::connect((host, port)).expect("it listens");
        client.say(b"?");
        assert_eq!(client.rest(), host.as_bytes());
    }
    let zoned = Listener::bind("tcp", "[::1%lo]:0").expect("a zone by its name");
    assert!(inet(&zoned).is_ipv6());
    for (network, address) in [("udp", "127.0.0.1:0"), ("unix", ""), ("unix", "@"), ("tcp", "x")] {
        let error = Listener::bind(network, address).expect_err(address);
        assert!(matches!(error, Error::Config(_)), "{network} {address}: {error:?}");
    }
}

#[test]
fn options_that_cannot_be_used_are_named() {
    let none = Keepalive { idle: Duration::ZERO, interval: Duration::from_secs(1), count: 1 };
    let refused = [
        ("backlog", Listener::options().backlog(0)),
        ("send_buffer", Listener::options().send_buffer(0)),
        ("receive_buffer", Listener::options().receive_buffer(0)),
        ("keepalive", Listener::options().keepalive(none)),
    ];
    for (name, options) in refused {
        let error = options.bind("tcp", "127.0.0.1:0").expect_err(name);
        let Error::Config(sentence) = &error else { panic!("{error:?}") };
        assert!(sentence.contains(name), "{sentence}");
    }
}

#[test]
fn what_others_opened_is_adopted_and_what_does_not_listen_is_refused() {
    let scratch = Scratch::new("adopted");
    let path = scratch.path("socket");
    let unix = UnixListener::bind(&path).expect("a path");
    let tcp = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = tcp.local_addr().expect("an address");
    let listeners = vec![Listener::from(unix), Listener::from(OwnedFd::from(tcp))];
    let server = Serving::start(echo().build().expect("options"), listeners);
    talk(UnixStream::connect(&path).expect("it listens"), b"hello");
    connect(address).echo(b"hello");
    server.stop();
    assert!(fs::exists(&path).expect("a directory"), "the path was not ours to remove");

    let datagrams = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let connected = connect(TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    for fd in [OwnedFd::from(datagrams), OwnedFd::from(connected)] {
        let error = echo().build().expect("options").serve(Listener::from(fd));
        assert!(matches!(error, Err(Error::Config(_))), "{error:?}");
    }
    let error = echo().build().expect("options").serve(Listeners::from(vec![]));
    assert!(matches!(error, Err(Error::Config(_))), "{error:?}");
}

#[test]
fn a_socket_that_others_have_too_goes_on_after_the_shutdown() {
    let adopted = Listener::from(TcpListener::bind("127.0.0.1:0").expect("a port"));
    let opened = Listener::options().reuse_port(true).bind("tcp", "127.0.0.1:0").expect("a port");
    for listener in [adopted, opened] {
        let address = inet(&listener);
        let theirs = listener.as_fd().try_clone_to_owned().expect("a descriptor");
        let server = Serving::start(echo().loops(1).build().expect("options"), listener);
        connect(address).echo(b"hello");
        server.stop();
        let _next = TcpStream::connect_timeout(&address, PATIENCE).expect("it still listens");
        let theirs = TcpListener::from(theirs); // it is non-blocking now
        eventually("its other owner accepts", || theirs.accept().is_ok());
    }
}

const ACTIVATED: &str = "listeners::a_server_that_was_started_with_its_sockets";

/// The server's part in [`sockets_are_inherited_by_systemds_protocol`].
#[test]
fn a_server_that_was_started_with_its_sockets() {
    if !is_role(ACTIVATED) {
        return;
    }
    let listeners = Listener::inherited().expect("the system's answer");
    let names: Vec<_> = listeners.iter().map(|it| it.name().unwrap_or("-").to_owned()).collect();
    let event_loop = EventLoop::builder()
        .on_connect(move |(): &mut (), conn: &mut Connection| {
            let again = Listener::inherited()?.len();
            conn.writer().write_bytes(format!("{names:?}, then {again}").as_bytes());
            conn.close();
            Ok(())
        })
        .on_request(|(): &mut (), _: &mut Connection| Ok(()));
    let _ = event_loop.build().expect("options").serve(listeners);
}

const EXECUTED: &str = "listeners::a_server_that_has_executed_itself";

/// The server's part in [`what_was_not_passed_on_is_not_inherited`].
#[test]
fn a_server_that_has_executed_itself() {
    if !is_role(EXECUTED) {
        return;
    }
    // It takes the lowest free number, which is one of those that the variables speak of.
    let own = TcpListener::bind("127.0.0.1:0").expect("a port");
    assert!((3..1003).contains(&own.as_raw_fd()), "{own:?}");
    let inherited = Listener::inherited().expect("the system's answer");
    let names: Vec<_> = inherited.iter().map(|it| it.name().unwrap_or("-").to_owned()).collect();
    drop(inherited);
    let file = fs::read_link("/proc/self/fd/3").expect("it is open yet");
    own.local_addr().expect("it is open yet");
    println!("inherited {names:?}, left {}", file.display());
}

/// As after an exec of itself, the variables name numbers that others have: a file, a listener that
/// passed through the exec, and one that this program opened.
#[test]
fn what_was_not_passed_on_is_not_inherited() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let launch = "exec 4<&0 3</dev/zero 0</dev/null; export LISTEN_PID=$$ LISTEN_FDS=1000 \
                  LISTEN_FDNAMES=file:web; exec \"$@\"";
    let output = Command::new("sh")
        .args(["-c", launch, "sh"])
        .arg(std::env::current_exe().expect("our own path"))
        .args(["--exact", EXECUTED, "--nocapture"])
        .env("NETPOLL_TEST_ROLE", EXECUTED)
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .output()
        .expect("a shell");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains(r#"inherited ["web"], left /dev/zero"#), "{said}");
}

/// Ends the process that it holds.
struct Ended(std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A shell is the launcher: it puts the socket where systemd would, at number 3, and says so.
#[test]
fn sockets_are_inherited_by_systemds_protocol() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let launch = "exec 3<&0 4<&0 0</dev/null; export LISTEN_PID=$$ LISTEN_FDS=2 \
                  LISTEN_FDNAMES=web; exec \"$@\"";
    let child = Command::new("sh")
        .args(["-c", launch, "sh"])
        .arg(std::env::current_exe().expect("our own path"))
        .args(["--exact", ACTIVATED, "--nocapture"])
        .env("NETPOLL_TEST_ROLE", ACTIVATED)
        .stdin(Stdio::from(OwnedFd::from(listener.try_clone().expect("a second one"))))
        .stdout(Stdio::null())
        .spawn()
        .expect("a shell");
    let _child = Ended(child);
    assert_eq!(connect(address).rest(), br#"["web", "-"], then 0"#);
    assert!(Listener::inherited().expect("the system's answer").is_empty(), "it is not for us");
}

#[test]
fn the_listener_is_seen_as_a_socket() {
    let listener = Listener::options().backlog(9).bind("tcp", "127.0.21.6:0").expect("a port");
    assert!(SockRef::from(&listener.as_fd()).is_listener().expect("an option"));
    let address = inet(&listener);
    drop(listener);
    eventually("the port is closed", || refuses(address));
}
