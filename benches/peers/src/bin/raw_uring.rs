//! `io_uring` by hand: a ring per thread, each with its own listener, and one operation at a time
//! per connection: a receive, then the send of what came, then a receive.

#![expect(unsafe_code, reason = "the kernel is handed pointers to buffers")]

use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd};
use std::thread;

use io_uring::squeue::Entry;
use io_uring::types::Fd;
use io_uring::{IoUring, cqueue, opcode};
use netpoll_peers::{Arguments, OWN_BUFFER};
use slab::Slab;

/// What the completions of the listener are called; connections are called by their index.
const LISTENER: u64 = u64::MAX;
/// Operations that one submission carries.
const ENTRIES: u32 = 1024;
/// Completions that may wait to be looked at.
const COMPLETIONS: u32 = 32 << 10;

struct Connection {
    stream: TcpStream,
    buffer: Box<[u8]>,
    /// Of the buffer: received, and of that sent. Equal while a receive is on the way.
    received: usize,
    sent: usize,
}

struct Loop {
    ring: IoUring,
    listener: TcpListener,
    connections: Slab<Connection>,
}

fn main() {
    let listeners = Arguments::read(&[]).listen_on_each().into_iter();
    let threads = listeners.map(|listener| {
        thread::spawn(move || Loop::new(listener).expect("io_uring works here").run())
    });
    for thread in threads.collect::<Vec<_>>() {
        thread.join().expect("a loop does not panic").expect("it waits for ever");
    }
}

impl Loop {
    fn new(listener: TcpListener) -> io::Result<Self> {
        let mut builder = IoUring::builder();
        builder.setup_single_issuer().setup_defer_taskrun().setup_cqsize(COMPLETIONS);
        Ok(Self { ring: builder.build(ENTRIES)?, listener, connections: Slab::new() })
    }

    fn run(mut self) -> io::Result<()> {
        self.accept()?;
        let mut batch = Vec::with_capacity(COMPLETIONS as usize);
        loop {
            match self.ring.submit_and_wait(1) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            batch.extend(self.ring.completion());
            for done in batch.drain(..) {
                if done.user_data() == LISTENER {
                    self.accepted(&done)?;
                } else {
                    self.completed(done.user_data() as usize, done.result())?;
                }
            }
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        let entry = opcode::AcceptMulti::new(Fd(self.listener.as_raw_fd())).build();
        self.push(&entry.user_data(LISTENER))
    }

    fn accepted(&mut self, done: &cqueue::Entry) -> io::Result<()> {
        if done.result() >= 0 {
            // SAFETY: the kernel has just returned this descriptor, and nothing else owns it.
            let stream = unsafe { TcpStream::from_raw_fd(done.result()) };
            stream.set_nodelay(true)?;
            let buffer = vec![0; OWN_BUFFER].into();
            let index =
                self.connections.insert(Connection { stream, buffer, received: 0, sent: 0 });
            self.go_on(index)?;
        }
        if cqueue::more(done.flags()) { Ok(()) } else { self.accept() }
    }

    fn completed(&mut self, index: usize, result: i32) -> io::Result<()> {
        let connection = &mut self.connections[index];
        let Ok(count @ 1..) = usize::try_from(result) else {
            self.connections.remove(index); // it ended, or failed; nothing of it is on the way
            return Ok(());
        };
        if connection.sent < connection.received {
            connection.sent += count;
        } else {
            (connection.received, connection.sent) = (count, 0);
        }
        self.go_on(index)
    }

    /// Starts the next operation of a connection that has none on the way.
    fn go_on(&mut self, index: usize) -> io::Result<()> {
        let Connection { stream, buffer, received, sent } = &mut self.connections[index];
        let fd = Fd(stream.as_raw_fd());
        let entry = if sent < received {
            let rest = &buffer[*sent..*received];
            opcode::Send::new(fd, rest.as_ptr(), rest.len() as u32).build()
        } else {
            opcode::Recv::new(fd, buffer.as_mut_ptr(), buffer.len() as u32).build()
        };
        self.push(&entry.user_data(index as u64))
    }

    fn push(&mut self, entry: &Entry) -> io::Result<()> {
        loop {
            // SAFETY: the entry points to a connection's buffer, which is on the heap and stays in
            // the slab until this operation, the only one of the connection, has completed.
            match unsafe { self.ring.submission().push(entry) } {
                Ok(()) => return Ok(()),
                Err(_full) => self.ring.submit()?,
            };
        }
    }
}
