//! Dials that go on by callback: where they run, how they fail, and what ends them early.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use netpoll::{
    CloseReason, Connection, Dialer, Dispatch, Error, EventLoop, EventLoopBuilder, Result, Timer,
};

use nix::sys::resource::{Resource, getrlimit};

use crate::dial::{full_listener, refusing};
use crate::errors::is_a_sentence;
use crate::util::{
    Client, Gate, PATIENCE, Server, alone, echo, eventually, hand_off, modes, name_of,
    set_fd_limit, sockets,
};

/// Says what became of a dial's callback: "called", or that it was dropped without a call.
struct Fate {
    told: Sender<String>,
    is_called: bool,
}

impl Fate {
    fn called(mut self, dialled: &Result<Connection>) {
        self.is_called = true;
        let outcome =
            dialled.as_ref().map_or_else(|it| format!("{:?}", it.kind()), |_| "ok".into());
        let _ = self.told.send(format!("called: {outcome}"));
    }
}

impl Drop for Fate {
    fn drop(&mut self) {
        if !self.is_called {
            let _ = self.told.send("dropped".into());
        }
    }
}

/// A server whose connections dial `address` as they connect, and then echo. What becomes of each
/// dial, and why its asker ends, comes by the channel.
fn asking(dialer: Dialer, address: &str) -> (EventLoopBuilder, Receiver<String>) {
    let (told, fates) = mpsc::channel();
    let address = address.to_owned();
    let ends = told.clone();
    let builder = EventLoop::builder()
        .on_connect(move |(): &mut (), conn: &mut Connection| {
            let fate = Fate { told: told.clone(), is_called: false };
            dialer.dial_then(&conn.handle(), "tcp", &address, |_, dialled| {
                fate.called(&dialled);
                Ok(())
            })?;
            Ok(())
        })
        .on_request(|(): &mut (), conn: &mut Connection| crate::util::echo_once(conn))
        .on_disconnect(move |(): (), why: &CloseReason| {
            let _ = ends.send(name_of(why));
        });
    (builder, fates)
}

fn dialer() -> Dialer {
    Dialer::builder().timeout(PATIENCE).build().expect("options")
}

fn next(told: &Receiver<String>) -> String {
    told.recv_timeout(PATIENCE).expect("it is told")
}

/// A listener, and its address in words.
fn origin() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    (listener, address)
}

fn accept(origin: &TcpListener) -> TcpStream {
    let (stream, _) = origin.accept().expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("an option");
    stream
}

#[test]
fn a_dial_goes_on_on_the_loop_of_its_asker_in_every_mode() {
    for dispatch in modes() {
        let (listener, address) = origin();
        let dialer = dialer();
        let server = Server::start(
            EventLoop::builder()
                .on_connect(move |(): &mut (), conn: &mut Connection| {
                    dialer.dial_then(&conn.handle(), "tcp", &address, |asker, dialled| {
                        let mut dialled = dialled?;
                        let (ours, its) = (asker.handle(), dialled.handle());
                        assert!(std::sync::Arc::ptr_eq(ours.remote(), its.remote()));
                        dialled.writer().write_string("to the origin");
                        asker.writer().write_string("to the client");
                        Ok(())
                    })?;
                    Ok(())
                })
                .on_request(|(): &mut (), _: &mut Connection| Ok(()))
                .dispatch(dispatch)
                .loops(2),
        );
        for _ in 0..4 {
            let mut client = server.connect();
            client.hear(b"to the client");
            assert_eq!(accept(&listener).rest(), b"to the origin");
        }
        assert_eq!(server.stop().aborted, 0);
    }
}

#[test]
fn no_thread_and_no_loop_waits_for_a_dial() {
    let (_full, address, _queued) = full_listener();
    let (builder, fates) = asking(dialer(), &address.to_string());
    let server = Server::start(builder.dispatch(Dispatch::Inline).loops(1));
    let clients: Vec<_> = (0..20)
        .map(|_| {
            let mut client = server.connect();
            client.echo(b"the callbacks of this connection run meanwhile");
            client
        })
        .collect();
    drop(clients);
    let fates: Vec<_> = (0..40).map(|_| next(&fates)).collect();
    assert_eq!(fates.iter().filter(|it| *it == "dropped").count(), 20, "{fates:?}");
}

