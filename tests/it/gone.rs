//! Watching for a peer that vanishes while something else is waited for on its behalf.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use netpoll::{Connection, Dispatch, EventLoop, EventLoopBuilder, Handle, Hold, dial_connection};

use crate::replies::next;
use crate::util::{
    Client, Count, Gate, Journal, PATIENCE, Server, echo_once, eventually, hand_off, modes, pool,
    quiet,
};

/// A server that hands out the handle of each connection, held, and echoes.
fn handing_out(dispatch: Dispatch) -> (EventLoopBuilder, Receiver<(Handle, Hold)>) {
    let (sender, handles) = mpsc::channel();
    let builder = EventLoop::builder()
        .on_connect(move |(): &mut (), conn: &mut Connection| {
            let _ = sender.send((conn.handle(), conn.hold()?));
            Ok(())
        })
        .on_request(|(): &mut (), conn: &mut Connection| echo_once(conn))
        .dispatch(dispatch);
    (builder, handles)
}

fn told(sender: &Sender<&'static str>, what: &'static str) -> impl FnOnce() + Send + 'static {
    let sender = sender.clone();
    move || sender.send(what).unwrap_or_default()
}

/// What a gateway does: its callback waits for another server, which never answers.
#[test]
fn a_callback_that_waits_for_another_server_gives_up_when_its_client_vanishes() {
    for dispatch in [pool(), hand_off()] {
        for by_reset in [true, false] {
            let origin = TcpListener::bind("127.0.0.1:0").expect("a port");
            let address = origin.local_addr().expect("an address").to_string();
            let (journal, asked) = (Journal::default(), Count::default());
            let (told, asking) = (journal.clone(), asked.clone());
            let server = EventLoop::builder()
                .on_request(move |(): &mut (), client: &mut Connection| {
                    client.reader().skip(1)?;
                    let mut origin = dial_connection("tcp", &address, PATIENCE)?;
                    let dialled = origin.handle();
                    let _watch = if by_reset {
                        client.on_gone(move || dialled.abort())
                    } else {
                        client.on_gone_or_ended(move || dialled.abort())
                    };
                    asking.add();
                    let error = origin.reader().read_byte().expect_err("it never answers");
                    told.add(format!("{:?}", error.kind()));
                    Ok(())
                })
                .dispatch(dispatch);
            let server = Server::start(server);
            let mut client = server.connect();
            client.say(b"?");
            let (mut silent, _) = origin.accept().expect("it is dialled");
            eventually("it waits", || asked.get() == 1);
            if by_reset {
                client.reset();
            } else {
                drop(client);
            }
            assert_eq!(journal.wait(1), ["NotConnected"], "{dispatch:?}");
            silent.set_read_timeout(Some(PATIENCE)).expect("an option");
            assert!(silent.read(&mut [0]).is_err(), "the call was aborted");
        }
    }
}

/// It may wait for its answer; so only a watch that asks for it is told.
#[test]
fn a_peer_that_has_ended_its_stream_is_gone_only_where_that_was_asked_for() {
    for dispatch in modes() {
        let (builder, handles) = handing_out(dispatch);
        let server = Server::start(builder);
        let client = server.connect();
        let (handle, hold) = next(&handles);
        let (sender, heard) = mpsc::channel();
        let watches = [
            handle.on_gone(told(&sender, "gone")),
            handle.on_gone_or_ended(told(&sender, "gone or ended")),
        ];
        client.half_close();
        assert_eq!(next(&heard), "gone or ended", "{dispatch:?}");
        assert!(!handle.is_gone() && !handle.is_active());
        quiet(20);
        assert!(heard.try_recv().is_err());
        client.reset();
        assert_eq!(next(&heard), "gone", "{dispatch:?}");
        assert!(handle.is_gone());
        drop((watches, hold));
        quiet(5);
        assert!(heard.try_recv().is_err(), "once each");
    }
}

