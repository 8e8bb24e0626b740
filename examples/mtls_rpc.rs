//! Remote calls between parties that prove their identity: mutual TLS.
//!
//! Shows a server that requires client certificates and knows its callers by them, and clients
//! that present one: `client_certificates`, `TlsInfo::peer_certificates`, a dialer with TLS. It is
//! server and clients in one program, with certificates that it makes at its start. With files the
//! server would have `certificate("chain.pem", "key.pem").client_certificates("ca.pem")`, and a
//! client `roots("ca.pem").certificate("client.pem", "client.key")`.
//!
//! ```text
//! cargo run --release --features tls --example mtls_rpc -- [ADDRESS]
//! ```

#[path = "tls/certificate.rs"]
#[expect(dead_code, reason = "each example of TLS uses its part")]
mod certificate;

use std::collections::HashMap;
use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use certificate::{Authority, Certificate};
use netpoll::codec::{Frame, LengthPrefix};
use netpoll::tls::rustls::pki_types::{CertificateDer, pem::PemObject};
use netpoll::tls::{Pem, TlsClient, TlsConfig, TlsConnection, TlsDialer, TlsListener};
use netpoll::{Connection, Dialer, EventLoop, Framed, Listener, Out, Result, on_frame};

/// The name of each caller, by its certificate.
type Callers = HashMap<CertificateDer<'static>, &'static str>;

/// Answers one call: the caller's name, and what it said.
fn answer(caller: &mut String, call: Frame<'_>, out: &mut Out<'_, LengthPrefix>) -> Result<()> {
    let mut answer = format!("hello {caller}, you said ").into_bytes();
    answer.extend_from_slice(call.bytes());
    out.send(&answer)
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7014".into());
    let (ours, foreign) = (Authority::new("ours")?, Authority::new("another")?);
    let [alice, stranger] = [ours.sign("alice")?, foreign.sign("alice")?];
    let callers = Callers::from([(der(&alice.chain)?, "alice")]);
    let server = ours.sign("localhost")?;
    let config = TlsConfig::builder()
        .certificate(server.chain, server.key)
        .client_certificates(ours.root.as_bytes())
        .build()?;
    let listener = Listener::bind("tcp", &address)?.tls(config);
    let address = listener.local_addr()?.to_string();
    let codec = LengthPrefix::new(4, 64 << 10)?;
    let running = EventLoop::builder()
        .on_prepare(|_: &Connection| Ok(Framed::new(String::new())))
        .on_connect(move |session: &mut Framed<LengthPrefix, String>, conn: &mut Connection| {
            let tls = conn.tls().ok_or_else(|| netpoll::Error::other("no TLS"))?;
            let name = tls.peer_certificates.first().and_then(|it| callers.get(it));
            let unknown = || netpoll::Error::other("this certificate is of no caller");
            **session = (*name.ok_or_else(unknown)?).into();
            Ok(())
        })
        .on_request(on_frame(codec, answer))
        .build()?
        .spawn(listener)?;

    for (name, certificate) in
        [("alice", Some(alice)), ("nobody", None), ("a stranger", Some(stranger))]
    {
        match call(&address, &ours.root, certificate, b"ping") {
            Ok(answer) => println!("{name}: {answer}"),
            Err(error) => println!("{name}: {error}"),
        }
    }
    running.shutdown(Duration::from_secs(1));
    Ok(())
}

/// One call, over a connection of its own.
fn call(
    address: &str,
    root: &str,
    certificate: Option<Certificate>,
    request: &[u8],
) -> Result<String> {
    let mut client = TlsClient::builder().roots(root.as_bytes());
    if let Some(Certificate { chain, key }) = certificate {
        client = client.certificate(chain, key);
    }
    let mut conn = Dialer::builder().tls(client.build()?).build()?.dial("tcp", address)?;
    let mut writer = conn.writer();
    writer.write_bytes(&u32::try_from(request.len()).unwrap_or(u32::MAX).to_be_bytes());
    writer.write_bytes(request);
    writer.flush()?;
    let mut reader = conn.reader();
    let length = u32::from_be_bytes(reader.next(4)?.try_into().unwrap_or_default());
    Ok(String::from_utf8_lossy(reader.next(length as usize)?).into_owned())
}

fn der(chain: &Pem) -> Result<CertificateDer<'static>, Box<dyn Error>> {
    let Pem::Bytes(text) = chain else { return Err("it was made here".into()) };
    Ok(CertificateDer::from_pem_slice(text)?)
}
