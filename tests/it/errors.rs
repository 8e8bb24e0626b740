//! Errors of a set-up: one sentence each, which names what is wrong.

use std::fmt::Display;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::time::Duration;

use netpoll::{
    Connection, Dispatch, Error, EventLoop, EventLoopBuilder, Listener, PoolOptions, Result,
    default_loops, dial_connection,
};

use crate::util::{Client, PATIENCE, Server, echo, echo_once, eventually};

/// One sentence, short enough to be read, with all of these words in it.
#[track_caller]
pub(crate) fn is_a_sentence(error: &impl Display, words: &[&str]) {
    let text = error.to_string();
    assert!(!text.contains('\n') && text.trim() == text, "not one line: {text:?}");
    assert!((10..200).contains(&text.len()), "{} bytes: {text}", text.len());
    assert!(!text.ends_with('.') && !text.contains("Os {"), "{text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
}

#[track_caller]
fn refused<S: Send + 'static>(builder: EventLoopBuilder<S>, words: &[&str]) {
    let error = builder.build().expect_err("it can't be used");
    assert!(matches!(error, Error::Config(_)), "{error:?}");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    is_a_sentence(&error, words);
}

#[track_caller]
fn cannot_listen(network: &str, address: &str, words: &[&str]) -> Error {
    let error = Listener::bind(network, address).expect_err("nobody can listen there");
    is_a_sentence(&error, words);
    is_a_sentence(&error, &[network, address]);
    error
}

#[test]
fn options_out_of_range_are_named() {
    refused(echo().loops(0), &["loops", "0", "1024"]);
    refused(echo().loops(1025), &["loops", "1025", "1024"]);
    refused(echo().loops(5000), &["loops", "5000", "1024"]);
    refused(echo().input_limit(0), &["input_limit"]);
    refused(echo().output_limits(10, 10), &["output_limits", "10"]);
    refused(echo().output_limits(20, 10), &["output_limits", "20", "10"]);
    refused(echo().output_limits(0, 0), &["output_limits", "0"]);
    refused(echo().read_timeout(Duration::ZERO), &["read_timeout"]);
    refused(echo().write_timeout(Duration::ZERO), &["write_timeout"]);
}

#[test]
fn options_of_the_pool_are_named() {
    let with = |change: fn(&mut PoolOptions)| {
        let mut options = PoolOptions::default();
        change(&mut options);
        echo().dispatch(Dispatch::Pool(options))
    };
    refused(with(|it| it.max_threads = 0), &["max_threads"]);
    refused(with(|it| it.queue = 0), &["queue"]);
    refused(with(|it| it.idle = Duration::ZERO), &["idle"]);
}

#[test]
fn options_at_their_limits_are_served() {
    let pool = PoolOptions { max_threads: 1, queue: 1, idle: Duration::from_nanos(1) };
    let least = echo()
        .loops(1)
        .input_limit(1)
        .output_limits(0, 1)
        .read_timeout(Duration::from_nanos(1))
        .linger(Duration::ZERO)
        .dispatch(Dispatch::Pool(pool));
    let most = echo()
        .loops(default_loops())
        .input_limit(usize::MAX)
        .output_limits(usize::MAX - 1, usize::MAX)
        .read_timeout(Duration::MAX)
        .write_timeout(Duration::MAX)
        .linger(Duration::MAX);
    let unlimited = echo().read_timeout(None).write_timeout(None);
    for builder in [least, most, unlimited] {
        let server = Server::start(builder);
        let mut client = server.connect();
        client.echo(b"hello");
        client.half_close();
        assert_eq!(client.rest(), b"");
        assert_eq!(server.stop().aborted, 0);
    }
}

#[test]
fn callbacks_that_are_missing_or_misplaced_are_named() {
    refused(EventLoop::builder(), &["on_request"]);
    let prepare = |_: &Connection| -> Result<u8> { Ok(0) };
    refused(EventLoop::builder().on_prepare(prepare), &["on_request"]);
    let late = echo().on_prepare(prepare);
    refused(late.on_request(|_: &mut u8, conn: &mut Connection| echo_once(conn)), &["on_prepare"]);
}

#[test]
fn a_port_in_use_is_named() {
    // Where no other test has a port: this one is to be free again.
    let holder = TcpListener::bind("127.0.21.10:0").expect("a port");
    let address = holder.local_addr().expect("an address").to_string();
    let error = cannot_listen("tcp", &address, &["in use"]);
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    assert!(matches!(error, Error::Address { .. }), "{error:?}");
    drop(holder);
    eventually("it is free again", || Listener::bind("tcp", &address).is_ok());
}

#[test]
fn an_address_that_is_not_ours_is_named() {
    // Of a network that is kept for documents.
    let error = cannot_listen("tcp", "192.0.2.1:0", &[]);
    assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
}

#[test]
fn addresses_and_networks_that_make_no_sense_are_named() {
    for address in ["", "127.0.0.1", "localhost", ":", ":x", "127.0.0.1:99999", "127.0.0.1:http"]
        .into_iter()
        .chain(["127.0.0.1:+80", "localhost:+80", ":+80", "[::1%lo]:+80", "127.0.0.1: 80"])
    {
        let error = cannot_listen("tcp", address, &["listen"]);
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{address:?}: {error}");
    }
    for network in ["udp", "TCP", "", "tcp5"] {
        let error = cannot_listen(network, "127.0.0.1:0", &["network", "tcp4", "tcp6"]);
        assert!(matches!(error, Error::Config(_)), "{network:?}: {error:?}");
    }
    let error = cannot_listen("tcp6", "127.0.0.1:0", &["family"]);
    assert!(matches!(error, Error::Config(_)), "{error:?}");
    cannot_listen("tcp4", "[::1]:0", &["family"]);
}

#[test]
fn a_url_is_refused_with_what_to_write_instead() {
    let urls = [
        ("tcp", "tcp://127.0.0.1:0", r#""tcp", "127.0.0.1:0""#),
        ("tcp4", "http://localhost:0", r#""tcp4", "localhost:0""#),
        ("unix", "unix:///run/it", r#""unix", "/run/it""#),
        ("tcp://127.0.0.1:0", "", r#""tcp", "127.0.0.1:0""#),
    ];
    for (network, address, instead) in urls {
        cannot_listen(network, address, &[instead]);
        let error = dial_connection(network, address, PATIENCE).expect_err("a URL");
        is_a_sentence(&error, &[instead]);
        assert!(matches!(error, Error::Config(_)), "{error:?}");
    }
}

#[test]
fn a_network_of_one_family_listens() {
    let listener = Listener::bind("tcp4", "localhost:0").expect("this machine has it");
    let address = listener.local_addr().expect("an address").inet();
    assert!(address.is_some_and(|it| it.is_ipv4()));
}
