//! No mixing: every byte carries the number of its connection, and none reaches another one.
//!
//! Servers, their clients and dialled connections share one process, so that a descriptor which
//! one of them closes is another's at once. All the time, handles of connections that have ended
//! send, wake and close. What any end receives must carry its own number, in its own order.

use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use netpoll::{Bytes, CloseReason, Connection, Dispatch, EventLoop, Handle, dial_connection};

use crate::util::{Client, Count, PATIENCE, Random, Server, lock, modes, pool, raise_fd_limit};

const CLIENTS: usize = 8;
const HAUNTERS: usize = 2;
/// How many handles of earlier connections are kept and used.
const KEPT: usize = 512;
/// Records of a connection at the most.
const RECORDS: usize = 16;
/// The number of a record that was sent by a handle from outside.
const HAUNTED: u32 = u32::MAX;
/// The number of a record that asks the server to close.
const FAREWELL: u32 = u32::MAX - 1;

/// The connection's number and the record's: eight bytes.
fn record(id: u32, number: u32) -> [u8; 8] {
    (u64::from(id) << 32 | u64::from(number)).to_be_bytes()
}

/// One receiving end: it knows whose bytes it expects, and which.
#[derive(Default)]
struct Ear {
    /// A server learns it from the first record.
    id: Option<u32>,
    next: u32,
    partial: Vec<u8>,
}

impl Ear {
    fn of(id: u32) -> Self {
        Self { id: Some(id), ..Self::default() }
    }

    /// Takes what was received; `Err` says what of it was not meant for this end. Returns whether
    /// the last record was a farewell.
    fn hear(&mut self, bytes: &[u8]) -> Result<bool, String> {
        self.partial.extend_from_slice(bytes);
        let whole = self.partial.len() / 8 * 8;
        let mut farewell = false;
        for heard in self.partial.drain(..whole).collect::<Vec<_>>().chunks(8) {
            let word = u64::from_be_bytes(heard.try_into().expect("eight bytes"));
            let (id, number) = ((word >> 32) as u32, word as u32);
            let own = *self.id.get_or_insert(id);
            let expected = matches!(number, HAUNTED | FAREWELL) || number == self.next;
            if id != own || !expected {
                return Err(format!("{own} expected {} and heard {number} of {id}", self.next));
            }
            self.next += u32::from(number == self.next);
            farewell |= number == FAREWELL;
        }
        Ok(farewell)
    }

    /// The end of the stream, which may have torn the last record: what there is must be its own.
    fn end(self) -> Result<(), String> {
        let own = self.id.unwrap_or_default().to_be_bytes();
        let is_own = self.partial.iter().zip(own).all(|(heard, own)| *heard == own);
        if is_own { Ok(()) } else { Err(format!("{own:?} ended in {:?}", self.partial)) }
    }
}

/// What all threads of a run share.
#[derive(Default)]
struct Storm {
    next_id: AtomicU32,
    /// Of a connection with this number; most have ended.
    kept: Mutex<Vec<(Handle, u32)>>,
    foreign: Mutex<Vec<String>>,
    done: AtomicBool,
    dialled: Count,
    complete: Count,
    refused: Count,
    descriptors: Mutex<HashSet<i32>>,
}

impl Storm {
    fn keep(&self, handle: Handle, id: u32) {
        let mut kept = lock(&self.kept);
        if kept.len() < KEPT {
            kept.push((handle, id));
        } else {
            kept[id as usize % KEPT] = (handle, id);
        }
    }

    fn check<T>(&self, heard: Result<T, String>) -> Option<T> {
        heard.map_err(|foreign| lock(&self.foreign).push(foreign)).ok()
    }

