//! may, after its echo example: a stackful coroutine per connection, and an acceptor per thread.

use std::io::{self, Read, Write};

use may::go;
use may::net::{TcpListener, TcpStream};
use netpoll_peers::{Arguments, Blocking, OWN_BUFFER};

fn main() {
    let [block_us, block_pct] = Blocking::OPTIONS;
    let arguments = Arguments::read(&[block_us, block_pct, Blocking::WAY]);
    let blocking = Blocking::of(&arguments);
    may::config().set_workers(arguments.threads);
    let (_kept, address) = arguments.reserve();
    may::coroutine::scope(|scope| {
        for _ in 0..arguments.threads {
            let listener = TcpListener::bind(address).expect("the port is reserved");
            go!(scope, move || {
                for stream in listener.incoming() {
                    let stream = stream.expect("a connection");
                    let blocking = blocking.for_connection();
                    go!(move || echo(stream, blocking));
                }
            });
        }
        println!("listening on {address}");
    });
}

/// Ends with the connection, whichever way that ends.
fn echo(mut stream: TcpStream, blocking: Blocking) -> io::Result<()> {
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