#[test]
fn a_refusal_and_a_timeout_are_told_to_the_callback() {
    let (_full, full, _queued) = full_listener();
    let (_bound, refusing) = refusing();
    let refusing = refusing.to_string();
    for dispatch in modes() {
        for (address, time, kind) in [
            (refusing.as_str(), PATIENCE, "called: ConnectionRefused"),
            (&full.to_string(), Duration::from_millis(20), "called: TimedOut"),
        ] {
            let dialer = Dialer::builder().timeout(time).build().expect("options");
            let (builder, fates) = asking(dialer, address);
            let server = Server::start(builder.dispatch(dispatch));
            let mut client = server.connect();
            assert_eq!(next(&fates), kind);
            client.echo(b"its asker goes on");
        }
    }
}

#[test]
fn a_name_is_resolved_elsewhere_and_its_addresses_race() {
    let (_full, silent, _queued) = full_listener();
    let (_listener, answering) = origin();
    let answering: SocketAddr = answering.parse().expect("an address");
    let gate = Gate::default();
    let resolving = gate.clone();
    let resolver = move |_: &str, _: u16| {
        resolving.pass();
        Ok(vec![silent, answering])
    };
    let stagger = Duration::from_millis(10);
    let dialer = Dialer::builder().resolver(resolver).stagger(stagger).build().expect("options");
    let (builder, fates) = asking(dialer, "a.name:80");
    let server = Server::start(builder.dispatch(Dispatch::Inline).loops(1));
    let mut client = server.connect();
    client.echo(b"while the name is resolved");
    gate.open();
    assert_eq!(next(&fates), "called: ok");
}

#[test]
fn a_resolver_that_fails_is_told_to_the_callback() {
    let failing = |_: &str, _: u16| Err(io::Error::from(ErrorKind::NotFound));
    let dialer = Dialer::builder().resolver(failing).build().expect("options");
    let (builder, fates) = asking(dialer, "a.name:80");
    let server = Server::start(builder);
    let _client = server.connect();
    assert_eq!(next(&fates), "called: NotFound");
}

#[test]
fn the_end_of_the_asker_ends_the_dial_while_it_connects() {
    alone("dial_then::the_end_of_the_asker_ends_the_dial_while_it_connects", || {
        let (_full, address, _queued) = full_listener();
        for dispatch in modes() {
            let (builder, fates) = asking(dialer(), &address.to_string());
            let server = Server::start(builder.dispatch(dispatch));
            let before = sockets();
            let mut client = server.connect();
            client.echo(b"it is there, and dials");
            eventually("its three sockets are there", || sockets() == before + 3);
            drop(client);
            let mut two = [next(&fates), next(&fates)];
            two.sort();
            assert_eq!(two, ["Peer", "dropped"]);
            eventually("the dialled socket is closed", || sockets() == before);
        }
    });
}

#[test]
fn the_end_of_the_asker_ends_the_dial_while_its_name_is_resolved() {
    let gate = Gate::default();
    let resolving = gate.clone();
    let (listener, address) = origin();
    let address: SocketAddr = address.parse().expect("an address");
    listener.set_nonblocking(true).expect("an option");
    let resolver = move |_: &str, _: u16| {
        resolving.pass();
        Ok(vec![address])
    };
    let dialer = Dialer::builder().resolver(resolver).build().expect("options");
    let (builder, fates) = asking(dialer, "a.name:80");
    let server = Server::start(builder);
    let mut client = server.connect();
    client.echo(b"it is there, and dials");
    drop(client);
    let mut two = [next(&fates), next(&fates)];
    two.sort();
    assert_eq!(two, ["Peer", "dropped"]);
    gate.open();
    assert_eq!(server.stop().aborted, 0);
    let accepted = listener.accept().expect_err("it is not dialled any more");
    assert_eq!(accepted.kind(), ErrorKind::WouldBlock);
}

