//! A dialled connection that two threads share: one reads, one writes.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use netpoll::{Error, Limits, ReadHalf, WriteHalf, dial_connection};

use crate::util::{Client, PATIENCE, Server, echo, noise, quiet};

fn halves() -> ((ReadHalf, WriteHalf), TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let conn = dial_connection("tcp", &address, PATIENCE).expect("a connection");
    let (peer, _) = listener.accept().expect("a connection");
    peer.set_read_timeout(Some(PATIENCE)).expect("an option");
    (conn.into_split(), peer)
}

#[test]
fn one_thread_reads_while_another_writes() {
    const MUCH: usize = 16 << 20; // more than all buffers on the way hold
    let server = Server::start(echo());
    let conn = dial_connection("tcp", &server.address.to_string(), PATIENCE).expect("a server");
    let (mut read, mut write) = conn.into_split();
    let writing = thread::spawn(move || {
        for piece in noise(9, MUCH).chunks(100_000) {
            write.write_all(piece).and_then(|()| write.flush()).expect("the server takes it");
        }
        write.shutdown().expect("all is flushed");
    });
    let mut heard = Vec::new();
    read.read_to_end(&mut heard).expect("the end");
    assert!(heard == noise(9, MUCH), "{} bytes", heard.len());
    writing.join().expect("a writer");
    server.stop();
}

#[test]
fn the_connection_closes_with_its_second_half() {
    for read_first in [true, false] {
        let ((mut read, mut write), mut peer) = halves();
        let handle = write.handle();
        if read_first {
            drop(read);
            write.write_all(b"still here").and_then(|()| write.flush()).expect("it is open");
            peer.hear(b"still here");
            assert!(handle.is_active());
            drop(write);
        } else {
            drop(write);
            peer.say(b"still here");
            assert_eq!(read.reader().next(10).expect("it is open"), b"still here");
            assert!(read.handle().is_active());
            drop(read);
        }
        assert_eq!(peer.rest(), b"");
        assert!(!handle.is_active());
    }
}

#[test]
fn a_shutdown_ends_our_stream_and_leaves_theirs() {
    let ((mut read, mut write), mut peer) = halves();
    write.writer().write_string("last words");
    write.shutdown().expect("they are flushed");
    assert_eq!(peer.rest(), b"last words");
    peer.say(b"an answer");
    assert_eq!(read.reader().next(9).expect("theirs goes on"), b"an answer");
    drop(peer);
    assert!(matches!(read.reader().read_byte(), Err(Error::EndOfStream)));
}

#[test]
fn a_close_ends_the_waits_of_both() {
    let ((mut read, mut write), _peer_that_never_reads) = halves();
    let handle = read.handle();
    let reading = thread::spawn(move || read.reader().read_byte().expect_err("it was closed"));
    let writing = thread::spawn(move || {
        loop {
            let piece = noise(0, Limits::default().output.high);
            write.writer().write_bytes(piece);
            if let Err(error) = write.writer().flush() {
                return error;
            }
        }
    });
    quiet(50); // they wait by then; were they not, the outcome would be the same
    handle.close();
    assert!(matches!(reading.join().expect("a reader"), Error::Closed));
    assert!(matches!(writing.join().expect("a writer"), Error::Closed));
}
