//! A server behind a proxy that sends the address of its client.
//!
//! Shows a listener with the PROXY protocol: callbacks see the client's address, not the proxy's.
//!
//! Its limits: 3 s for the header (`ProxyProtocol::default`), 60 s without a byte either way, 1 000
//! clients.
//!
//! ```text
//! cargo run --release --example proxy_protocol -- [ADDRESS]
//! printf 'PROXY TCP4 192.0.2.1 198.51.100.7 51000 443\r\nhello\n' | nc -N 127.0.0.1 7011
//! ```
//! With `HAProxy`: `server s1 127.0.0.1:7011 send-proxy-v2`.

use std::time::Duration;

use netpoll::{Connection, EventLoop, Listener, ProxyProtocol, Result};

fn main() -> Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7011".into());
    // Only proxies must be able to connect here: a peer can claim any address.
    let listener = Listener::bind("tcp", &address)?.proxy_protocol(ProxyProtocol::default());
    println!("listening on {}", listener.local_addr()?);
    EventLoop::builder()
        .on_prepare(|conn: &Connection| {
            Ok(format!("{} connected to {}\n", conn.peer_addr(), conn.local_addr()?))
        })
        .on_connect(|who: &mut String, conn: &mut Connection| {
            conn.writer().write_bytes(who.as_bytes());
            Ok(())
        })
        .on_request(|_: &mut String, conn: &mut Connection| {
            let (mut reader, mut writer) = conn.split();
            writer.append(reader.slice(reader.len())?);
            writer.flush()
        })
        .idle_timeout(Duration::from_secs(60))
        .max_connections(1000)
        .build()?
        .serve(listener)
        .map(drop)
}
