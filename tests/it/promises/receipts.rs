//! Receipts: each accepted message is told of exactly once, with what the socket took of it.

use std::sync::{Arc, Barrier, mpsc};
use std::thread;
use std::time::Duration;

use netpoll::{Connection, Delivery, Error, Handle};

use super::{handing_out, next};
use crate::util::{Client, Count, Server, echo_once, eventually, modes, noise, quiet};

fn served(dispatch: netpoll::Dispatch) -> (Server, mpsc::Receiver<Handle>) {
    let (builder, handles) = handing_out();
    let server = Server::start(
        builder
            .on_request(|(): &mut (), conn: &mut Connection| echo_once(conn))
            .linger(Duration::from_millis(50))
            .dispatch(dispatch),
    );
    (server, handles)
}

#[test]
fn a_receipt_tells_when_the_socket_has_taken_the_message() {
    const MUCH: usize = 16 << 20;
    for dispatch in modes() {
        let (server, handles) = served(dispatch);
        let mut client = server.connect();
        let handle = next(&handles);
        let (sender, receipts) = mpsc::channel();
        let told = sender.clone();
        let tell = move |delivery: Delivery| drop(told.send(("small", delivery)));
        handle.send_with("small", tell).expect("accepted");
        assert!(matches!(next(&receipts), ("small", Ok(()))), "{dispatch:?}");
        let tell = move |delivery: Delivery| drop(sender.send(("large", delivery)));
        handle.send_with(noise(1, MUCH), tell).expect("accepted");
        quiet(50);
        assert!(receipts.try_recv().is_err(), "{dispatch:?}: nobody reads");
        client.hear(b"small");
        client.hear(noise(1, MUCH));
        assert!(matches!(next(&receipts), ("large", Ok(()))), "{dispatch:?}");
        assert_eq!(handle.bytes_sent(), (MUCH + 5) as u64);
        assert!(receipts.recv().is_err(), "{dispatch:?}: told twice");
    }
}

/// A close that loses bytes: what was taken is counted, to the byte.
#[test]
fn a_receipt_tells_how_much_of_a_lost_message_was_taken() {
    const MUCH: usize = 16 << 20;
    type End = fn(&Handle);
    let ends: [End; 2] = [|handle| handle.close(), |handle| handle.abort()];
    for (dispatch, end) in modes().into_iter().flat_map(|it| ends.map(|end| (it, end))) {
        let (server, handles) = served(dispatch);
        let client = server.connect();
        let handle = next(&handles);
        let (sender, receipts) = mpsc::channel();
        let tell = move |delivery: Delivery| drop(sender.send(delivery));
        handle.send_with(noise(1, MUCH), tell).expect("accepted");
        end(&handle);
        let undelivered = next(&receipts).expect_err("nobody reads");
        assert!(matches!(undelivered.error, Error::Closed), "{undelivered}");
        assert_eq!(undelivered.written as u64, handle.bytes_sent(), "{dispatch:?}");
        assert!(undelivered.written > 0 && undelivered.written < MUCH, "{undelivered}");
        assert!(receipts.recv().is_err(), "{dispatch:?}: told twice");
        let refused = handle.send_with("late", |_| panic!("a message that was refused"));
        assert!(matches!(refused, Err(Error::Closed)), "{refused:?}");
        drop(client);
    }
}

/// Eight threads send until the connection is reset under them: as many receipts as messages were
/// accepted, and the bytes that they account for are those that the socket took.
#[test]
fn every_accepted_message_is_told_of_once_though_the_connection_dies() {
    const THREADS: usize = 8;
    for dispatch in modes() {
        for round in 0..5 {
            let (server, handles) = served(dispatch);
            let mut client = server.connect();
            let handle = next(&handles);
            let (accepted, told) = (Count::default(), Count::default());
            let (sender, written) = mpsc::channel();
            let go = Arc::new(Barrier::new(THREADS + 1));
            let threads: Vec<_> = (0..THREADS)
                .map(|number| {
                    let (handle, go, sender) = (handle.clone(), go.clone(), sender.clone());
                    let (accepted, told) = (accepted.clone(), told.clone());
                    thread::spawn(move || {
                        go.wait();
                        loop {
                            let len = 1 + 1000 * number;
                            let (told, sender) = (told.clone(), sender.clone());
                            let receipt = move |delivery: Delivery| {
                                told.add();
                                let part = delivery.map_or_else(|it| it.written, |()| len);
                                let _ = sender.send(part);
                            };
                            match handle.send_with(vec![7; len], receipt) {
                                Ok(()) => drop(accepted.add()),
                                Err(Error::Full) => thread::yield_now(),
                                Err(_) => return,
                            }
                        }
                    })
                })
                .collect();
            drop(sender);
            go.wait();
            client.hear(&vec![7; 1 << 20]);
            match round % 3 {
                0 => client.reset(),
                1 => handle.abort(),
                _ => handle.close(),
            }
            for thread in threads {
                thread.join().expect("a sender");
            }
            eventually("all are told of", || told.get() == accepted.get());
            let sum: usize = written.iter().sum();
            assert_eq!(sum as u64, handle.bytes_sent(), "{dispatch:?}, round {round}");
            quiet(5);
            assert_eq!(told.get(), accepted.get(), "{dispatch:?}, round {round}: told twice");
        }
    }
}

/// Told outside of every lock: it may use the connection, and panic.
#[test]
fn a_receipt_may_use_its_connection_and_may_panic() {
    for dispatch in modes() {
        let (server, handles) = served(dispatch);
        let mut client = server.connect();
        let handle = next(&handles);
        let again = handle.clone();
        let chain = move |_: Delivery| again.send(" and the second").expect("accepted");
        handle.send_with("the first", chain).expect("accepted");
        client.hear(b"the first and the second");
        handle.send_with(", a third", |_| panic!("told to")).expect("accepted");
        client.hear(b", a third");
        client.echo(b"it goes on");
    }
}
