//! Filters: what stands between the socket of a connection and its buffers.

mod attacks;
mod dialled;
mod ending;
mod floods;
mod handshakes;
mod splits;

use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use netpoll::filter::FilterServer;
use netpoll::{Connection, Error, EventLoop, EventLoopBuilder, Handle, Listener};

use crate::toy::{ASK, EMPTY, Toy, ToyClient, Toys};
use crate::util::{
    Client as _, Count, Gate, Journal, PATIENCE, Serving, connect, echo, eventually, inet, modes,
    noise, pool,
};

/// Serves with this filter; returns the address, too.
fn serve<S: Send + 'static>(
    builder: EventLoopBuilder<S>,
    filter: impl FilterServer + 'static,
) -> (Serving, SocketAddr) {
    serve_on(Listener::bind("tcp", "127.0.0.1:0").expect("a port"), builder, filter)
}

fn serve_on<S: Send + 'static>(
    listener: Listener,
    builder: EventLoopBuilder<S>,
    filter: impl FilterServer + 'static,
) -> (Serving, SocketAddr) {
    let address = inet(&listener);
    let event_loop = builder.build().expect("options");
    (Serving::start(event_loop, listener.filter(Arc::new(filter))), address)
}

/// A builder whose `on_connect` hands out the connection's handle.
fn handing_out() -> (EventLoopBuilder, mpsc::Receiver<Handle>) {
    let (sender, handles) = mpsc::channel();
    let builder = EventLoop::builder().on_connect(move |(): &mut (), conn: &mut Connection| {
        let _ = sender.send(conn.handle());
        Ok(())
    });
    (builder, handles)
}

#[track_caller]
fn next<T>(receiver: &mpsc::Receiver<T>) -> T {
    receiver.recv_timeout(PATIENCE).expect("it happens")
}

#[test]
fn what_is_sent_through_a_filter_arrives() {
    for dispatch in modes() {
        let (_serving, address) = serve(echo().dispatch(dispatch), Toys::default());
        let mut client = ToyClient::connect(address);
        for len in [1, 5, 4000, 4001, 300_000] {
            client.echo(noise(len, len));
        }
        client.finish().expect("an end");
        assert!(client.rest().expect("the peer ends in order").is_empty());
    }
}

/// Promise 29, with a filter: the send half belongs to no thread.
#[test]
fn any_thread_sends_through_a_filter_while_a_callback_is_blocked() {
    for dispatch in modes() {
        let (gate, entered) = (Gate::default(), Count::default());
        let (closed, seen) = (gate.clone(), entered.clone());
        let (builder, handles) = handing_out();
        let (_serving, address) = serve(
            builder
                .on_request(move |(): &mut (), _: &mut Connection| {
                    seen.add();
                    closed.pass();
                    Ok(())
                })
                .dispatch(dispatch),
            Toys::default(),
        );
        let mut client = ToyClient::connect(address);
        let handle = next(&handles);
        client.send(b"block").expect("sent");
        eventually("the callback runs", || entered.get() == 1);
        let senders: Vec<_> = (0..3_u8)
            .map(|number| {
                let handle = handle.clone();
                std::thread::spawn(move || {
                    for _ in 0..100 {
                        handle.send(vec![number; 1000]).expect("there is room");
                    }
                })
            })
            .collect();
        let heard = client.hear(300_000).expect("it is sent meanwhile");
        assert!(heard.chunks(1000).all(|message| message.iter().all(|it| *it == message[0])));
        for sender in senders {
            sender.join().expect("no panic");
        }
        gate.open();
    }
}

/// What the owner's receive makes the filter say, and what other threads seal, leaves in the order
/// in which it was sealed: the client checks the numbers.
#[test]
fn answers_of_the_filter_and_sends_of_other_threads_do_not_cross() {
    for dispatch in modes() {
        let (builder, handles) = handing_out();
        let (_serving, address) = serve(
            builder
                .on_request(|(): &mut (), conn: &mut Connection| {
                    let len = conn.reader().len();
                    conn.reader().skip(len)
                })
                .dispatch(dispatch),
            Toys::default(),
        );
        let mut client = ToyClient::connect(address);
        let handle = next(&handles);
        let sender = std::thread::spawn(move || {
            for _ in 0..2000 {
                handle.send_wait(vec![7; 100], None).expect("sent");
            }
        });
        let mut heard = 0;
        while heard < 200_000 {
            client.toy.will_say(ASK);
            client.say().expect("sent");
            client.receive().expect("each record has the next number");
            let len = client.buffered();
            heard += client.hear(len).expect("plain bytes").len();
        }
        sender.join().expect("no panic");
    }
}