/// The closure is dropped at once; a drop that panics ends nothing.
#[test]
fn a_watch_that_is_dropped_calls_nothing() {
    struct Malicious;
    impl Drop for Malicious {
        fn drop(&mut self) {
            panic!("on purpose");
        }
    }
    for dispatch in modes() {
        let (builder, handles) = handing_out(dispatch);
        let server = Server::start(builder);
        let mut client = server.connect();
        let (handle, _hold) = next(&handles);
        let (sender, heard) = mpsc::channel();
        let (kept, dropped) =
            (handle.on_gone(told(&sender, "kept")), handle.on_gone(told(&sender, "dropped")));
        let malicious = Malicious;
        drop(handle.on_gone(move || drop(malicious)));
        drop((dropped, sender));
        client.echo(b"callbacks go on");
        client.reset();
        assert_eq!(next(&heard), "kept", "{dispatch:?}");
        assert!(heard.recv_timeout(PATIENCE).is_err(), "what the closures captured is dropped");
        drop(kept);
    }
}

#[test]
fn a_peer_that_has_gone_before_is_told_of_at_once_on_this_thread() {
    for dispatch in modes() {
        let (builder, handles) = handing_out(dispatch);
        let server = Server::start(builder);
        let client = server.connect();
        let (handle, hold) = next(&handles);
        client.half_close();
        eventually("it sees the end", || !handle.is_active());
        let (sender, heard) = mpsc::channel();
        let here = |what: &'static str| {
            let (sender, us) = (sender.clone(), thread::current().id());
            move || sender.send((what, thread::current().id() == us)).unwrap_or_default()
        };
        let ended = handle.on_gone_or_ended(here("ended"));
        assert_eq!(heard.try_recv(), Ok(("ended", true)), "{dispatch:?}");
        client.reset();
        eventually("it sees the reset", || handle.is_gone());
        let gone = handle.on_gone(here("gone"));
        assert_eq!(heard.try_recv(), Ok(("gone", true)), "{dispatch:?}");
        drop((hold, server, ended, gone));
        let closed = handle.on_gone(here("closed"));
        assert_eq!(heard.try_recv(), Ok(("closed", true)), "{dispatch:?}");
        drop(closed);
        assert!(heard.try_recv().is_err(), "once each");
    }
}

/// Every end of a connection is one, whichever side ends it.
#[test]
fn a_watch_is_told_of_every_end_once() {
    type End = fn(&Handle, &Server);
    let ends: [(&str, End); 8] = [
        ("close", |handle, _| handle.close()),
        ("abort", |handle, _| handle.abort()),
        ("shutdown_write", |handle, _| handle.shutdown_write()),
        ("deadline", |handle, _| handle.close_at(Some(Instant::now()))),
        ("error", |handle, _| drop(handle.run(|_| Err(netpoll::Error::Closed)))),
        ("panic", |handle, _| drop(handle.run(|_| panic!("on purpose")))),
        ("close in a callback", |handle, _| {
            drop(handle.run(|conn| {
                conn.close();
                Ok(())
            }));
        }),
        ("shutdown", |_, server| server.event_loop.shutdown(Duration::from_millis(1))),
    ];
    for dispatch in modes() {
        for (name, end) in ends {
            let (builder, handles) = handing_out(dispatch);
            let server = Server::start(builder);
            let _client = server.connect();
            let (handle, hold) = next(&handles);
            let (sender, heard) = mpsc::channel();
            let watch = handle.on_gone(told(&sender, name));
            end(&handle, &server);
            assert_eq!(next(&heard), name, "{dispatch:?}");
            assert!(handle.is_gone(), "{dispatch:?}, {name}");
            drop((hold, server, watch));
            assert!(heard.try_recv().is_err(), "{dispatch:?}, {name}: once");
        }
    }
}