/// The asker's callback is still at work when the dial is through, and then ends the asker.
#[test]
fn the_end_of_the_asker_closes_what_was_dialled_and_not_taken() {
    for dispatch in [hand_off(), crate::util::pool()] {
        let (listener, address) = origin();
        let (gate, dialer) = (Gate::default(), dialer());
        let (told, fates) = mpsc::channel();
        let waiting = gate.clone();
        let server = Server::start(
            EventLoop::builder()
                .on_connect(move |(): &mut (), conn: &mut Connection| {
                    let fate = Fate { told: told.clone(), is_called: false };
                    dialer.dial_then(&conn.handle(), "tcp", &address, |_, dialled| {
                        fate.called(&dialled);
                        Ok(())
                    })?;
                    waiting.pass();
                    Err(Error::Closed)
                })
                .on_request(|(): &mut (), _: &mut Connection| Ok(()))
                .dispatch(dispatch),
        );
        let _client = server.connect();
        let mut dialled = accept(&listener);
        gate.open();
        assert_eq!(next(&fates), "dropped");
        assert_eq!(dialled.rest(), b"");
    }
}

#[test]
fn a_panic_in_the_callback_ends_both_and_no_other() {
    for dispatch in modes() {
        let (listener, address) = origin();
        let (told, ends) = mpsc::channel();
        let dialer = dialer();
        let server = Server::start(
            EventLoop::builder()
                .on_connect(move |(): &mut (), conn: &mut Connection| {
                    dialer.dial_then(&conn.handle(), "tcp", &address, |_, dialled| {
                        let _dialled = dialled?;
                        panic!("on purpose")
                    })?;
                    Ok(())
                })
                .on_request(|(): &mut (), _: &mut Connection| Ok(()))
                .on_disconnect(move |(): (), why: &CloseReason| {
                    let _ = told.send(name_of(why));
                })
                .dispatch(dispatch),
        );
        for _ in 0..3 {
            let mut client = server.connect();
            assert_eq!(accept(&listener).rest(), b"");
            assert_eq!(client.rest(), b"");
            assert_eq!(next(&ends), "Panic");
        }
    }
}

#[test]
fn an_error_of_the_callback_closes_the_asker() {
    let (_bound, address) = refusing();
    let address = address.to_string();
    let (told, ends) = mpsc::channel();
    let dialer = dialer();
    let server = Server::start(
        EventLoop::builder()
            .on_connect(move |(): &mut (), conn: &mut Connection| {
                let told = told.clone();
                dialer.dial_then(&conn.handle(), "tcp", &address, move |_, dialled| {
                    let error = dialled.expect_err("it is refused");
                    let _ = told.send(error.to_string());
                    Err(error)
                })?;
                Ok(())
            })
            .on_request(|(): &mut (), _: &mut Connection| Ok(())),
    );
    let mut client = server.connect();
    assert_eq!(client.rest(), b"");
    is_a_sentence(&next(&ends), &["dial tcp", "refused"]);
}

#[test]
fn a_shutdown_ends_the_dials_of_its_askers() {
    let (_full, address, _queued) = full_listener();
    for dispatch in modes() {
        for patience in [PATIENCE, Duration::ZERO] {
            let (builder, fates) = asking(dialer(), &address.to_string());
            let server = Server::start(builder.dispatch(dispatch));
            let mut client = server.connect();
            client.echo(b"it is there, and dials");
            server.event_loop.shutdown(patience);
            server.join();
            let mut two = [next(&fates), next(&fates)];
            two.sort();
            assert_eq!(two, ["Shutdown", "dropped"]);
        }
    }
}