#[test]
fn receipts_tell_when_the_socket_has_taken_the_last_byte_of_the_record() {
    const MUCH: usize = 8 << 20;
    let (builder, handles) = handing_out();
    let (_serving, address) = serve(
        builder
            .on_request(|(): &mut (), _: &mut Connection| Ok(()))
            .output_limits(1 << 20, 64 << 20),
        Toys::default(),
    );
    let mut client = ToyClient::connect(address);
    let handle = next(&handles);
    let (told, receipts) = mpsc::channel();
    let messages = MUCH / 10_000;
    for number in 0..messages {
        let told = told.clone();
        let receipt = move |delivery: netpoll::Delivery| {
            let _ = told.send((number, delivery.is_ok()));
        };
        handle.send_with(noise(number, 10_000), receipt).expect("there is room");
    }
    // The peer reads nothing: the socket has taken some, and the others wait.
    let before = std::iter::from_fn(|| receipts.recv_timeout(Duration::from_millis(200)).ok());
    let before: Vec<_> = before.collect();
    assert!(before.len() < messages, "the sockets hold {MUCH} bytes");
    let heard = client.hear(messages * 10_000).expect("all of it");
    for number in 0..messages {
        assert!(heard[number * 10_000..][..10_000] == *noise(number, 10_000), "message {number}");
    }
    let after: Vec<_> = (before.len()..messages).map(|_| next(&receipts)).collect();
    let all: Vec<_> = before.into_iter().chain(after).collect();
    assert_eq!(all, (0..messages).map(|number| (number, true)).collect::<Vec<_>>());

    // Of what is lost, a receipt says how much was taken.
    let told = told.clone();
    let receipt = move |delivery: netpoll::Delivery| {
        let written = delivery.expect_err("it is lost").written;
        let _ = told.send((written, false));
    };
    handle.send_with(vec![0; 32 << 20], receipt).expect("there is room");
    handle.abort();
    let (written, _) = next(&receipts);
    assert!(written < 32 << 20, "no socket holds so much");
}

#[test]
fn input_limit_counts_plain_bytes_and_holds_to_the_byte() {
    const LIMIT: usize = 10_001;
    for dispatch in modes() {
        let (journal, gate) = (Journal::default(), Gate::default());
        let (seen, closed) = (journal.clone(), gate.clone());
        let (_serving, address) = serve(
            EventLoop::builder()
                .on_request(move |(): &mut (), conn: &mut Connection| {
                    let len = conn.reader().len();
                    assert!(len <= LIMIT, "{len} bytes are buffered");
                    if len < LIMIT {
                        return Ok(());
                    }
                    closed.pass();
                    let all = conn.reader().read_bytes(len)?;
                    conn.writer().write_shared(all);
                    seen.add("full");
                    conn.writer().flush()
                })
                .input_limit(LIMIT)
                .dispatch(dispatch),
            Toys::default(),
        );
        let mut client = ToyClient::connect(address);
        let sent = noise(3, LIMIT * 20);
        let mut sending =
            ToyClient::over(client.socket.try_clone().expect("a clone"), client.toy.clone());
        let sender = std::thread::spawn(move || sending.send(sent));
        gate.open();
        assert!(client.hear(sent.len()).expect("all of it") == sent);
        sender.join().expect("no panic").expect("sent");
        assert_eq!(journal.len(), 20);
    }
}

#[test]
fn memory_budget_counts_what_waits_on_both_sides_of_a_filter() {
    let (builder, handles) = handing_out();
    let builder = builder
        .on_request(|(): &mut (), _: &mut Connection| Ok(()))
        .memory_budget(64 << 20)
        .dispatch(pool());
    let (serving, address) = serve(builder, Toys::default());
    let held = || serving.event_loop.memory().held;
    let client = ToyClient::connect(address);
    let handle = next(&handles);
    eventually("nothing is held", || held() == 0);
    // A part of a record waits for its rest.
    let record = client.toy.record(crate::toy::DATA, noise(1, 3000));
    let mut socket = client.socket.try_clone().expect("a clone");
    socket.write_all(&record[..2000]).expect("sent");
    eventually("the part is counted", || held() >= 2000);
    socket.write_all(&record[2000..]).expect("sent");
    eventually("the plain bytes are counted", || held() >= 3000);
    // The peer takes nothing: plain and sealed bytes wait.
    handle.send(vec![0; 16 << 20]).expect("there is room");
    eventually("the output is counted", || held() > (8 << 20));
    drop((client, socket));
    handle.abort();
    eventually("all is given back", || held() == 0);
}