/// The callback has the connection, so none of its steps can tell.
#[test]
fn a_watch_is_told_at_once_of_an_end_by_another_thread_while_a_callback_blocks() {
    type End = fn(&Handle);
    let ends: [(&str, End); 4] = [
        ("close", Handle::close),
        ("abort", Handle::abort),
        ("shutdown_write", Handle::shutdown_write),
        ("deadline", |handle| handle.close_at(Some(Instant::now()))),
    ];
    for dispatch in [pool(), hand_off()] {
        for (name, end) in ends {
            let (gate, inside) = (Gate::default(), Count::default());
            let (closed, entered) = (gate.clone(), inside.clone());
            let (sender, handles) = mpsc::channel();
            let server = EventLoop::builder()
                .on_request(move |(): &mut (), conn: &mut Connection| {
                    let _ = sender.send(conn.handle());
                    entered.add();
                    closed.pass();
                    Ok(())
                })
                .dispatch(dispatch);
            let server = Server::start(server);
            let mut client = server.connect();
            client.say(b"?");
            let handle: Handle = next(&handles);
            eventually("it blocks", || inside.get() == 1);
            let (sender, heard) = mpsc::channel();
            let _watch = handle.on_gone(told(&sender, name));
            end(&handle);
            assert_eq!(next(&heard), name, "{dispatch:?}");
            assert!(handle.is_gone(), "{dispatch:?}, {name}");
            gate.open();
        }
    }
}

/// It may run on the loop, which must not stand still.
#[test]
fn a_closure_that_panics_or_would_wait_holds_up_no_loop() {
    for dispatch in modes() {
        let (builder, handles) = handing_out(dispatch);
        let server = Server::start(builder);
        let client = server.connect();
        let (handle, _hold) = next(&handles);
        let mut other = server.connect();
        let (address, (sender, heard)) = (server.address.to_string(), mpsc::channel());
        let waiting = || {
            let (address, sender) = (address.clone(), sender.clone());
            move || {
                let waits = dial_connection("tcp", &address, PATIENCE).map(drop);
                let _ = sender.send(format!("{waits:?}"));
            }
        };
        let watches = [handle.on_gone(|| panic!("on purpose")), handle.on_gone(waiting())];
        client.reset();
        let on_the_loop = next(&heard);
        let here = handle.on_gone(waiting());
        for refused in [on_the_loop, next(&heard)] {
            assert!(refused.contains("must not wait"), "{refused}");
        }
        other.echo(b"the loop goes on");
        drop((watches, here));
    }
}

/// Of a connection that a caller drives, the loop learns as well.
#[test]
fn a_dialled_connection_is_watched_while_its_caller_does_something_else() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let dialled = dial_connection("tcp", &address, PATIENCE).expect("it listens");
    let (peer, _) = listener.accept().expect("it is dialled");
    let (sender, heard) = mpsc::channel();
    let watch = dialled.on_gone(told(&sender, "gone"));
    peer.reset();
    assert_eq!(next(&heard), "gone");
    drop((watch, dialled));
}

/// Each closure is either called or dropped with its watch, never both, and never twice.
#[test]
fn a_watch_that_meets_the_end_is_called_once_or_not_at_all() {
    const CONNECTIONS: usize = 200;
    for dispatch in modes() {
        let (builder, handles) = handing_out(dispatch);
        let server = Server::start(builder);
        let clients: Vec<TcpStream> = (0..CONNECTIONS).map(|_| server.connect()).collect();
        let handles: Vec<_> = clients.iter().map(|_| next(&handles)).collect();
        let (start, called, released) = (Gate::default(), Count::default(), Count::default());
        let (gate, calls, drops) = (start.clone(), called.clone(), released.clone());
        let watching = thread::spawn(move || {
            gate.pass();
            for (handle, _hold) in &handles {
                let (calls, on_drop) = (calls.clone(), OnDrop(drops.clone()));
                drop(handle.on_gone(move || {
                    calls.add();
                    drop(on_drop);
                }));
            }
        });
        start.open();
        clients.into_iter().for_each(Client::reset);
        watching.join().expect("no panic");
        eventually("each closure is dropped once", || released.get() == CONNECTIONS);
        assert!(called.get() <= CONNECTIONS, "{dispatch:?}: {} calls", called.get());
    }
}

struct OnDrop(Count);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.add();
    }
}