    /// Answers what was received with the same.
    fn serve(&self, ear: &mut Ear, conn: &mut Connection) -> netpoll::Result<()> {
        let is_new = ear.id.is_none();
        let len = conn.reader().len();
        let bytes = conn.reader().read_bytes(len)?;
        let farewell = self.check(ear.hear(&bytes)).unwrap_or(true);
        if let (true, Some(id)) = (is_new, ear.id) {
            self.keep(conn.handle(), id);
        }
        conn.writer().write_shared(bytes);
        conn.writer().flush()?;
        if farewell {
            conn.close();
        }
        Ok(())
    }

    /// Uses kept handles, whatever has become of their connections.
    fn haunt(&self, seed: u64) {
        let mut random = Random::new(seed);
        while !self.done.load(Ordering::SeqCst) {
            let kept = lock(&self.kept).clone();
            for (handle, id) in kept {
                // Those that live are seldom disturbed, so that most come to their own end.
                let alive = handle.is_active();
                if !alive || random.below(16) == 0 {
                    let message = Bytes::copy_from_slice(&record(id, HAUNTED));
                    if handle.send(message).is_err() {
                        self.refused.add();
                    }
                    handle.wake();
                }
                if !alive || random.below(256) == 0 {
                    handle.close();
                }
            }
            thread::yield_now();
        }
    }
}

/// One connection from its begin to its end, of a kind that `random` chooses.
fn visit(storm: &Storm, port: u16, random: &mut Random) {
    let id = storm.next_id.fetch_add(1, Ordering::SeqCst);
    // Many addresses have many times as many ports for connections that wait for their end.
    let host = format!("127.0.{}.{}", 23 + random.below(4), 1 + random.below(8));
    let address: SocketAddr = format!("{host}:{port}").parse().expect("an address");
    let records = 1 + random.below(RECORDS);
    let outcome = if random.below(2) == 0 {
        plain(storm, id, records, address, random.below(4))
    } else {
        dialled(storm, id, records, address, random.below(4))
    };
    // An exchange that a haunter or a reset cut short is not complete.
    if outcome.is_ok() {
        storm.complete.add();
    }
}

/// A client that is not ours.
fn plain(
    storm: &Storm,
    id: u32,
    records: usize,
    address: SocketAddr,
    end: usize,
) -> io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    lock(&storm.descriptors).insert(stream.as_raw_fd());
    let mut ear = Ear::of(id);
    speak(&mut stream, id, records, end == 0)?;
    match end {
        0 => {} // the server closes
        1 => stream.half_close(),
        2 => {
            stream.reset();
            return Ok(());
        }
        _ => return listen(storm, &mut ear, &mut stream, records as u32),
    }
    listen(storm, &mut ear, &mut stream, u32::MAX)?;
    ended(storm, ear, records)
}

/// A connection of ours, whose handle is kept as well.
fn dialled(
    storm: &Storm,
    id: u32,
    records: usize,
    address: SocketAddr,
    end: usize,
) -> io::Result<()> {
    let mut conn = dial_connection("tcp", &address.to_string(), PATIENCE)?;
    conn.set_read_timeout(Some(PATIENCE));
    lock(&storm.descriptors).insert(conn.as_fd().as_raw_fd());
    storm.dialled.add();
    let mut ear = Ear::of(id);
    speak(&mut conn, id, records, end == 0)?;
    storm.keep(conn.handle(), id);
    match end {
        0 => {} // the server closes
        1 => conn.close(),
        2 => return Ok(()),
        _ => return listen(storm, &mut ear, &mut conn, records as u32),
    }
    listen(storm, &mut ear, &mut conn, u32::MAX)?;
    ended(storm, ear, records)
}