#[test]
fn a_dial_without_a_descriptor_is_told_so() {
    alone("dial_then::a_dial_without_a_descriptor_is_told_so", || {
        let (_listener, address) = origin();
        let dialer = dialer();
        let (told, outcomes) = mpsc::channel();
        let server = Server::start(
            echo()
                .on_connect(|(): &mut (), _: &mut Connection| Ok(()))
                .on_request(move |(): &mut (), conn: &mut Connection| {
                    let told = told.clone();
                    conn.reader().next(1)?;
                    dialer.dial_then(&conn.handle(), "tcp", &address, move |_, dialled| {
                        let _ =
                            told.send(dialled.map_or_else(|it| it.to_string(), |_| "ok".into()));
                        Ok(())
                    })?;
                    Ok(())
                })
                .dispatch(Dispatch::Inline)
                .loops(1),
        );
        let mut client = server.connect();
        client.say(b"1");
        assert_eq!(next(&outcomes), "ok");
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
        set_fd_limit(3);
        client.say(b"2");
        is_a_sentence(&next(&outcomes), &["dial tcp", "Too many open files"]);
        set_fd_limit(most);
        client.say(b"3");
        assert_eq!(next(&outcomes), "ok");
    });
}

#[test]
fn a_timer_that_is_cancelled_ends_its_dial() {
    let (_full, address, _queued) = full_listener();
    let (told, fates) = mpsc::channel();
    let (timers, cancelled) = mpsc::channel::<Timer>();
    let dialer = dialer();
    let server = Server::start(
        EventLoop::builder()
            .on_connect(move |(): &mut (), conn: &mut Connection| {
                let fate = Fate { told: told.clone(), is_called: false };
                let timer = dialer.dial_then(
                    &conn.handle(),
                    "tcp",
                    &address.to_string(),
                    |_, dialled| {
                        fate.called(&dialled);
                        Ok(())
                    },
                )?;
                let _ = timers.send(timer);
                Ok(())
            })
            .on_request(|(): &mut (), conn: &mut Connection| crate::util::echo_once(conn)),
    );
    let mut client = server.connect();
    cancelled.recv_timeout(PATIENCE).expect("a timer").cancel();
    assert_eq!(next(&fates), "dropped");
    client.echo(b"its asker goes on");
}

#[test]
fn any_thread_dials_for_a_connection_until_that_has_ended() {
    let (listener, address) = origin();
    let (handles, connected) = mpsc::channel();
    let server = Server::start(echo().on_connect(move |(): &mut (), conn: &mut Connection| {
        let _ = handles.send(conn.handle());
        Ok(())
    }));
    let client = server.connect();
    let asker = connected.recv_timeout(PATIENCE).expect("a connection");
    let (told, outcomes) = mpsc::channel();
    let dial = |network: &str, address: &str| {
        let told = told.clone();
        dialer().dial_then(&asker, network, address, move |_, dialled| {
            let _ = told.send(dialled.map_or_else(|it| it.to_string(), |_| "ok".into()));
            Ok(())
        })
    };
    dial("tcp", &address).expect("a dial");
    assert_eq!(next(&outcomes), "ok");
    assert_eq!(accept(&listener).rest(), b"");
    for (network, address) in [("udp", "127.0.0.1:1"), ("tcp", "no port"), ("tcp6", "1.2.3.4:5")] {
        assert!(matches!(dial(network, address), Err(Error::Config(_))), "{network} {address}");
    }
    let zero = dialer().dial_then_within(&asker, "tcp", &address, Duration::ZERO, |_, _| Ok(()));
    assert!(matches!(zero, Err(Error::Config(_))), "{zero:?}");

    drop(client);
    eventually("it has ended", || server.event_loop.stats().connections == 0);
    assert!(matches!(dial("tcp", &address), Err(Error::Closed)));
    let driven = netpoll::dial_connection("tcp", &address, PATIENCE).expect("a connection");
    let refused = dialer().dial_then(&driven.handle(), "tcp", &address, |_, _| Ok(()));
    assert!(matches!(refused, Err(Error::Config(_))), "{refused:?}");
}
