//! Handshakes: which clients and servers agree, and on what.

use std::sync::Arc;

use netpoll_core::{FilterClient, FilterState};
use netpoll_tls::rustls::pki_types::CertificateDer;
use netpoll_tls::rustls::pki_types::pem::PemObject;
use netpoll_tls::rustls::version::{TLS12, TLS13};
use netpoll_tls::rustls::{self, CipherSuite, ProtocolVersion, RootCertStore};
use netpoll_tls::{Provider, TlsClient, TlsConfig, TlsInfo};

use crate::ends::{End, Ours, Theirs, anywhere, exchange, open_pair};
use crate::identities::{LOCALHOST, OURS, client, server};

pub(crate) type Version = &'static rustls::SupportedProtocolVersion;

/// rustls's configuration of a client that trusts the tests' authority.
pub(crate) fn their_client(version: Version) -> rustls::ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(OURS.root.as_bytes()).unwrap()).unwrap();
    rustls::ClientConfig::builder_with_provider(ring())
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

pub(crate) fn their_server(version: Version) -> rustls::ServerConfig {
    let chain = vec![CertificateDer::from_pem_slice(LOCALHOST.chain.as_bytes()).unwrap()];
    let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(LOCALHOST.key.as_bytes()).unwrap();
    rustls::ServerConfig::builder_with_provider(ring())
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap()
}

fn ring() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

#[test]
fn both_ends_learn_what_was_agreed_on() {
    let config = server().alpn(["h2", "rpc/1"]).build().unwrap();
    let client = client().alpn(["rpc/1", "h2"]).build().unwrap();
    let (mut client, mut server) = open_pair(&client, &config);

    let theirs = server.info();
    assert_eq!(theirs.version, ProtocolVersion::TLSv1_3);
    assert_eq!(theirs.cipher, CipherSuite::TLS13_AES_256_GCM_SHA384);
    assert_eq!(theirs.alpn.as_deref(), Some(&b"h2"[..]), "the server's preference");
    assert_eq!(theirs.server_name.as_deref(), Some("localhost"));
    assert_eq!((theirs.peer_certificates, theirs.resumed), (vec![], false));
    let ours = client.info();
    assert_eq!(
        (ours.version, ours.cipher, ours.alpn),
        (theirs.version, theirs.cipher, theirs.alpn)
    );
    assert_eq!((ours.server_name, ours.resumed), (None, false));
    let certificate = CertificateDer::from_pem_slice(LOCALHOST.chain.as_bytes()).unwrap();
    assert_eq!(ours.peer_certificates, [certificate]);

    client.send(b"ping");
    exchange(&mut client, &mut server).unwrap();
    assert_eq!(server.plain(), b"ping");
    server.send(b"pong");
    exchange(&mut client, &mut server).unwrap();
    assert_eq!(client.plain(), b"pong");
}

#[test]
fn a_server_talks_to_rustls_in_both_versions() {
    for version in [&TLS12, &TLS13] {
        let mut client = Theirs::client(their_client(version).into());
        let mut server = Ours::accept(&server().build().unwrap());
        talk(&mut client, &mut server);
        assert_eq!(server.info().version, version.version);
    }
}

#[test]
fn a_client_talks_to_rustls_in_both_versions() {
    for version in [&TLS12, &TLS13] {
        let mut client = Ours::dial(&client().build().unwrap(), "localhost:1");
        let mut server = Theirs::server(their_server(version).into());
        talk(&mut client, &mut server);
        assert_eq!(client.info().version, version.version);
    }
}

/// A message each way, then each end ends its stream, the client first.
fn talk(client: &mut impl End, server: &mut impl End) {
    exchange(client, server).unwrap();
    client.send(b"ping");
    exchange(client, server).unwrap();
    assert_eq!(server.plain(), b"ping");

    client.finish();
    exchange(client, server).unwrap();
    assert!(server.has_finished() && !client.has_finished());
    let long = vec![7; 100_000];
    server.send(&long);
    exchange(client, server).unwrap();
    assert_eq!(client.plain().len(), long.len(), "a server may go on after the client's end");
    server.finish();
    exchange(client, server).unwrap();
    assert!(client.has_finished());
}

#[test]
fn plain_bytes_wait_for_the_end_of_the_handshake() {
    let config = server().build().unwrap();
    let client = client().build().unwrap();
    let (mut client, mut server) = (Ours::dial(&client, "localhost:1"), Ours::accept(&config));
    client.send(b"early from the client");
    server.send(b"early from the server");
    let refused = server.filter.seal(&"x".into(), 0, &mut "".into()).unwrap_err();
    assert_eq!(refused.to_string(), "the TLS handshake goes on");
    exchange(&mut client, &mut server).unwrap();
    assert_eq!(server.plain(), b"early from the client");
    assert_eq!(client.plain(), b"early from the server");
}

