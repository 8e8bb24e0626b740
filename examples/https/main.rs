//! The web server of the example `http`, over TLS 1.2 and 1.3.
//!
//! Shows a listener that speaks TLS: the callbacks are those of `http`, which see plain bytes. ALPN
//! says that this server speaks HTTP/1.1, so a client that speaks only h2 is refused in its
//! handshake. SIGHUP reads the certificate again; connections that are open go on.
//!
//! Its limits: those of `http`, and 10 s for a handshake.
//!
//! ```text
//! cargo run --release --features tls --example https -- [ADDRESS [DIRECTORY [CHAIN.pem KEY.pem]]]
//! curl -i --cacert /tmp/netpoll-https.pem https://localhost:7443/plaintext
//! ```
//!
//! Without a certificate it makes one for `localhost` at its start.

#[path = "../http/answer.rs"]
mod answer;
#[path = "../tls/certificate.rs"]
mod certificate;
#[path = "../http/files.rs"]
mod files;
#[path = "../http/grammar.rs"]
mod grammar;
#[path = "../http/request.rs"]
mod request;
#[path = "../http/session.rs"]
mod session;

use std::error::Error;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use certificate::Certificate;
use files::Files;
use netpoll::tls::{TlsConfig, TlsListener};
use netpoll::{Connection, Dispatch, EventLoop, HandOffOptions, Listener, ReceiveRate};
use nix::sys::signal::{SigSet, Signal};
use session::Session;

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
    let hang_up = SigSet::from(Signal::SIGHUP);
    hang_up.thread_block()?; // before any thread starts, so that only `reload` gets it
    let mut args = std::env::args().skip(1);
    let address = args.next().unwrap_or_else(|| "127.0.0.1:7443".into());
    let directory = args.next().filter(|directory| !directory.is_empty());
    let certificate = Certificate::of(args.next().zip(args.next()), "/tmp/netpoll-https.pem")?;
    let files = Files::below(directory)?;
    let dispatch = if files.is_empty() {
        Dispatch::Inline
    } else {
        Dispatch::HandOff(HandOffOptions::default())
    };
    let config = TlsConfig::builder()
        .certificate(certificate.chain, certificate.key)
        .alpn(["http/1.1"])
        .build()?;
    let reloaded = config.clone();
    thread::spawn(move || reload(hang_up, &reloaded));
    let listener = Listener::bind("tcp", &address)?.tls(config);
    println!("listening on {}", listener.local_addr()?);
    EventLoop::builder()
        .on_prepare(|_: &Connection| Ok(Session::default()))
        .on_request(move |session: &mut Session, conn: &mut Connection| session.serve(&files, conn))
        .dispatch(dispatch)
        .first_byte_timeout(Duration::from_secs(10))
        .idle_timeout(Duration::from_secs(60))
        .min_receive_rate(ReceiveRate { bytes: 64, per: Duration::from_secs(5) })
        .input_limit(64 << 10)
        .max_connections(4096)
        .build()?
        .serve(listener)?;
    Ok(())
}

/// Reads the certificate again at each SIGHUP, as after its renewal.
fn reload(hang_up: SigSet, config: &TlsConfig) {
    while hang_up.wait().is_ok() {
        match config.reload() {
            Ok(()) => println!("reloaded"),
            Err(error) => eprintln!("not reloaded, the old one stays: {error}"),
        }
    }
}
