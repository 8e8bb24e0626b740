//! An echo over TLS that prints what the handshake agreed on. Plain clients are served on the
//! same port.
//!
//! Shows `conn.tls()`: what the handshake agreed on; and `also_plain`: a client that does not begin
//! with a handshake is served without TLS, and the callback can tell.
//!
//! Its limits: 10 s for a handshake or a first byte, 5 min without a byte either way, 1 000
//! clients.
//!
//! ```text
//! cargo run --release --features tls --example tls_echo -- [ADDRESS [CHAIN.pem KEY.pem]]
//! openssl s_client -quiet -connect localhost:7013 -CAfile /tmp/netpoll-tls-echo.pem
//! nc 127.0.0.1 7013
//! ```
//!
//! Without a certificate it makes one for `localhost` at its start.

#[path = "tls/certificate.rs"]
mod certificate;

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use certificate::Certificate;
use netpoll::tls::{TlsConfig, TlsConnection, TlsListener};
use netpoll::{CloseReason, Connection, EventLoop, Listener};

fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let address = args.next().unwrap_or_else(|| "127.0.0.1:7013".into());
    let certificate = Certificate::of(args.next().zip(args.next()), "/tmp/netpoll-tls-echo.pem")?;
    let config = TlsConfig::builder()
        .certificate(certificate.chain, certificate.key)
        .alpn(["echo"])
        .also_plain(true)
        .build()?;
    let listener = Listener::bind("tcp", &address)?.tls(config);
    println!("listening on {}", listener.local_addr()?);
    EventLoop::builder()
        .on_connect(|(): &mut (), conn: &mut Connection| {
            println!("{}: {}", conn.peer_addr(), agreed(conn));
            Ok(())
        })
        .on_request(|(): &mut (), conn: &mut Connection| {
            let (mut reader, mut writer) = conn.split();
            writer.append(reader.slice(reader.len())?); // plain bytes, whatever the wire carries
            writer.flush()
        })
        .on_disconnect(|(), why: &CloseReason| println!("the end: {why}"))
        .idle_timeout(Duration::from_secs(300))
        .max_connections(1000)
        .build()?
        .serve(listener)?;
    Ok(())
}

/// What the handshake agreed on, in a line.
fn agreed(conn: &Connection) -> String {
    let Some(tls) = conn.tls() else { return "no TLS".into() };
    let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
    format!(
        "{:?} with {:?}, for {}, {}{}",
        tls.version,
        tls.cipher,
        tls.server_name.as_deref().unwrap_or("no name"),
        tls.alpn.as_deref().map_or("no protocol".into(), text),
        if tls.resumed { ", resumed" } else { "" },
    )
}
