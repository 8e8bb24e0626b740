//! Handles: many threads send to one connection, and old handles reach no other connection.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use netpoll::{Bytes, Connection, Error, EventLoop, Handle};

use crate::loggers::listen;
use crate::util::{
    Client, PATIENCE, Random, Server, alone, echo_once, eventually, hand_off, lock, modes, noise,
    within,
};

const SENDERS: usize = 8;
const MESSAGES: usize = 500;

/// A server that gives out the handle of each connection that it accepts.
fn handing_out(dispatch: netpoll::Dispatch) -> (Server, mpsc::Receiver<Handle>) {
    let (sender, handles) = mpsc::channel();
    let server = Server::start(
        EventLoop::builder()
            .on_connect(move |(): &mut (), conn: &mut Connection| {
                let _ = sender.send(conn.handle());
                Ok(())
            })
            .on_request(|(): &mut (), conn: &mut Connection| echo_once(conn))
            .dispatch(dispatch),
    );
    (server, handles)
}

/// `[sender, number, length]`, then that many bytes which follow from all three.
fn message(sender: usize, number: usize, length: usize) -> Bytes {
    let mut message: Vec<u8> =
        [sender, number, length].into_iter().flat_map(|it| (it as u32).to_le_bytes()).collect();
    message.extend_from_slice(noise(sender * 1_000_003 + number * 7919 + length, length));
    message.into()
}

fn send_all(handle: &Handle, sender: usize, seed: u64) -> usize {
    let mut random = Random::new(seed + 2 * sender as u64);
    let mut refused = 0;
    for number in 0..MESSAGES {
        let message = message(sender, number, random.size(15));
        let taken = within(PATIENCE, || match handle.send(message.clone()) {
            Ok(()) => true,
            Err(Error::Full) => {
                refused += 1;
                false
            }
            Err(error) => panic!("seed {seed}: {error}"),
        });
        assert!(taken, "seed {seed}: the queue stays full");
    }
    refused
}

/// Reads messages until each sender's last, and checks that each is whole and in its order.
fn hear_all(client: &mut TcpStream, seed: u64) {
    let mut next = [0; SENDERS];
    let mut body = Vec::new();
    for _ in 0..SENDERS * MESSAGES {
        let mut head = [0; 12];
        client.read_exact(&mut head).expect("a message");
        let field = |at: usize| {
            u32::from_le_bytes(head[at * 4..][..4].try_into().expect("four bytes")) as usize
        };
        let (sender, number, length) = (field(0), field(1), field(2));
        assert!(sender < SENDERS && number == next[sender], "seed {seed}: torn, lost or reordered");
        next[sender] += 1;
        body.resize(length, 0);
        client.read_exact(&mut body).expect("the rest of a message");
        assert!(body == message(sender, number, length)[12..], "seed {seed}: another message");
    }
    assert_eq!(next, [MESSAGES; SENDERS]);
}

#[test]
fn eight_threads_send_to_one_connection_and_nothing_is_lost() {
    for dispatch in modes() {
        let seed = Random::seed();
        let (server, handles) = handing_out(dispatch);
        let mut client = server.connect();
        let handle = handles.recv_timeout(PATIENCE).expect("a connection");
        let senders: Vec<_> = (0..SENDERS)
            .map(|sender| {
                let handle = handle.clone();
                thread::spawn(move || send_all(&handle, sender, seed))
            })
            .collect();
        eventually("the queue fills before anybody reads", || handle.pending() > 1 << 20);
        hear_all(&mut client, seed);
        let refused: usize = senders.into_iter().map(|it| it.join().expect("a sender")).sum();
        assert!(refused > 0, "the queue was never full, so nothing was tested there");
        assert_eq!(handle.pending(), 0);
        client.echo(b"and the other way still works");
    }
}

