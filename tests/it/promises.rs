//! What a connection promises and no other topic's module shows; docs/promises.md lists it all.

mod closing;
mod ending;
mod flow;
mod jobs;
mod never;
mod reading;
mod receipts;
mod timeouts;
mod writing;

use std::sync::mpsc;
use std::time::Duration;

use netpoll::{
    CloseReason, Connection, DialConnection, Dialer, EventLoop, EventLoopBuilder, Handle, Limits,
    Result,
};

use crate::util::{Journal, PATIENCE};

/// Far less than [`PATIENCE`], and more than what must not wait takes on a loaded machine.
const AT_ONCE: Duration = Duration::from_secs(15);

/// A builder whose `on_connect` hands out the connection's handle, and what receives them.
fn handing_out() -> (EventLoopBuilder, mpsc::Receiver<Handle>) {
    let (sender, handles) = mpsc::channel();
    let builder = EventLoop::builder().on_connect(move |(): &mut (), conn: &mut Connection| {
        let _ = sender.send(conn.handle());
        Ok(())
    });
    (builder, handles)
}

/// An `on_disconnect` that enters the whole reason.
fn telling<S>(journal: &Journal) -> impl Fn(S, &CloseReason) + Send + Sync + 'static {
    let journal = journal.clone();
    move |_, reason| journal.add(format!("{reason:?}"))
}

#[track_caller]
fn next<T>(receiver: &mpsc::Receiver<T>) -> T {
    receiver.recv_timeout(PATIENCE).expect("it happens")
}

/// A dialled connection and its peer, which is not ours.
fn pair() -> Result<(Connection, std::net::TcpStream)> {
    limited_pair(Limits::default())
}

/// As [`pair`], within these limits.
fn limited_pair(limits: Limits) -> Result<(Connection, std::net::TcpStream)> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    let dialer = Dialer::new(limits)?;
    let mut conn = dialer.dial_connection("tcp", &address, PATIENCE)?;
    conn.set_read_timeout(Some(PATIENCE));
    let (peer, _) = listener.accept()?;
    peer.set_read_timeout(Some(PATIENCE))?;
    peer.set_nodelay(true)?;
    Ok((conn, peer))
}
