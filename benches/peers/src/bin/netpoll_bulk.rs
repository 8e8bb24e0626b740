//! netpoll: bytes in one direction, and back; `--dispatch pool|inline|hand-off`.
//!
//! `--serve sink` counts uploads, `source` sends downloads, `echo` sends back what comes.

use bytes::Bytes;
use netpoll::{Connection, Dispatch, EventLoop, HandOffOptions, Listener, PoolOptions, Result};
use netpoll_peers::{Arguments, piece};

#[derive(Clone, Copy)]
enum Serve {
    Sink,
    Source,
    Echo,
}

/// What a connection has received, and what it sends.
#[derive(Default)]
struct Flow {
    count: u64,
    piece: Option<Bytes>,
}

fn main() -> Result<()> {
    let arguments = Arguments::read(&["--dispatch", "--serve"]);
    let modes = [
        ("pool", Dispatch::Pool(PoolOptions::default())),
        ("inline", Dispatch::Inline),
        ("hand-off", Dispatch::HandOff(HandOffOptions::default())),
    ];
    let serves = [("sink", Serve::Sink), ("source", Serve::Source), ("echo", Serve::Echo)];
    let serve = arguments.choice("--serve", &serves);
    let address = format!("127.0.0.1:{}", arguments.port);
    let listener = Listener::options().reuse_port(true).bind("tcp", &address)?;
    println!("listening on {}", listener.local_addr()?);
    EventLoop::builder()
        .on_prepare(|_: &Connection| Ok(Flow::default()))
        .on_request(move |flow: &mut Flow, conn: &mut Connection| match serve {
            Serve::Sink => sink(flow, conn),
            Serve::Source => source(flow, conn),
            Serve::Echo => echo(conn),
        })
        .half_open(matches!(serve, Serve::Sink))
        .loops(arguments.threads)
        .dispatch(arguments.choice("--dispatch", &modes))
        .build()?
        .serve(listener)?;
    Ok(())
}

/// Counts what has come, and answers with the count at the end.
fn sink(flow: &mut Flow, conn: &mut Connection) -> Result<()> {
    let (mut reader, mut writer) = conn.split();
    let length = reader.len();
    reader.skip(length)?;
    flow.count += length as u64;
    if reader.is_finished() {
        writer.write_bytes(&flow.count.to_be_bytes());
        conn.shutdown_write();
    }
    Ok(())
}

/// Sends a piece of the size that the peer has asked for, and asks to be called again: that happens
/// when the peer has read enough of what is queued.
fn source(flow: &mut Flow, conn: &mut Connection) -> Result<()> {
    let (mut reader, mut writer) = conn.split();
    let piece = match &flow.piece {
        Some(piece) => piece,
        None => {
            let size = reader.next(4)?.try_into().expect("four bytes");
            flow.piece.insert(piece(u32::from_be_bytes(size)).into())
        }
    };
    writer.write_shared(piece.clone());
    writer.flush()?;
    conn.wake();
    Ok(())
}

fn echo(conn: &mut Connection) -> Result<()> {
    let (mut reader, mut writer) = conn.split();
    writer.append(reader.slice(reader.len())?); // moves blocks, copies nothing
    writer.flush()
}
