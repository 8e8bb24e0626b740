//! A server behind a proxy that sends the address of its client.
//!
//! Shows a listener with the PROXY protocol: callbacks see the client's address, not the proxy's,
//! and what else the proxy says: the host name that the client asked for, how it spoke TLS.
//!
//! Its limits: 3 s for the header (`ProxyProtocol::default`), 60 s without a byte either way, 1 000
//! clients.
//!
//! ```text
//! cargo run --release --example proxy_protocol -- [ADDRESS [NETWORK OF PROXIES]...]
//! printf 'PROXY TCP4 192.0.2.1 198.51.100.7 51000 443\r\nhello\n' | nc -N 127.0.0.1 7011
//! ```
//! With `HAProxy`: `server s1 127.0.0.1:7011 send-proxy-v2 proxy-v2-options ssl,cert-cn,authority`.

use std::time::Duration;

use netpoll::{Connection, EventLoop, Listener, ProxyProtocol, Result, TrustedProxies};

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let address = args.next().unwrap_or_else(|| "127.0.0.1:7011".into());
    // Without networks only proxies must be able to connect here: a peer can claim any address.
    let networks: Vec<String> = args.collect();
    let trusted = match &*networks {
        [] => None,
        some => Some(TrustedProxies::new(some.iter().map(String::as_str))?),
    };
    let proxy = ProxyProtocol { trusted, ..ProxyProtocol::default() };
    let listener = Listener::bind("tcp", &address)?.proxy_protocol(proxy);
    println!("listening on {}", listener.local_addr()?);
    EventLoop::builder()
        .on_prepare(greeting)
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

fn greeting(conn: &Connection) -> Result<String> {
    let ends = format!("{} connected to {}", conn.peer_addr(), conn.local_addr()?);
    let header = conn.proxy_header();
    let host = header.and_then(|it| it.authority());
    let tls = header.and_then(|it| it.tls()).filter(|it| it.is_tls());
    let version = tls.as_ref().map(|it| it.version().unwrap_or("TLS"));
    // A name that the proxy has not verified is a claim.
    let name = tls.as_ref().filter(|it| it.is_verified()).and_then(|it| it.common_name());
    let said = [("asked for", host), ("by", version), ("as", name)];
    let said = said.iter().filter_map(|(how, what)| Some(format!(", {how} {}", what.as_ref()?)));
    Ok(ends + &said.collect::<String>() + "\n")
}
