//! The standard library alone: a thread per connection, whatever `THREADS` says.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;

use netpoll_peers::{Arguments, Blocking, OWN_BUFFER};

fn main() {
    let [block_us, block_pct] = Blocking::OPTIONS;
    let arguments = Arguments::read(&[block_us, block_pct, Blocking::WAY]);
    let blocking = Blocking::of(&arguments);
    for stream in arguments.listen().incoming() {
        let stream = stream.expect("a connection");
        let blocking = blocking.for_connection();
        thread::spawn(move || echo(stream, blocking));
    }
}

/// Ends with the connection, whichever way that ends.
fn echo(mut stream: TcpStream, blocking: Blocking) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; OWN_BUFFER];
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        blocking.block_if_due();
        stream.write_all(&buffer[..length])?;
    }
}
