//! A name server: it answers for one zone, and passes other questions on to another server.
//!
//! Shows datagrams and connections in one event loop, on one port: an answer that is too long for a
//! datagram says so, and the client asks again over TCP. Over UDP no thread waits for the other
//! server: its answers come to a socket of their own, and leave through a handle. Over TCP, which
//! is rare, the callback just waits, and its loop goes on meanwhile.
//!
//! Its limits: answers of 512 bytes over UDP, or up to 1 232 where the query allows more; 1 000
//! questions under way, beyond which the oldest is given up; 10 000 kept answers; over TCP 100
//! clients, each of which may be silent for 10 s. It is for a network of your own: an open one
//! would send answers, which are longer than questions, to forged addresses.
//!
//! ```text
//! cargo run --release --example dns -- examples/dns/example.zone [ADDRESS [OTHER-SERVER]]
//! dig @127.0.0.1 -p 7053 www.example.test
//! ```

mod cache;
mod forward;
mod forwarded;
mod message;
mod name;
mod pending;
mod record;
mod reply;
mod server;
mod zone;
mod zone_file;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use forward::Forward;
use netpoll::codec::{Frame, LengthPrefix};
use netpoll::{
    Connection, DatagramBatch, DatagramHandle, DatagramServer, Datagrams, Error, EventLoop, Framed,
    Listener, Listeners, Out, Result, on_frame,
};
use nix::sys::signal::{SigSet, Signal};
use server::Server;

/// Bytes of a message over TCP, behind its length of two bytes.
const LONGEST: usize = 0xFFFF;

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    let Err(error) = serve() else { return ExitCode::SUCCESS };
    eprintln!("{error}");
    ExitCode::FAILURE
}

fn serve() -> Result<()> {
    let stop = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
    stop.thread_block().map_err(std::io::Error::from)?;

    let mut args = std::env::args().skip(1);
    let usage = || Error::config("usage: dns ZONE-FILE [ADDRESS [OTHER-SERVER]]");
    let zone = args.next().ok_or_else(usage)?;
    let address = args.next().unwrap_or_else(|| "127.0.0.1:7053".into());
    let server = Arc::new(Server::new(&zone, args.next().as_deref())?);

    let asked = Datagrams::bind("udp", &address)?;
    // Port 0 lets the system choose: both have the same one.
    let listener = Listener::bind("tcp", &asked.local_addr().to_string())?;
    let mut listeners = Listeners::from(listener).and(asked.on_datagrams({
        let server = server.clone();
        move |(): &mut (), batch: &DatagramBatch<'_>| server.answer_all(batch)
    }));
    if let Some(forward) = &server.forward {
        listeners = listeners.and(asking(&server, forward)?);
    }
    let over_tcp = server.clone();
    let codec = LengthPrefix::new(2, LONGEST)?;
    let running = EventLoop::builder()
        .on_prepare(|_: &Connection| Ok(Framed::new(())))
        .on_request(on_frame(
            codec,
            move |(): &mut (), query: Frame<'_>, out: &mut Out<'_, LengthPrefix>| match over_tcp
                .answer_over_tcp(query.bytes())
            {
                Some(answer) => out.send(&answer),
                None => Err(Error::EndOfStream),
            },
        ))
        .idle_timeout(Duration::from_secs(10))
        .max_connections(100)
        .build()?
        .spawn(listeners)?;
    server.forward.iter().for_each(|forward| forward.wait_until_open());
    println!("listening on {}", running.address());
    stop.wait().map_err(std::io::Error::from)?;
    running.shutdown(Duration::from_secs(5));
    running.wait().map(drop)
}

/// The socket that asks the other server. One for all loops: any of them may be answered.
fn asking(server: &Arc<Server>, forward: &Arc<Forward>) -> Result<DatagramServer> {
    let (forward, server) = (forward.clone(), server.clone());
    let any = if forward.is_v6() { "[::]:0" } else { "0.0.0.0:0" };
    let socket = Datagrams::options().reuse_port(false).bind("udp", any)?;
    Ok(socket
        .on_open(move |handle: &DatagramHandle| {
            forward.open(handle.clone());
            Ok(())
        })
        .on_datagrams(move |(): &mut (), batch: &DatagramBatch<'_>| {
            server.pass_back(batch);
            Ok(())
        }))
}
