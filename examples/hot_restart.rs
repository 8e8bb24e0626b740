//! A server that is replaced while it serves, with no connection refused.
//!
//! Shows `hand_over` and `take_over`: the second process that is started asks the first one for its
//! listening sockets, and the first one ends when its last connection has.
//!
//! ```text
//! cargo run --release --example hot_restart -- 127.0.0.1:7004 /tmp/netpoll.control
//! while nc -N 127.0.0.1 7004 </dev/null; do :; done    # hammer it
//! # and the first command once more, or with a newer build
//! ```

use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use netpoll::{Connection, EventLoop, Listener, Result};

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let address = args.next().unwrap_or_else(|| "127.0.0.1:7004".into());
    let control = args.next().unwrap_or_else(|| "/tmp/netpoll.control".into());

    // Whoever listens on the control socket serves now; nobody does the first time.
    let listeners = match UnixStream::connect(&control) {
        Ok(stream) => Listener::take_over(&stream)?,
        Err(_) => vec![Listener::bind("tcp", &address)?],
    };
    let server = EventLoop::builder()
        .on_connect(|(): &mut (), conn: &mut Connection| {
            let text = format!("process {}\n", std::process::id());
            conn.writer().write_bytes(text.as_bytes());
            Ok(())
        })
        .on_request(|(): &mut (), conn: &mut Connection| {
            let (mut reader, mut writer) = conn.split();
            writer.append(reader.slice(reader.len())?);
            writer.flush()
        })
        .build()?
        .spawn(listeners)?;
    println!("listening on {}, process {}", server.address(), std::process::id());

    let successors = listen_for_successors(&control)?;
    loop {
        let (successor, _) = successors.accept()?;
        match server.event_loop().hand_over(&successor) {
            Ok(()) => break,
            Err(error) => eprintln!("the successor did not take the sockets: {error}"),
        }
    }
    server.shutdown(Duration::from_secs(30));
    let report = server.wait()?;
    println!("replaced: {} connections drained, {} aborted", report.drained, report.aborted);
    Ok(())
}

/// The control socket. The predecessor's file is replaced by an atomic rename, so that there is
/// always one to connect to.
fn listen_for_successors(control: &str) -> io::Result<UnixListener> {
    let fresh = format!("{control}.{}", std::process::id());
    let listener = UnixListener::bind(&fresh)?;
    std::fs::rename(&fresh, control)?;
    Ok(listener)
}
