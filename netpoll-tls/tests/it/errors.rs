//! What a person reads when a handshake fails, at both ends; rustls's error is the cause.

use std::error::Error as _;

use netpoll_tls::rustls::version::{TLS12, TLS13};
use netpoll_tls::rustls::{self, AlertDescription, CertificateError};

use crate::ends::{End, Ours, Theirs, exchange};
use crate::handshake::{their_client, their_server};
use crate::identities::{Authority, OURS, client, server, server_as};

/// Goes on until one end fails; then the other end reads its alert.
fn fails(client: &mut impl End, server: &mut impl End) -> (String, String) {
    let mut told = (String::new(), String::new());
    for _ in 0..10 {
        let (there, back) = (client.transmit(), server.transmit());
        if let (Err(error), true) = (server.receive(&there), told.1.is_empty()) {
            told.1 = error;
        }
        if let (Err(error), true) = (client.receive(&back), told.0.is_empty()) {
            told.0 = error;
        }
    }
    told
}

fn dialled() -> Ours {
    Ours::dial(&client().build().unwrap(), "localhost:1")
}

#[test]
fn a_certificate_for_another_name() {
    let mut client = Ours::dial(&client().build().unwrap(), "other.example:443");
    let mut server = Ours::accept(&server().build().unwrap());
    let (at_client, at_server) = fails(&mut client, &mut server);
    assert_eq!(
        at_client,
        "the server's certificate is for localhost, 127.0.0.1, and not for other.example"
    );
    assert_eq!(at_server, "the client does not accept our certificate");
}

#[test]
fn an_expired_certificate() {
    let expired = OURS.sign_expired(&["localhost"]);
    let mut server = Ours::accept(&server_as(&expired).build().unwrap());
    let (at_client, at_server) = fails(&mut dialled(), &mut server);
    assert_eq!(at_client, "the server's certificate has expired");
    assert_eq!(at_server, "the client finds that our certificate has expired");
}

#[test]
fn an_unknown_issuer() {
    let foreign = Authority::new().sign(&["localhost"]);
    let mut server = Ours::accept(&server_as(&foreign).build().unwrap());
    let (at_client, at_server) = fails(&mut dialled(), &mut server);
    assert_eq!(
        at_client,
        "the server's certificate comes from an issuer that is not trusted here; add its root"
    );
    assert_eq!(at_server, "the client does not trust the issuer of our certificate");
}

#[test]
fn the_cause_is_the_error_of_rustls() {
    let expired = OURS.sign_expired(&["localhost"]);
    let mut server = Ours::accept(&server_as(&expired).build().unwrap());
    let mut client = dialled();
    server.receive(&client.transmit()).unwrap();
    let error = client.open(&server.transmit()).unwrap_err();
    let cause = error.source().unwrap().downcast_ref().unwrap();
    assert!(matches!(
        cause,
        rustls::Error::InvalidCertificate(CertificateError::ExpiredContext { .. })
    ));
    let again = client.open(&[]).unwrap_err();
    assert_eq!(again.to_string(), "TLS has failed before");
    let sealed = client.filter.seal(&"x".into(), 0, &mut "".into()).unwrap_err();
    assert_eq!(sealed.to_string(), "TLS has failed before");
}

#[test]
fn no_common_version() {
    let only_13 = netpoll_tls::TlsConfig::from_rustls(their_server(&TLS13).into()).unwrap();
    let mut client = Theirs::client(their_client(&TLS12).into());
    let (at_client, at_server) = fails(&mut client, &mut Ours::accept(&only_13));
    assert_eq!(at_server, "the client speaks no version of TLS that this side speaks");
    assert!(at_client.contains("ProtocolVersion"), "{at_client}");

    let only_12 = netpoll_tls::TlsClient::from_rustls(their_client(&TLS12).into()).unwrap();
    let mut server = Theirs::server(their_server(&TLS13).into());
    let (at_client, _) = fails(&mut Ours::dial(&only_12, "localhost:1"), &mut server);
    assert_eq!(at_client, "the server speaks no version of TLS that this side speaks");
}

#[test]
fn no_common_protocol() {
    let mut client = Ours::dial(&client().alpn(["h2"]).build().unwrap(), "localhost:1");
    let mut server = Ours::accept(&server().alpn(["http/1.1"]).build().unwrap());
    let (at_client, at_server) = fails(&mut client, &mut server);
    assert_eq!(at_client, "the server speaks none of the protocols that were offered by ALPN");
    assert_eq!(
        at_server,
        "the client offers by ALPN none of the protocols that this server speaks"
    );
}

#[test]
fn a_client_without_the_certificate_that_is_required() {
    let config = server().client_certificates(OURS.root.as_bytes()).build().unwrap();
    let (at_client, at_server) = fails(&mut dialled(), &mut Ours::accept(&config));
    assert_eq!(at_server, "the client presented no certificate, and one is required");
    assert_eq!(at_client, "the server requires a certificate, and we presented none");
}

#[test]
fn a_client_whose_certificate_has_an_unknown_issuer() {
    let foreign = Authority::new().sign(&["client"]);
    let config = server().optional_client_certificates(OURS.root.as_bytes()).build().unwrap();
    let client = client().certificate(foreign.chain.as_bytes(), foreign.key.as_bytes());
    let mut client = Ours::dial(&client.build().unwrap(), "localhost:1");
    let (_, at_server) = fails(&mut client, &mut Ours::accept(&config));
    assert_eq!(
        at_server,
        "the client's certificate comes from an issuer that is not trusted here; add its root"
    );
}

#[test]
fn a_client_that_does_not_speak_tls() {
    let mut server = Ours::accept(&server().build().unwrap());
    let error = server.receive(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap_err();
    assert_eq!(error, "the client sent bytes that are not TLS");
    assert_eq!(server.transmit()[0], 0x15, "an alert");
}

#[test]
fn a_record_that_was_changed() {
    let (mut client, mut server) = (dialled(), Ours::accept(&server().build().unwrap()));
    exchange(&mut client, &mut server).unwrap();
    client.send(b"whole");
    client.send(b"changed");
    let mut wire = client.transmit();
    *wire.last_mut().unwrap() ^= 1;
    let error = server.receive(&wire).unwrap_err();
    assert_eq!(error, "a record of the client could not be decrypted: it was changed on its way");
    assert_eq!(server.plain(), b"whole", "what came before is delivered");
    let error = client.open(&server.transmit()).unwrap_err();
    assert_eq!(error.to_string(), "the server could not decrypt or verify what it received");
    let cause = error.source().unwrap().downcast_ref();
    assert_eq!(cause, Some(&rustls::Error::AlertReceived(AlertDescription::BadRecordMac)));
}
