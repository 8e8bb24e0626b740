//! An MQTT broker (3.1.1) for clients that keep no session: `QoS` 0 and 1, wildcards, retained
//! messages, wills, and the takeover of a client's id.
//!
//! Shows a protocol of binary packets, read without a copy, in one callback that never waits; one
//! value that is the `Handler` of all connections; messages sent through handles; and `close_at` as
//! a time that each packet begins anew.
//!
//! Its limits: packets of 128 KiB, topics of 256 B, ids of 64 B, 64 filters for a client; 1 000
//! retained messages of 1 MiB in all; 2 MiB of output and 10 000 messages without an answer for a
//! client; 10 s until CONNECT, then one and a half of the client's own time between packets; 1 000
//! clients, 1 KiB in 10 s of a packet that has begun, 256 MiB of input and output in all.
//!
//! ```text
//! cargo run --release --example mqtt -- [ADDRESS]
//! mosquitto_sub -p 7883 -t 'house/#' -v &
//! mosquitto_pub -p 7883 -t house/kitchen/light -m on
//! ```

mod broker;
mod client;
mod connect;
mod packet;
mod requests;
mod retained;
mod session;
mod topic;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use broker::Broker;
use netpoll::{CloseReason, Connection, EventLoop, Handler, Listener, ReceiveRate, Result};
use packet::PACKET_MAX;
use session::Session;

/// How long a client may take until CONNECT.
const PATIENCE: Duration = Duration::from_secs(10);
/// How much may be queued for a client: more than all retained messages.
const OUTPUT_MAX: usize = 2 << 20;

impl Handler for Broker {
    type Session = Session;

    fn on_prepare(&self, conn: &Connection) -> Result<Session> {
        conn.handle().close_at(Some(Instant::now() + PATIENCE));
        Ok(Session::default())
    }

    fn on_request(&self, session: &mut Session, conn: &mut Connection) -> Result<()> {
        session.serve(self, conn)
    }

    fn on_disconnect(&self, session: Session, _: &CloseReason) {
        session.end(self);
    }
}

fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7883".into());
    let listener = Listener::bind("tcp", &address)?;
    println!("listening on {}", listener.local_addr()?);
    EventLoop::builder()
        .handler(Broker::default())
        .input_limit(PACKET_MAX + 8)
        .output_limits(OUTPUT_MAX / 4, OUTPUT_MAX)
        .memory_budget(256 << 20)
        .min_receive_rate(ReceiveRate { bytes: 1 << 10, per: Duration::from_secs(10) })
        .max_connections(1000)
        .build()?
        .serve(listener)?;
    Ok(())
}
