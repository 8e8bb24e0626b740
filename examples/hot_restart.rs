//! A server that is replaced while it serves, with no connection refused.
//!
//! Shows `hand_over` and `take_over`: a second process asks the first one for its listening
//! sockets, and the first one ends when its last connection has. If the second process fails before
//! it serves, the first one goes on.
//!
//! ```text
//! cargo run --release --example hot_restart -- 127.0.0.1:7012 /tmp/netpoll.control
//! while nc -N 127.0.0.1 7012 </dev/null; do :; done    # hammer it
//! # and the first command once more, or with a newer build
//! ```

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;
use std::time::Duration;

use netpoll::{Connection, EventLoop, Listener, Result, Running};

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let address = args.next().unwrap_or_else(|| "127.0.0.1:7012".into());
    let control = args.next().unwrap_or_else(|| "/tmp/netpoll.control".into());

    // The process that listens on the control socket serves now; there is none the first time.
    let listeners = match UnixStream::connect(&control) {
        Ok(predecessor) => Listener::take_over(predecessor)?,
        Err(error) if is_nobody_there(&error) => vec![Listener::bind("tcp", &address)?],
        Err(error) => return Err(error.into()),
    };
    // Everything that may fail comes before this process serves: until then the other one goes on.
    let fresh = format!("{control}.{}", std::process::id());
    let successors = listen_for_successors(&fresh)?;
    // It waits until every loop serves, and the other process knows.
    let server = event_loop()?.spawn(listeners).inspect_err(|_| drop(fs::remove_file(&fresh)))?;
    // From here on nothing may end this process. There is a control socket at every moment.
    if let Err(error) = fs::rename(&fresh, &control) {
        say(&format!("cannot be replaced at {control}: {error}"));
    }
    say(&format!("listening on {}, process {}", server.address(), std::process::id()));

    wait_for_a_successor(&server, &successors);
    server.shutdown(Duration::from_secs(30));
    let report = server.wait()?;
    say(&format!(
        "replaced: {} connections closed in order, {} aborted",
        report.closed_in_order, report.aborted
    ));
    Ok(())
}

fn event_loop() -> Result<EventLoop> {
    EventLoop::builder()
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
        // Limits for peers that are silent, or too many from one place.
        .idle_timeout(Duration::from_secs(60))
        .max_connections_per_source(1000)
        .build()
}

/// Returns when another process serves. Nothing that a process does at the control socket ends this
/// one.
fn wait_for_a_successor(server: &Running, successors: &UnixListener) {
    loop {
        let outcome = successors.accept().map_err(netpoll::Error::from);
        match outcome.and_then(|(to, _)| server.event_loop().hand_over(&to)) {
            Ok(()) => return,
            Err(error) => say(&format!("not replaced: {error}")),
        }
        // sleep: where descriptors have run out, the next accept fails at once as well
        thread::sleep(Duration::from_millis(10));
    }
}

/// Whether no process listens on the control socket.
fn is_nobody_there(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused)
}

/// A control socket that this user alone may connect to.
fn listen_for_successors(path: &str) -> io::Result<UnixListener> {
    // Removes what a crashed process with this number has left.
    let _ = fs::remove_file(path);
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// As `println!`, which panics when the other end of the pipe is closed.
fn say(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}