#[test]
fn a_handshake_that_is_not_over_tells_nothing() {
    let config = server().build().unwrap();
    let mut client = Ours::dial(&client().build().unwrap(), "localhost:1");
    let mut server = Ours::accept(&config);
    assert!(TlsInfo::of_filter(&*server.filter).is_none());
    server.receive(&client.transmit()).unwrap();
    assert_eq!(server.state, FilterState::Handshaking, "it could seal, and the client is unproved");
    assert!(TlsInfo::of_filter(&*server.filter).is_none());
    let mut nothing = netpoll_buffer::LinkBuffer::new();
    server.filter.finish(&mut nothing);
    assert_eq!(nothing.malloc_len(), 0, "there is no stream to end");
}

#[test]
fn sessions_resume() {
    let config = server().build().unwrap();
    let client = client().build().unwrap();
    let (mut one, mut two) = open_pair(&client, &config);
    exchange(&mut one, &mut two).unwrap();
    assert!(!one.info().resumed);
    let (again, there) = open_pair(&client, &config);
    assert!(again.info().resumed && there.info().resumed);
    assert_eq!(there.info().server_name.as_deref(), Some("localhost"));
    assert_eq!(again.info().peer_certificates.len(), 1, "of the first handshake");
}

#[test]
fn sessions_resume_in_version_1_2() {
    let config = server().build().unwrap();
    let theirs = Arc::new(their_client(&TLS12));
    for resumed in [false, true] {
        let (mut client, mut server) = (Theirs::client(theirs.clone()), Ours::accept(&config));
        exchange(&mut client, &mut server).unwrap();
        assert_eq!(server.info().resumed, resumed);
    }
}

#[test]
fn either_side_can_turn_resumption_off() {
    let pairs = [(server().resumption(false), client()), (server(), client().sessions(0))];
    for (server, client) in pairs {
        let (config, client) = (server.build().unwrap(), client.build().unwrap());
        for _ in 0..2 {
            let (ours, _) = open_pair(&client, &config);
            assert!(!ours.info().resumed);
        }
    }
}

#[test]
fn a_name_that_was_given_is_asked_for_whatever_was_dialled() {
    let config = server().build().unwrap();
    let client = client().server_name("localhost").build().unwrap();
    let mut dialled = Ours::dial(&client, "elsewhere.example:1");
    let mut accepted = Ours::accept(&config);
    exchange(&mut dialled, &mut accepted).unwrap();
    assert_eq!(accepted.info().server_name.as_deref(), Some("localhost"));
}

#[test]
fn an_address_is_verified_and_not_asked_for() {
    let config = server().build().unwrap();
    let mut client = Ours::dial(&client().build().unwrap(), "127.0.0.1:1");
    let mut server = Ours::accept(&config);
    exchange(&mut client, &mut server).unwrap();
    assert_eq!(server.info().server_name, None);
}

#[test]
fn a_unix_socket_needs_a_name() {
    let path = netpoll_core::Address::unix("/run/socket");
    let client = client().build().unwrap();
    let error = client.dial("/run/socket", &path).unwrap_err().to_string();
    assert!(error.contains("/run/socket") && error.contains("server_name()"), "{error}");
    client.with_server_name("localhost").unwrap().dial("/run/socket", &path).unwrap();
}

#[test]
fn early_data_is_refused_where_it_is_configured() {
    let mut server = their_server(&TLS13);
    server.max_early_data_size = 1;
    let error = TlsConfig::from_rustls(server.into()).unwrap_err();
    assert!(error.to_string().contains("0-RTT"), "{error}");
    let mut client = their_client(&TLS13);
    client.enable_early_data = true;
    let error = TlsClient::from_rustls(client.into()).unwrap_err();
    assert!(error.to_string().contains("0-RTT"), "{error}");
}

#[test]
fn configurations_of_rustls_serve_and_dial() {
    let config = TlsConfig::from_rustls(their_server(&TLS12).into()).unwrap();
    let client = TlsClient::from_rustls(their_client(&TLS12).into()).unwrap();
    let (client, server) = open_pair(&client, &config);
    assert_eq!(client.info().version, ProtocolVersion::TLSv1_2);
    assert_eq!(server.info().server_name.as_deref(), Some("localhost"));
}

#[test]
fn a_dial_says_its_first_message_at_once() {
    let filter = client().build().unwrap().dial("localhost:1", &anywhere()).unwrap();
    let mut first = netpoll_buffer::LinkBuffer::new();
    filter.say(&mut first);
    first.flush();
    assert_eq!(first.chunk()[0], 0x16);
    filter.say(&mut first);
    assert_eq!(first.malloc_len(), 0, "once");
}

/// Those that this build has.
fn providers() -> Vec<Provider> {
    vec![
        #[cfg(feature = "ring")]
        Provider::Ring,
        #[cfg(feature = "aws-lc-rs")]
        Provider::AwsLcRs,
    ]
}

#[test]
fn each_provider_talks_to_each_and_the_process_has_no_say() {
    for server_has in providers() {
        for client_has in providers() {
            let config = server().provider(server_has).build().unwrap();
            let client = client().provider(client_has).build().unwrap();
            let (mut client, mut server) = open_pair(&client, &config);
            client.send(b"ping");
            exchange(&mut client, &mut server).unwrap();
            assert_eq!(server.plain(), b"ping");
        }
    }
    assert!(rustls::crypto::CryptoProvider::get_default().is_none(), "none was installed");
}
