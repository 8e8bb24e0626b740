//! Asks a web server twice, over TLS: each time on a connection of its own, which resumes the
//! session of the first if the server lets it.
//!
//! Shows `TlsClient`: the roots that are trusted, a client certificate, the sessions that it keeps;
//! and errors that say what is wrong with a server.
//!
//! Its limits: 5 s for a dial with its handshake, 10 s for a read, 16 MiB of an answer.
//!
//! ```text
//! cargo run --release --features tls --example https_client # asks the example `https`
//! cargo run --release --features tls --example https_client -- example.org:443 /
//! cargo run --release --features tls --example https_client -- \
//!     HOST:PORT PATH ROOT.pem [CHAIN.pem KEY.pem]
//! ```

use std::io::Read;
use std::process::ExitCode;
use std::time::Duration;

use netpoll::tls::{TlsClient, TlsConnection, TlsDialer};
use netpoll::{Dialer, Error, Limits, Result};

const USAGE: &str = "usage: https_client HOST:PORT PATH [ROOT.pem [CHAIN.pem KEY.pem]]";
/// What is asked without arguments: the example `https`, which has written its root there.
const HTTPS: [&str; 3] = ["127.0.0.1:7443", "/plaintext", "/tmp/netpoll-https.pem"];
/// The longest answer that is read, in bytes.
const LONGEST: u64 = 16 << 20;

fn main() -> ExitCode {
    match ask() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:?}"); // with its causes
            ExitCode::FAILURE
        }
    }
}

fn ask() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let mut args: Vec<&str> = args.iter().map(String::as_str).collect();
    if args.is_empty() {
        args = HTTPS.to_vec();
    }
    let [address, path, ref tls @ ..] = args[..] else { return Err(Error::config(USAGE)) };
    let mut client = TlsClient::builder().alpn(["http/1.1"]);
    match *tls {
        [] => {} // the authorities of Mozilla
        [root] => client = client.roots(root),
        [root, chain, key] => client = client.roots(root).certificate(chain, key),
        _ => return Err(Error::config(USAGE)),
    }
    let dialer = Dialer::builder()
        .tls(client.build()?)
        .timeout(Duration::from_secs(5))
        .limits(Limits { read_timeout: Some(Duration::from_secs(10)), ..Limits::default() })
        .build()?;
    for _ in 0..2 {
        get(&dialer, address, path)?;
    }
    Ok(())
}

/// One request on a new connection.
fn get(dialer: &Dialer, address: &str, path: &str) -> Result<()> {
    let mut conn = dialer.dial("tcp", address)?;
    if let Some(tls) = conn.tls() {
        let resumed = if tls.resumed { ", resumed" } else { "" };
        println!("{:?} with {:?}{resumed}", tls.version, tls.cipher);
    }
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let mut writer = conn.writer();
    writer
        .write_string(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"));
    writer.flush()?;
    let mut answer = Vec::new();
    // A stream that was cut short is an error here: TLS says where it ends.
    (&mut conn).take(LONGEST).read_to_end(&mut answer)?;
    let status = answer.split(|&byte| byte == b'\r').next().unwrap_or_default();
    println!("{} bytes: {}", answer.len(), status.escape_ascii());
    Ok(())
}