#[test]
fn a_handle_sends_while_a_callback_blocks() {
    let (sender, handles) = mpsc::channel();
    let server = Server::start(EventLoop::builder().on_request(
        move |(): &mut (), conn: &mut Connection| {
            conn.reader().skip(5)?;
            sender.send(conn.handle()).expect("the test listens");
            let answer = conn.reader().read_bytes(6)?;
            conn.writer().write_shared(answer);
            Ok(())
        },
    ));
    let mut client = server.connect();
    client.say(b"begin");
    let handle = handles.recv_timeout(PATIENCE).expect("a callback");
    handle.send("meanwhile").expect("it is sent");
    client.hear(b"meanwhile");
    client.echo(b"finish");
}

/// What a client receives must be its own: connections come and go, so descriptors and slots are
/// used again at once, while the handles of the closed ones keep sending.
/// Sends a message where it is dropped, and passes the receipt on.
struct Farewell(Handle, mpsc::Sender<netpoll::Delivery>);

impl Drop for Farewell {
    fn drop(&mut self) {
        let told = self.1.clone();
        let bytes = Bytes::from_static(b"bye");
        let sent = self.0.send_with(bytes, move |delivery| drop(told.send(delivery)));
        sent.expect("it is open");
    }
}

/// A thread that ends drops our thread-locals before those of its user that are older.
#[test]
fn a_destructor_of_a_thread_local_may_send_and_is_told_what_became_of_it() {
    thread_local! {
        static LAST: RefCell<Option<Farewell>> = const { RefCell::new(None) };
    }
    for dispatch in modes() {
        let (server, handles) = handing_out(dispatch);
        let mut client = server.connect();
        let handle = handles.recv_timeout(PATIENCE).expect("a handle");
        let (told, deliveries) = mpsc::channel();
        let sender = thread::spawn(move || {
            LAST.set(Some(Farewell(handle.clone(), told.clone())));
            // Ours are younger.
            drop(Farewell(handle, told));
        });
        sender.join().expect("it does not panic");
        client.hear(b"byebye");
        assert_eq!(deliveries.iter().flatten().count(), 2, "{dispatch:?}");
    }
}

#[test]
fn old_handles_reach_no_later_connection() {
    const ROUNDS: usize = 1500;
    for dispatch in modes() {
        let old = Arc::new(Mutex::new(Vec::<(Handle, Bytes)>::new()));
        let done = Arc::new(AtomicBool::new(false));
        let keeper = old.clone();
        let server = Server::start(
            EventLoop::builder()
                .on_request(move |(): &mut (), conn: &mut Connection| {
                    let tag = conn.reader().read_bytes(8)?;
                    conn.writer().write_shared(tag.clone());
                    conn.writer().flush()?;
                    let mut old = lock(&keeper);
                    if old.len() >= 256 {
                        old.drain(..128);
                    }
                    old.push((conn.handle(), tag));
                    Ok(())
                })
                .dispatch(dispatch)
                .loops(2),
        );
        let haunters: Vec<_> = (0..2)
            .map(|_| {
                let (old, done) = (old.clone(), done.clone());
                thread::spawn(move || haunt(&old, &done))
            })
            .collect();
        let clients: Vec<_> = (0..4)
            .map(|number| {
                let address = server.address;
                thread::spawn(move || {
                    (0..ROUNDS).for_each(|round| visit(address, number, round));
                })
            })
            .collect();
        for client in clients {
            client.join().expect("a client that met only its own bytes");
        }
        done.store(true, Ordering::SeqCst);
        let refused: usize = haunters.into_iter().map(|it| it.join().expect("a haunter")).sum();
        assert!(refused > 0, "no handle outlived its connection, so nothing was tested");
    }
}

/// Sends each handle's own tag, and shuts or wakes some. Returns how often one was too late.
fn haunt(old: &Mutex<Vec<(Handle, Bytes)>>, done: &AtomicBool) -> usize {
    let (mut refused, mut turn) = (0, 0);
    while !done.load(Ordering::SeqCst) {
        let all = lock(old).clone();
        for (handle, tag) in all {
            turn += 1;
            refused += usize::from(handle.send(tag).is_err());
            handle.wake();
            if turn % 7 == 0 {
                handle.close();
            }
        }
        thread::yield_now();
    }
    refused
}

