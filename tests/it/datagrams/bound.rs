//! What is bound, with which options, and what is refused by which words.

use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use netpoll::{Datagrams, Listener};
use socket2::SockRef;

use super::{any_port, client_of, echo, echoing, inet, serve};
use crate::util::{PATIENCE, alone, eventually, is_role, modes};

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

/// A client with a name of its own, to which a server can answer.
fn unix_client(scratch: &Scratch, server: &str) -> UnixDatagram {
    let client = UnixDatagram::bind(scratch.path("client")).expect("a path");
    client.connect(server).expect("it is bound");
    client.set_read_timeout(Some(PATIENCE)).expect("an option");
    client
}

#[test]
fn a_unix_socket_is_served_and_its_path_goes_with_it() {
    for dispatch in modes() {
        let scratch = Scratch::new("unixgram");
        let path = scratch.path("socket");
        let socket = Datagrams::options().mode(0o620).bind("unixgram", &path).expect("a path");
        let mode = fs::metadata(&path).expect("a file").permissions().mode();
        assert_eq!(mode & 0o7777, 0o620);
        let running = serve(dispatch, 2, echoing(socket));
        let client = unix_client(&scratch, &path);
        client.send(b"hello").expect("room");
        let mut heard = [0; 9];
        assert_eq!(client.recv(&mut heard).expect("an answer"), 5);
        assert_eq!(&heard[..5], b"hello");
        running.shutdown(PATIENCE);
        running.wait().expect("in order");
        assert!(!fs::exists(&path).expect("a directory"), "the path is left behind");
    }
}

#[test]
fn a_dead_socket_is_replaced_and_nothing_else_is() {
    // Where no other test starts a process: that has a copy of each socket until it executes.
    alone("datagrams::bound::a_dead_socket_is_replaced_and_nothing_else_is", || {
        let scratch = Scratch::new("stale-datagrams");
        let path = scratch.path("socket");
        drop(UnixDatagram::bind(&path).expect("a path"));
        assert!(fs::exists(&path).expect("a directory"), "std leaves dead sockets behind");
        let socket = Datagrams::bind("unixgram", &path).expect("the dead one is replaced");
        let taken = Datagrams::bind("unixgram", &path).expect_err("it lives");
        assert_eq!(taken.kind(), ErrorKind::AddrInUse);
        drop(socket);
        assert!(!fs::exists(&path).expect("a directory"));
        fs::write(&path, "precious").expect("a file");
        let taken = Datagrams::bind("unixgram", &path).expect_err("it is a file");
        assert_eq!(taken.kind(), ErrorKind::AddrInUse);
        assert!(taken.to_string().contains("choose another path"), "{taken}");
        assert_eq!(fs::read(&path).expect("still there"), b"precious");
    });
}

#[test]
fn networks_choose_the_family() {
    for (network, address) in [("udp4", ":0"), ("udp6", ":0"), ("udp", ":0"), ("udp", "[::1]:0")] {
        let socket = Datagrams::bind(network, address).expect("this machine has both");
        let local = socket.local_addr().inet().expect("of UDP");
        assert_eq!(local.is_ipv4(), network == "udp4", "{network} {address}");
        let only_v6 = || SockRef::from(&socket.as_fd()).only_v6().expect("an option");
        let serves_both = local.ip().is_unspecified() && network == "udp";
        assert!(local.is_ipv4() || only_v6() != serves_both, "{network} {address}");
    }
}

