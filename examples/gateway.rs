//! A gateway: passes each call on to one of several servers, in turn, and the answer back.
//!
//! Shows callbacks that wait for another server, as straight-line code over a `Pool`, and
//! `on_gone`: a client that vanishes ends the call that is made for it, so that no server works on
//! and no thread waits. A server that can't be reached is left out.
//!
//! Its limits: frames of 64 KiB, 1 KiB in 5 s of one that has begun, 10 s for an answer, 60 s
//! without a byte either way, 256 connections to each server, 1 000 clients.
//!
//! ```text
//! cargo run --release --example gateway -- 127.0.0.1:7015 SERVER...    (`rpc_server` is one)
//! printf '\0\0\0\5hello' | nc -N 127.0.0.1 7015 | xxd
//! ```

use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use netpoll::codec::{Frame, LengthPrefix, read_frame};
use netpoll::{
    Cancel, Connection, Dialer, Error, EventLoop, Framed, LinkBuffer, Listener, Out, Pool, Pooled,
    ReceiveRate, Result, on_frame,
};

/// The longest call and the longest answer, in bytes.
const LONGEST: usize = 64 << 10;
const DIAL: Duration = Duration::from_secs(2);
const ANSWER: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let Err(error) = serve() else { return ExitCode::SUCCESS };
    eprintln!("{error}");
    ExitCode::FAILURE
}

fn serve() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let address = args.next().unwrap_or_else(|| "127.0.0.1:7015".into());
    let servers: Vec<String> = args.collect();
    if servers.is_empty() {
        return Err(Error::config("usage: gateway ADDRESS SERVER..."));
    }
    let listener = Listener::bind("tcp", &address)?;
    println!("listening on {}", listener.local_addr()?);
    let pool = Pool::builder().max_open(256).build(Dialer::builder().build()?)?;
    let gateway = Gateway { pool, servers, turn: AtomicUsize::new(0) };
    let codec = LengthPrefix::new(4, LONGEST)?;
    EventLoop::builder()
        .on_prepare(|_: &Connection| Ok(Framed::new(())))
        .on_request(on_frame(
            codec.clone(),
            move |(): &mut (), call: Frame<'_>, out: &mut Out<'_, LengthPrefix>| {
                gateway.pass_on(call, codec.clone(), out)
            },
        ))
        .min_receive_rate(ReceiveRate { bytes: 1 << 10, per: Duration::from_secs(5) })
        .idle_timeout(Duration::from_secs(60))
        .max_connections(1000)
        .build()?
        .serve(listener)?;
    Ok(())
}

struct Gateway {
    pool: Pool,
    servers: Vec<String>,
    /// How many calls there were: the next server is asked next.
    turn: AtomicUsize,
}

impl Gateway {
    /// Runs in the client's callback, and waits there.
    fn pass_on(
        &self,
        call: Frame<'_>,
        mut codec: LengthPrefix,
        out: &mut Out<'_, LengthPrefix>,
    ) -> Result<()> {
        // A client that vanishes ends the wait for a connection, and then those for the server.
        let (cancel, client) = (Cancel::new(), out.handle().peer_addr());
        let waiting = cancel.clone();
        let _dial = out.handle().on_gone(move || waiting.cancel());
        let mut server = self.connect(&cancel)?;
        let asked = server.handle();
        let _call = out.handle().on_gone(move || {
            println!("{client} has gone: its call to {} is given up", asked.peer_addr());
            asked.abort();
        });
        server.set_read_timeout(Some(ANSWER));
        send(&mut server, call.into_buffer())?;
        let mut reader = server.reader();
        match read_frame(&mut codec, &mut reader)? {
            Some(answer) => out.send_buffer(answer.into_buffer()),
            None => Err(Error::EndOfStream),
        }
    }

    /// A connection to the server of the next turn, or to the next one that can be reached.
    fn connect(&self, cancel: &Cancel) -> Result<Pooled> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut failure = Error::config("there is no server");
        for offset in 0..self.servers.len() {
            let server = &self.servers[turn.wrapping_add(offset) % self.servers.len()];
            match self.pool.checkout_with("tcp", server, DIAL, cancel) {
                Ok(connection) => return Ok(connection),
                Err(gone) if cancel.is_cancelled() => return Err(gone),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }
}

fn send(server: &mut Connection, call: LinkBuffer) -> Result<()> {
    let mut writer = server.writer();
    writer.write_bytes(&(call.len() as u32).to_be_bytes());
    writer.append(call);
    writer.flush()
}