/// Records that come in full leave nothing behind, and what was sent neither.
#[test]
fn an_idle_connection_keeps_no_block_for_its_filter() {
    for dispatch in modes() {
        let builder = echo().memory_budget(64 << 20).dispatch(dispatch);
        let (serving, address) = serve(builder, Toys::default());
        let mut clients: Vec<_> = (0..20).map(|_| ToyClient::connect(address)).collect();
        for client in &mut clients {
            client.echo(noise(9, 100_000));
            client.echo(b"a byte");
        }
        eventually("nothing is held", || serving.event_loop.memory().held == 0);
    }
}

#[test]
fn a_filter_is_shown_to_its_callbacks() {
    let journal = Journal::default();
    let seen = journal.clone();
    let (_serving, address) = serve(
        EventLoop::builder()
            .on_prepare(|conn: &Connection| {
                assert!(conn.filter().is_none(), "it is made after on_prepare");
                Ok(())
            })
            .on_connect(move |(): &mut (), conn: &mut Connection| {
                let filter = conn.filter().expect("it is there");
                let toy = filter.as_any().downcast_ref::<Toy>().expect("our own");
                seen.add(format!(
                    "{} opened",
                    toy.opened.load(std::sync::atomic::Ordering::SeqCst)
                ));
                Ok(())
            })
            .on_request(|(): &mut (), _: &mut Connection| Ok(())),
        Toys::default(),
    );
    let _client = ToyClient::connect(address);
    assert_eq!(journal.wait(1), ["2 opened"]);
}

#[test]
fn detach_is_refused_by_name() {
    let (told, errors) = mpsc::channel();
    let (_serving, address) = serve(
        EventLoop::builder().on_request(move |(): &mut (), conn: &mut Connection| {
            let _ = told.send(conn.detach().expect_err("it has a filter"));
            crate::util::echo_once(conn)
        }),
        Toys::default(),
    );
    let mut client = ToyClient::connect(address);
    client.echo(b"it goes on");
    let error = next(&errors);
    assert!(matches!(error, Error::Config(_)), "{error}");
    assert!(error.to_string().contains("cannot detach"), "{error}");
}

#[test]
fn one_listener_serves_clients_with_and_without_the_filter() {
    for dispatch in modes() {
        let toys = Toys { or_plain: true, ..Toys::default() };
        let (_serving, address) = serve(echo().dispatch(dispatch), toys);
        let mut plain = connect(address);
        let mut filtered = ToyClient::connect(address);
        plain.echo(b"plain bytes");
        filtered.echo(b"and others");
        plain.echo(noise(2, 1 << 20));
        filtered.echo(noise(2, 1 << 20));
        plain.half_close();
        assert!(plain.rest().is_empty());
        // One that ends before its first byte is served as any other.
        let silent = connect(address);
        silent.half_close();
        let mut silent = silent;
        assert!(silent.rest().is_empty());
    }
}

/// `EMPTY` records say nothing, and the next receive goes on behind them.
#[test]
fn records_without_plain_bytes_wake_no_callback() {
    for dispatch in modes() {
        let calls = Count::default();
        let called = calls.clone();
        let (_serving, address) = serve(
            EventLoop::builder()
                .on_request(move |(): &mut (), conn: &mut Connection| {
                    called.add();
                    crate::util::echo_once(conn)
                })
                .dispatch(dispatch),
            Toys::default(),
        );
        let mut client = ToyClient::connect(address);
        for _ in 0..20 {
            (0..50).for_each(|_| client.toy.will_say(EMPTY));
            client.say().expect("sent");
        }
        crate::util::quiet(20);
        assert_eq!(calls.get(), 0, "{dispatch:?}");
        client.echo(b"a byte at last");
        assert_eq!(calls.get(), 1, "{dispatch:?}");
    }
}
