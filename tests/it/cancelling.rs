//! Checkouts and calls that are given up, by any thread, while another one waits in them.

use std::io::{ErrorKind, Read};
use std::net::TcpListener;
use std::sync::mpsc;
use std::thread;

use netpoll::{
    Cancel, Connection, DialConnection, Dialer, Error, EventLoop, Handle, Limits, Mux,
    OutputLimits, Pool, Result,
};

use crate::dial::full_listener;
use crate::mux::{Frames, request, serve};
use crate::pool::Scene;
use crate::util::{Client, Count, Journal, PATIENCE, Server, eventually, hand_off, pool, quiet};

fn assert_interrupted<T>(outcome: Result<T>) {
    let error = outcome.map(drop).expect_err("it was cancelled");
    assert_eq!(error.kind(), ErrorKind::Interrupted, "{error}");
}

#[test]
fn a_checkout_that_waits_ends_and_leaves_its_place_to_the_next() {
    let scene = Scene::of(Pool::builder().max_open(1));
    let (held, cancel) = (scene.checkout(), Cancel::new());
    thread::scope(|scope| {
        let checkout =
            || scene.pool.checkout_with("tcp", &scene.address, PATIENCE, &cancel).map(drop);
        let (first, next) = (scope.spawn(checkout), scope.spawn(|| scene.checkout()));
        scene.await_waiting(2);
        cancel.cancel();
        assert_interrupted(first.join().expect("no panic"));
        scene.await_waiting(1);
        held.keep();
        drop(next.join().expect("no panic"));
        assert_interrupted(checkout());
    });
    let stats = scene.pool.stats();
    assert_eq!((stats.open, stats.waiting, stats.timed_out), (1, 0, 0), "{stats:?}");
}

/// The dial of a pool's dialer ends, too; a dialer that knows no cancel is not asked to dial.
#[test]
fn a_checkout_that_dials_ends_the_dial() {
    struct Counting(Count);
    impl DialConnection for Counting {
        fn dial_connection(&self, _: &str, _: &str, _: std::time::Duration) -> Result<Connection> {
            self.0.add();
            Err(Error::Closed)
        }
    }
    let (_listener, address, _queued) = full_listener();
    let dialer = Dialer::new(Limits::default()).expect("limits");
    let (scene, cancel) = (Pool::builder().build(dialer).expect("options"), Cancel::new());
    thread::scope(|scope| {
        let checkout = scope.spawn(|| {
            scene.checkout_with("tcp", &address.to_string(), PATIENCE, &cancel).map(drop)
        });
        eventually("it dials", || scene.stats().open == 1);
        cancel.cancel();
        assert_interrupted(checkout.join().expect("no panic"));
    });
    assert_eq!(scene.stats().open, 0);
    let dials = Count::default();
    let simple = Pool::builder().build(Counting(dials.clone())).expect("options");
    assert_interrupted(simple.checkout_with("tcp", "127.0.0.1:1", PATIENCE, &cancel));
    assert_eq!(dials.get(), 0);
}

#[test]
fn a_call_that_waits_for_its_response_ends_and_the_others_go_on() {
    let (asked, answers) = (Count::default(), mpsc::channel::<()>());
    let (count, go) = (asked.clone(), std::sync::Mutex::new(answers.1));
    let server = serve(move |mut stream| {
        // The first request is answered last.
        let first = request(&mut stream).expect("a request");
        count.add();
        let second = request(&mut stream).expect("a request");
        stream.say(&second);
        let _ = go.lock().map(|go| go.recv());
        stream.say(&first);
        let third = request(&mut stream).expect("a request");
        stream.say(&third);
        let _ = stream.read(&mut [0]);
    });
    let mux = Mux::<Frames>::builder().connections(1);
    let mux = mux.build("tcp", &server.to_string(), Frames).expect("options");
    let cancel = Cancel::new();
    thread::scope(|scope| {
        let slow = scope.spawn(|| mux.call_with(b"slow".to_vec(), PATIENCE, &cancel));
        eventually("it has asked", || asked.get() == 1);
        assert_eq!(mux.call(b"quick".to_vec(), PATIENCE).expect("an answer"), b"quick");
        cancel.cancel();
        assert_interrupted(slow.join().expect("no panic"));
    });
    assert_interrupted(mux.call_with(b"never sent".to_vec(), PATIENCE, &cancel));
    answers.0.send(()).expect("the server waits");
    eventually("its response is late", || mux.stats().late == 1);
    assert_eq!(mux.call(b"next".to_vec(), PATIENCE).expect("an answer"), b"next");
    assert_eq!((mux.stats().waiting, mux.stats().given_up), (0, 0));
}

