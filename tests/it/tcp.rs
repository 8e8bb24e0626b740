//! TCP alone: what the kernel measures on a connection, how much unsent output it takes, and an
//! address that is not there yet.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::time::Duration;

use netpoll::{
    Connection, DialConnection, Dialer, Error, EventLoop, Handle, Listener, TcpInfo,
    dial_connection,
};
use socket2::SockRef;

use crate::util::{
    Client, PATIENCE, Server, Serving, connect, echo, echo_once, eventually, inet, modes,
};

/// What holds after any exchange.
#[track_caller]
fn is_plausible(info: &TcpInfo) {
    assert!(info.rtt > Duration::ZERO && info.rtt < PATIENCE, "{info:?}");
    assert!(info.min_rtt > Duration::ZERO && info.min_rtt <= info.rtt * 8, "{info:?}");
    assert!(info.retransmission_timeout > info.rtt, "{info:?}");
    // The least that IPv4 allows, and the most that a packet holds.
    assert!((88..=65_535).contains(&info.send_mss), "{info:?}");
    assert!(info.congestion_window > 0, "{info:?}");
}

#[test]
fn a_connection_and_its_handle_tell_what_the_kernel_measures() {
    for dispatch in modes() {
        let (sender, told) = mpsc::channel();
        let server = Server::start(
            EventLoop::builder()
                .on_request(move |(): &mut (), conn: &mut Connection| {
                    echo_once(conn)?;
                    let _ = sender.send((conn.tcp_info()?, conn.handle()));
                    Ok(())
                })
                .dispatch(dispatch),
        );
        let address = server.address.to_string();
        let mut conn = dial_connection("tcp", &address, PATIENCE).expect("a server");
        let mut handle = None;
        // By the second, both ends have had data acknowledged.
        for _ in 0..2 {
            conn.write_all(b"hello").and_then(|()| conn.flush()).expect("it is sent");
            conn.read_exact(&mut [0; 5]).expect("an echo");
            handle = Some(told.recv_timeout(PATIENCE).expect("a request"));
        }
        let (served, handle) = handle.expect("two exchanges");
        is_plausible(&served);
        is_plausible(&conn.tcp_info().expect("it is open"));
        is_plausible(&conn.handle().tcp_info().expect("it is open"));
        is_plausible(&handle.tcp_info().expect("it is open"));
        let ours = conn.handle();
        drop(conn);
        for gone in [ours, handle] {
            eventually("the socket is closed", || matches!(gone.tcp_info(), Err(Error::Closed)));
        }
    }
}

#[test]
fn a_unix_socket_has_no_tcp_info_and_says_so() {
    let (ours, _theirs) = UnixStream::pair().expect("two descriptors");
    let dialer = Dialer::builder().build().expect("options");
    let conn = dialer.adopt(ours).expect("a stream");
    for error in [conn.tcp_info(), conn.handle().tcp_info()].map(|it| it.expect_err("no TCP")) {
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
        assert!(error.to_string().contains("Unix socket"), "{error}");
    }
}

#[test]
fn notsent_lowat_reaches_accepted_and_dialled_sockets_and_holds_nothing_up() {
    for bytes in [1, 16 << 10] {
        let (sender, told) = mpsc::channel();
        let event_loop =
            EventLoop::builder().on_request(move |(): &mut (), conn: &mut Connection| {
                let _ = sender.send(SockRef::from(&*conn).tcp_notsent_lowat()?);
                echo_once(conn)
            });
        let options = Listener::options().notsent_lowat(bytes);
        let listener = options.bind("tcp", "127.0.0.1:0").expect("a port");
        let address = inet(&listener).to_string();
        let _server = Serving::start(event_loop.build().expect("options"), listener);
        let dialer = Dialer::builder().notsent_lowat(bytes).build().expect("options");
        let conn = dialer.dial_connection("tcp", &address, PATIENCE).expect("a server");
        assert_eq!(SockRef::from(&conn).tcp_notsent_lowat().expect("an option"), bytes as u32);
        let (mut read, mut write) = conn.into_split();
        let sent = vec![7; 2 << 20];
        let mut heard = vec![0; sent.len()];
        std::thread::scope(|scope| {
            let sent = &sent;
            scope.spawn(move || write.writer().write_all(sent).and_then(|()| write.flush()));
            read.reader().read_exact(&mut heard).expect("an echo of all");
        });
        assert!(heard == sent, "{bytes}: the echo differs");
        assert_eq!(told.recv_timeout(PATIENCE).expect("a request"), bytes as u32);
    }
}

#[test]
fn notsent_lowat_of_0_is_refused_by_name() {
    // The kernel would take it for its own default.
    let listener = Listener::options().notsent_lowat(0).bind("tcp", "127.0.0.1:0");
    let dialer = Dialer::builder().notsent_lowat(0).build();
    for outcome in [listener.map(drop), dialer.map(drop)] {
        let error = outcome.expect_err("it can't be used");
        assert!(matches!(error, Error::Config(_)), "{error:?}");
        assert!(error.to_string().contains("notsent_lowat"), "{error}");
    }
}

#[test]
fn above_notsent_lowat_output_stays_in_this_process() {
    const MESSAGE: usize = 768 << 10;
    let (sender, handles) = mpsc::channel();
    let event_loop = EventLoop::builder()
        .on_connect(move |(): &mut (), conn: &mut Connection| {
            let _ = sender.send(conn.handle());
            Ok(())
        })
        .on_request(|(): &mut (), conn: &mut Connection| echo_once(conn));
    let options = Listener::options().notsent_lowat(16 << 10);
    let listener = options.bind("tcp", "127.0.0.1:0").expect("a port");
    let address = inet(&listener);
    let _server = Serving::start(event_loop.build().expect("options"), listener);
    let mut client = connect(address);
    let handle: Handle = handles.recv_timeout(PATIENCE).expect("a connection");
    SockRef::from(&client).set_recv_buffer_size(32 << 10).expect("an option");
    handle.send(vec![7; MESSAGE]).expect("it is below the mark");
    // The client reads nothing, so its window is full soon. The kernel takes whole segments.
    let most = 192 << 10;
    let info = handle.tcp_info().expect("it is open");
    assert!(info.notsent_bytes < most, "{info:?}");
    assert!(handle.pending() > MESSAGE / 4, "{} of {MESSAGE} pending", handle.pending());
    let mut heard = vec![0; MESSAGE];
    client.read_exact(&mut heard).expect("all of it");
    client.echo(b"hello");
}

#[test]
fn freebind_listens_on_an_address_that_is_not_there() {
    // Of the networks for documentation: no machine has them.
    let mut addresses = vec!["192.0.2.1:0"];
    if TcpListener::bind("[::1]:0").is_ok() {
        addresses.push("[2001:db8::1]:0");
    }
    for address in addresses {
        let refused = Listener::bind("tcp", address).expect_err("this machine doesn't have it");
        assert_eq!(refused.kind(), ErrorKind::AddrNotAvailable);
        assert!(refused.to_string().contains("freebind"), "{refused}");
        // A socket for each loop is opened on the same address later.
        let options = Listener::options().freebind(true).reuse_port(true);
        let listener = options.bind("tcp", address).expect("it may come later");
        assert_eq!(
            inet(&listener).ip(),
            address.parse::<std::net::SocketAddr>().expect("one").ip()
        );
        let server = Serving::start(echo().loops(2).build().expect("options"), listener);
        assert_eq!(server.stop().aborted, 0);
    }
}