#[test]
fn what_cannot_be_bound_is_refused_by_name() {
    let socket = any_port();
    let taken = socket.local_addr().to_string();
    let group: IpAddr = [239, 1, 1, 1].into();
    let options = Datagrams::options;
    let nowhere = options().join(group, "no-such-device");
    for (outcome, kind, words) in [
        (Datagrams::bind("udp", &taken), ErrorKind::AddrInUse, "choose another port"),
        (Datagrams::bind("udp", "192.0.2.1:9"), ErrorKind::AddrNotAvailable, "`freebind`"),
        (Datagrams::bind("tcp", &taken), ErrorKind::InvalidInput, "udp, udp4, udp6 or unixgram"),
        (Datagrams::bind("udp", "127.0.0.1"), ErrorKind::InvalidInput, "host:port"),
        (Datagrams::bind("udp6", "127.0.0.1:0"), ErrorKind::InvalidInput, "of that family"),
        (Datagrams::bind("udp://127.0.0.1:0", ""), ErrorKind::InvalidInput, "two arguments"),
        (Datagrams::bind("unixgram", ""), ErrorKind::InvalidInput, "a path or an @name"),
        (options().receive_buffer(0).bind("udp", ":0"), ErrorKind::InvalidInput, "receive_buffer"),
        (options().send_buffer(usize::MAX).bind("udp", ":0"), ErrorKind::InvalidInput, "send_buff"),
        (options().dscp(64).bind("udp", ":0"), ErrorKind::InvalidInput, "dscp is 64"),
        (options().ttl(0).bind("udp", ":0"), ErrorKind::InvalidInput, "ttl is 0"),
        (options().device(String::new()).bind("udp", ":0"), ErrorKind::InvalidInput, "device"),
        (options().mode(0o10_000).bind("udp", ":0"), ErrorKind::InvalidInput, "mode is"),
        (
            options().join([10, 0, 0, 1].into(), None).bind("udp", ":0"),
            ErrorKind::InvalidInput,
            "no m",
        ),
        (options().join(group, None).bind("udp6", ":0"), ErrorKind::InvalidInput, "udp6"),
        (options().join(group, "").bind("udp", ":0"), ErrorKind::InvalidInput, "an interface"),
        (nowhere.bind("udp", ":0"), ErrorKind::NotFound, "no interface no-such-device"),
    ] {
        let error = outcome.expect_err(words);
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
    let stream = Listener::bind("udp", "127.0.0.1:0").expect_err("no network of streams");
    assert!(stream.to_string().contains("Datagrams::bind"), "{stream}");
    drop(
        options()
            .receive_buffer(i32::MAX as usize)
            .ttl(255)
            .dscp(63)
            .bind("udp", ":0")
            .expect("all"),
    );
}

#[test]
fn an_address_is_taken_by_one_server_unless_it_is_shared() {
    // Where no other test has a port: this one is to be free again.
    let only = Datagrams::bind("udp", "127.0.21.9:0").expect("a port");
    let running = serve(netpoll::Dispatch::Inline, 3, echoing(only));
    let address = running.address().to_string();
    let shared = || Datagrams::options().reuse_port(true);
    let taken = Datagrams::bind("udp", &address).expect_err("it is served");
    assert_eq!(taken.kind(), ErrorKind::AddrInUse);
    drop(running);
    eventually("it is free again", || shared().bind("udp", &address).is_ok());
    let first = shared().bind("udp", &address).expect("a shared port");
    drop(shared().bind("udp", &address).expect("they share"));
    assert!(Datagrams::bind("udp", &address).is_err(), "this one does not");
    drop(first);
}

#[test]
fn sockets_of_others_are_adopted() {
    let bound = UdpSocket::bind("127.0.0.1:0").expect("a port");
    for dispatch in modes() {
        let copy = bound.try_clone().expect("a descriptor");
        let running = serve(dispatch, 3, echoing(Datagrams::try_from(copy).expect("of datagrams")));
        echo(&client_of(inet(&running)), b"adopted");
    }
    let stream = TcpListener::bind("127.0.0.1:0").expect("a port");
    let refused = Datagrams::try_from(OwnedFd::from(stream)).expect_err("of streams");
    assert!(refused.to_string().contains("no socket of datagrams"), "{refused}");
    let file = OwnedFd::from(fs::File::open("/dev/null").expect("a file"));
    assert!(Datagrams::try_from(file).is_err());
}

const ACTIVATED: &str = "datagrams::bound::a_server_that_was_started_with_its_sockets";

/// The server's part in [`sockets_are_inherited_by_systemds_protocol`].
#[test]
fn a_server_that_was_started_with_its_sockets() {
    if !is_role(ACTIVATED) {
        return;
    }
    // Streams first: what is of the other kind must still be there.
    let listeners = Listener::inherited().expect("the system's answer");
    let sockets = Datagrams::inherited().expect("the system's answer");
    let names: Vec<_> = sockets.iter().map(|it| it.name().unwrap_or("-").to_owned()).collect();
    let again = Datagrams::inherited().expect("the system's answer").len();
    let said = format!("{} listeners, {names:?}, then {again}", listeners.len());
    for socket in sockets {
        let said = said.clone();
        let server = socket.on_datagrams(move |(): &mut (), batch: &netpoll::DatagramBatch<'_>| {
            batch.iter().try_for_each(|it| it.reply(said.as_bytes()))
        });
        let event_loop = netpoll::EventLoop::for_datagrams().build().expect("options");
        let _ = event_loop.serve(server);
    }
}

/// A shell is the launcher: it puts the sockets where systemd would, and says so.
#[test]
fn sockets_are_inherited_by_systemds_protocol() {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let client = client_of(socket.local_addr().expect("an address"));
    let launch = "exec 3<&0 4<&1 0</dev/null 1>/dev/null; export LISTEN_PID=$$ LISTEN_FDS=2 \
                  LISTEN_FDNAMES=metrics:web; exec \"$@\"";
    let mut child = Command::new("sh")
        .args(["-c", launch, "sh"])
        .arg(std::env::current_exe().expect("our own path"))
        .args(["--exact", ACTIVATED, "--nocapture"])
        .env("NETPOLL_TEST_ROLE", ACTIVATED)
        .stdin(Stdio::from(OwnedFd::from(socket)))
        .stdout(Stdio::from(OwnedFd::from(listener)))
        .spawn()
        .expect("a shell");
    client.send(b"who is there?").expect("room");
    let answer = super::heard(&client);
    let _ = child.kill();
    let _ = child.wait();
    assert_eq!(String::from_utf8_lossy(&answer), r#"1 listeners, ["metrics"], then 0"#);
    assert!(Datagrams::inherited().expect("the system's answer").is_empty(), "it is not for us");
}

#[test]
fn a_hook_sees_each_socket_before_it_is_bound() {
    let calls = crate::util::Count::default();
    let counted = calls.clone();
    let socket = Datagrams::options()
        .before_bind(move |fd| {
            counted.add();
            assert_eq!(SockRef::from(&fd).local_addr()?.as_socket().map(|it| it.port()), Some(0));
            Ok(())
        })
        .bind("udp", "127.0.0.1:0")
        .expect("a port");
    drop(serve(netpoll::Dispatch::Inline, 3, echoing(socket)));
    assert_eq!(calls.get(), 3);
    let refused = Datagrams::options()
        .before_bind(|_| Err(ErrorKind::Unsupported.into()))
        .bind("udp", "127.0.0.1:0");
    assert_eq!(refused.expect_err("the hook's").kind(), ErrorKind::Unsupported);
}