#[test]
fn a_call_ends_while_its_connection_is_dialled_or_takes_no_more() {
    let (_listener, full, _queued) = full_listener();
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("an address");
    let limits =
        Limits { output: OutputLimits { low: 1 << 10, high: 2 << 10 }, ..Limits::default() };
    let muxes = [full, address].map(|address| {
        let mux = Mux::<Frames>::builder().connections(1).limits(limits);
        mux.build("tcp", &address.to_string(), Frames).expect("options")
    });
    let (before, cancel) = (Cancel::new(), Cancel::new());
    thread::scope(|scope| {
        // Its socket takes no more after this one, so the next call waits for room.
        let filling = scope.spawn(|| muxes[1].call_with(vec![0; 32 << 20], PATIENCE, &before));
        eventually("it has asked", || muxes[1].stats().flushes == 1);
        let calls =
            muxes.each_ref().map(|it| scope.spawn(|| it.call_with(vec![1], PATIENCE, &cancel)));
        quiet(20);
        assert!(calls.iter().all(|it| !it.is_finished()), "both wait");
        cancel.cancel();
        for call in calls {
            assert_interrupted(call.join().expect("no panic"));
        }
        assert_eq!(muxes[1].stats().waiting, 1);
        before.cancel();
        assert_interrupted(filling.join().expect("no panic"));
    });
}

/// What a gateway does: its client vanishes while it waits for a connection to another server.
#[test]
fn a_callback_that_waits_for_a_pool_gives_up_when_its_client_vanishes() {
    for dispatch in [pool(), hand_off()] {
        let scene = Scene::of(Pool::builder().max_open(1));
        let held = scene.checkout();
        let (servers, address) = (scene.pool.clone(), scene.address.clone());
        let (journal, told) = (Journal::default(), Journal::default());
        let heard = told.clone();
        let server = EventLoop::builder()
            .on_request(move |(): &mut (), client: &mut Connection| {
                client.reader().skip(1)?;
                let cancel = Cancel::new();
                let _watch = client.on_gone({
                    let cancel = cancel.clone();
                    move || cancel.cancel()
                });
                let outcome = servers.checkout_with("tcp", &address, PATIENCE, &cancel);
                heard.add(format!("{:?}", outcome.map(drop).map_err(|it| it.kind())));
                Ok(())
            })
            .on_disconnect(journal.on_disconnect())
            .dispatch(dispatch);
        let server = Server::start(server);
        let mut client = server.connect();
        client.say(b"?");
        scene.await_waiting(1);
        client.reset();
        assert_eq!(told.wait(1), ["Err(Interrupted)"], "{dispatch:?}");
        scene.await_waiting(0);
        drop(held);
        journal.wait(1);
    }
}

/// Both end at the same moment, again and again: nothing is lost, and nothing is granted twice.
#[test]
fn a_grant_that_meets_a_cancel_is_used_or_goes_to_the_next() {
    let scene = Scene::of(Pool::builder().max_open(1));
    for _ in 0..300 {
        let (held, cancel) = (scene.checkout(), Cancel::new());
        thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                let outcome = scene.pool.checkout_with("tcp", &scene.address, PATIENCE, &cancel);
                outcome.map(|it| it.keep())
            });
            scene.await_waiting(1);
            let cancelling = scope.spawn(|| cancel.cancel());
            held.keep();
            cancelling.join().expect("no panic");
            if let Err(error) = waiting.join().expect("no panic") {
                assert_eq!(error.kind(), ErrorKind::Interrupted);
            }
        });
        scene.checkout().keep();
    }
    let stats = scene.pool.stats();
    assert_eq!((stats.open, stats.idle, stats.waiting), (1, 1, 0), "{stats:?}");
}

/// The handle of a pool's connection ends the exchange that follows the checkout.
#[test]
fn the_handle_of_a_pooled_connection_ends_its_exchange() {
    let scene = Scene::of(Pool::builder());
    let (mut pooled, _silent) = scene.pair();
    let handle: Handle = pooled.handle();
    thread::scope(|scope| {
        let reading = scope.spawn(move || pooled.reader().read_byte().map(drop));
        handle.abort();
        assert!(reading.join().expect("no panic").is_err());
    });
    assert_eq!(scene.pool.stats().open, 0);
}