/// An end in order; whether all came before it.
fn ended(storm: &Storm, ear: Ear, records: usize) -> io::Result<()> {
    let complete = ear.next == records as u32;
    storm.check(ear.end());
    if complete { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

fn speak(stream: &mut impl Write, id: u32, records: usize, farewell: bool) -> io::Result<()> {
    let mut all: Vec<u8> = (0..records as u32).flat_map(|it| record(id, it)).collect();
    if farewell {
        all.extend(record(id, FAREWELL));
    }
    stream.write_all(&all)?;
    stream.flush()
}

/// Receives until so many of its records have come back, or the end.
fn listen(storm: &Storm, ear: &mut Ear, stream: &mut impl Read, records: u32) -> io::Result<()> {
    let mut buffer = [0; 256];
    while ear.next < records {
        match stream.read(&mut buffer)? {
            0 => break,
            read => {
                if storm.check(ear.hear(&buffer[..read])).is_none() {
                    return Err(io::ErrorKind::InvalidData.into());
                }
            }
        }
    }
    Ok(())
}

/// So many connections to one server; returns what there is to say of them.
fn storm(dispatch: Dispatch, connections: usize) -> String {
    let (seed, storm) = (Random::seed(), Arc::new(Storm::default()));
    let serving = storm.clone();
    let event_loop = EventLoop::builder()
        .on_prepare(|_: &Connection| Ok(Ear::default()))
        .on_request(move |ear: &mut Ear, conn: &mut Connection| serving.serve(ear, conn))
        .on_disconnect({
            let storm = storm.clone();
            move |ear: Ear, _: &CloseReason| {
                storm.check(ear.end());
            }
        })
        .dispatch(dispatch)
        .loops(2)
        .build()
        .expect("options");
    let server = Server::serve_at(event_loop, "0.0.0.0:0");
    let (port, begun) = (server.address.port(), Instant::now());
    let run = |number: u64, work: fn(&Storm, u16, u64, usize)| {
        let storm = storm.clone();
        thread::spawn(move || work(&storm, port, seed + 2 * number, connections / CLIENTS))
    };
    let clients: Vec<_> = (0..CLIENTS as u64)
        .map(|number| {
            run(number, |storm, port, seed, visits| {
                let mut random = Random::new(seed);
                (0..visits).for_each(|_| visit(storm, port, &mut random));
            })
        })
        .collect();
    let haunters: Vec<_> = (0..HAUNTERS as u64)
        .map(|number| run(100 + number, |storm, _, seed, _| storm.haunt(seed)))
        .collect();
    for client in clients {
        client.join().expect("a client");
    }
    storm.done.store(true, Ordering::SeqCst);
    for haunter in haunters {
        haunter.join().expect("a haunter");
    }
    let took = begun.elapsed();
    server.stop();
    let foreign = lock(&storm.foreign);
    assert!(foreign.is_empty(), "{dispatch:?}, seed {seed}: {} mixed, {foreign:?}", foreign.len());
    let (complete, refused) = (storm.complete.get(), storm.refused.get());
    let descriptors = lock(&storm.descriptors).len();
    assert!(
        complete > connections / 4,
        "{dispatch:?}, seed {seed}: only {complete} came to an end"
    );
    assert!(refused > connections / 100, "{dispatch:?}, seed {seed}: no handle outlived its own");
    assert!(descriptors < connections / 4, "{dispatch:?}: {descriptors} descriptors, none reused");
    format!(
        "{connections} connections in {took:.1?} ({} dialled by us), {complete} complete, \
         {refused} sends on handles of ended ones refused, {descriptors} descriptors shared, \
         0 foreign bytes",
        storm.dialled.get()
    )
}

#[test]
fn no_byte_reaches_another_connection() {
    for dispatch in modes() {
        storm(dispatch, 2000);
    }
}

/// The same for a million connections, or for `NETPOLL_TEST_CONNECTIONS` of them, with figures.
#[test]
#[ignore = "takes minutes; to be asked for"]
fn no_byte_reaches_another_connection_out_of_a_million() {
    raise_fd_limit();
    let connections = std::env::var("NETPOLL_TEST_CONNECTIONS")
        .map_or(1_000_000, |it| it.parse().expect("NETPOLL_TEST_CONNECTIONS is a number"));
    for dispatch in [Dispatch::Inline, pool()] {
        println!("{dispatch:?}: {}", storm(dispatch, connections / 2));
    }
}