fn visit(address: std::net::SocketAddr, number: usize, round: usize) {
    let tag = format!("{number:02}{round:06}");
    let mut stream = crate::util::connect(address);
    // A handle may have closed it already.
    if stream.write_all(tag.as_bytes()).is_err() {
        return;
    }
    if round.is_multiple_of(2) {
        let mut heard = [0; 8];
        if stream.read_exact(&mut heard).is_ok() {
            assert_eq!(heard, tag.as_bytes(), "bytes of another connection");
        }
        return;
    }
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut heard = Vec::new();
    let _ = stream.read_to_end(&mut heard);
    let whole = heard.chunks_exact(8);
    assert!(whole.clone().all(|it| it == tag.as_bytes()), "{tag}: bytes of another connection");
    assert!(tag.as_bytes().starts_with(whole.remainder()), "{tag}: a torn message");
}

/// Ids are unique though sockets, tokens and loops are used again, and a handle is a key.
#[test]
#[expect(clippy::mutable_key_type, reason = "what a handle hashes as does not change")]
fn every_connection_of_the_process_has_a_number_of_its_own() {
    let servers = [handing_out(hand_off()), handing_out(netpoll::Dispatch::Inline)];
    let client = netpoll::Client::builder()
        .on_request(|(): &mut (), _: &mut Connection| Ok(()))
        .build()
        .expect("options that can be used");
    let mut seen = HashMap::new();
    for round in 0..20 {
        let (server, handles) = &servers[round % 2];
        let address = server.address.to_string();
        let mut plain = server.connect();
        let served = handles.recv_timeout(PATIENCE).expect("a connection");
        plain.echo(b"hello");
        let dialled = client.dial("tcp", &address, PATIENCE).expect("it accepts");
        let of_dialled = handles.recv_timeout(PATIENCE).expect("a connection");
        let mut driven = netpoll::dial_connection("tcp", &address, PATIENCE).expect("it accepts");
        let of_driven = handles.recv_timeout(PATIENCE).expect("a connection");
        driven.write_all(b"hello").expect("it takes it");
        assert_eq!(driven.id(), driven.handle().id());
        for handle in [served, dialled.clone(), of_dialled, driven.handle(), of_driven] {
            assert_eq!(handle.clone(), handle);
            let number = handle.id();
            assert_eq!(seen.insert(handle, number), None, "another connection's handle is equal");
        }
        dialled.close();
    }
    let numbers: HashSet<u64> = seen.values().copied().collect();
    assert_eq!(numbers.len(), 100);
    assert!(seen.iter().all(|(handle, number)| handle.id() == *number), "an id has changed");
}

/// A log is searched for one connection: every line of it has its number, and says who came.
#[test]
fn lines_of_the_log_name_the_connection_and_its_direction() {
    alone("handles::lines_of_the_log_name_the_connection_and_its_direction", || {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let kept = lines.clone();
        listen(move |line| lock(&kept).push(line.to_owned()));
        let (server, handles) = handing_out(hand_off());
        let address = server.address.to_string();
        let dialled = netpoll::dial_connection("tcp", &address, PATIENCE).expect("it accepts");
        let served = handles.recv_timeout(PATIENCE).expect("a connection");
        let ours = format!("connection {} to {address}: ", dialled.id());
        let theirs = format!("connection {} from {}: ", served.id(), served.peer_addr());
        let debug = [format!("{dialled:?}"), format!("{served:?}")];
        assert!(debug[0].contains(&format!("id: {}, to: ", dialled.id())), "{}", debug[0]);
        assert!(debug[1].contains(&format!("id: {}, from: ", served.id())), "{}", debug[1]);
        drop(dialled);
        for begin in [ours, theirs] {
            eventually("its end is logged", || {
                lock(&lines).iter().any(|line| line.starts_with(&begin))
            });
        }
    });
}
