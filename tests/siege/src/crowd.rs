//! Many clients at once, and what they do to a server.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, SockRef, Socket, Type};

use crate::process::pause;
use crate::report::Problem;

/// How long a connect may take. On loopback it waits only for a full queue.
const CONNECT: Duration = Duration::from_secs(3);

pub(crate) fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    TcpStream::connect_timeout(&address, CONNECT)
}

/// Opens so many connections.
pub(crate) fn many(address: SocketAddr, clients: usize) -> Result<Vec<TcpStream>, Problem> {
    room_for(clients)?;
    Ok((0..clients).map(|_| connect(address)).collect::<io::Result<_>>()?)
}

/// Opens so many non-blocking connections with a receive buffer of a few KiB.
pub(crate) fn non_readers(address: SocketAddr, clients: usize) -> Result<Vec<TcpStream>, Problem> {
    room_for(clients)?;
    let narrow = || -> io::Result<TcpStream> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_recv_buffer_size(4096)?;
        socket.connect_timeout(&address.into(), CONNECT)?;
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    };
    Ok((0..clients).map(|_| narrow()).collect::<io::Result<_>>()?)
}

/// A crowd needs descriptors, here and in the server.
fn room_for(clients: usize) -> Result<(), Problem> {
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).map_err(io::Error::from)?;
    if soft < clients as u64 + 500 {
        return Err(Problem::Missing(format!("{} descriptors: ulimit -n", clients + 500)));
    }
    Ok(())
}

/// Raises the limit of descriptors as far as it goes; children inherit it.
pub(crate) fn raise_descriptors() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // `room_for` reports a limit that is still too low.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// Sends up to so many bytes on each connection, which is non-blocking, round by round until the
/// time is over. Returns the bytes that the sockets took.
pub(crate) fn flood(clients: &mut [TcpStream], bytes_each: usize, time: Duration) -> usize {
    let chunk = vec![b'x'; 32 << 10];
    let mut sent = vec![0; clients.len()];
    let begun = Instant::now();
    while begun.elapsed() < time {
        let mut progress = false;
        for (client, sent) in clients.iter_mut().zip(&mut sent) {
            if *sent >= bytes_each || begun.elapsed() > time {
                continue;
            }
            match client.write(&chunk) {
                Ok(bytes) => {
                    *sent += bytes;
                    progress = true;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // The server has cut it off, which it may do.
                Err(_) => *sent = bytes_each,
            }
        }
        if !progress {
            pause(Duration::from_millis(20));
        }
    }
    sent.iter().sum()
}

/// Closes a connection with a reset.
pub(crate) fn reset(client: &TcpStream) {
    // An error means that it has ended already.
    let _ = SockRef::from(client).set_linger(Some(Duration::ZERO));
}

/// Whether the other end is known to be gone by now.
pub(crate) fn is_over(client: &mut TcpStream) -> bool {
    let mut buffer = [0; 4096];
    if client.set_nonblocking(true).is_err() {
        return true;
    }
    match client.read(&mut buffer) {
        Ok(bytes) => bytes == 0,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}
