//! A server on a Unix socket and on an abstract name, which gets the credentials of each peer.
//!
//! Shows several listeners with names, the permissions of a socket's file, and peer credentials.
//!
//! ```text
//! cargo run --release --example unix_socket -- [PATH]
//! socat - UNIX-CONNECT:/tmp/netpoll.sock
//! socat - ABSTRACT-CONNECT:netpoll
//! ```

use std::process::ExitCode;
use std::time::Duration;

use netpoll::{Connection, EventLoop, Listener};
use nix::sys::signal::{SigSet, Signal};

fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> netpoll::Result<()> {
    let stop = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
    stop.thread_block().map_err(std::io::Error::from)?;

    let path = std::env::args().nth(1).unwrap_or_else(|| "/tmp/netpoll.sock".into());
    // Users that may write to the file may connect: here this user alone.
    let file = Listener::options().mode(0o600).bind("unix", &path)?.named("file");
    let name = Listener::bind("unix", "@netpoll")?.named("abstract");

    let server = EventLoop::builder()
        .on_connect(|(): &mut (), conn: &mut Connection| {
            let who = conn.peer_credentials()?;
            let by = conn.listener().map_or("nowhere", |it| &it.name).to_owned();
            let text = format!("user {}, process {}, by {by}\n", who.user, who.process);
            conn.writer().write_bytes(text.as_bytes());
            Ok(())
        })
        .on_request(|(): &mut (), conn: &mut Connection| {
            let (mut reader, mut writer) = conn.split();
            writer.append(reader.slice(reader.len())?);
            writer.flush()
        })
        // Limits for clients that are silent, or too many.
        .idle_timeout(Duration::from_secs(60))
        .max_connections(1000)
        .build()?
        .spawn([file, name])?;
    for address in server.addresses() {
        println!("listening on {address}");
    }
    stop.wait().map_err(std::io::Error::from)?;
    // Its drop shuts it down, and removes the file.
    server.shutdown(Duration::from_secs(5));
    server.wait().map(drop)
}
