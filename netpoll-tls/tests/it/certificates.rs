//! Certificates, keys and roots: which are taken, and what is said of those that can't be used.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use netpoll_core::Error;
use netpoll_tls::rustls::pki_types::CertificateDer;
use netpoll_tls::rustls::pki_types::pem::PemObject;
use netpoll_tls::rustls::version::TLS13;
use netpoll_tls::{TlsClient, TlsConfig, TlsConfigBuilder};
use rcgen::KeyPair;

use crate::ends::{Ours, exchange, open_pair};
use crate::handshake::their_client;
use crate::hostile::trusting;
use crate::identities::{Identity, LOCALHOST, OURS, client, server, server_as};

fn refused(config: TlsConfigBuilder) -> String {
    let error = config.build().unwrap_err();
    assert!(matches!(error, Error::Config(_)), "{error:?}");
    error.to_string()
}

/// A file in the directory of this test's build, removed at the end.
struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> Self {
        let name = format!("{name}-{}.pem", std::process::id());
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::write(&path, text).unwrap();
        Self(path)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        _ = fs::remove_file(&self.0);
    }
}

#[test]
fn files_and_bytes_are_the_same() {
    let chain = File::new("same-chain", &LOCALHOST.chain);
    let key = File::new("same-key", &LOCALHOST.key);
    let config = TlsConfig::from_pem(&*chain.0, key.0.clone()).unwrap();
    open_pair(&client().build().unwrap(), &config);
    let both = format!("{}{}", LOCALHOST.key, LOCALHOST.chain);
    let config = TlsConfig::from_pem(both.as_bytes(), both.as_bytes()).unwrap();
    open_pair(&client().build().unwrap(), &config);
}

#[test]
fn a_missing_file_is_named() {
    let error = TlsConfig::from_pem("/no/such/chain.pem", "/no/such/key.pem").unwrap_err();
    let sentence = "cannot read /no/such/chain.pem: No such file or directory (os error 2)";
    assert_eq!(error.to_string(), sentence);
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    assert_eq!(format!("{error:?}"), sentence);
}

#[test]
fn text_in_place_of_a_path_is_explained() {
    let error = TlsConfig::from_pem(&*LOCALHOST.chain, &*LOCALHOST.key).unwrap_err();
    let sentence =
        "a path was expected, and PEM itself was given; pass it as bytes: text.as_bytes()";
    assert_eq!(error.to_string(), sentence);
}

#[test]
fn texts_without_certificate_or_key_are_refused() {
    let swapped = Identity { chain: LOCALHOST.key.clone(), key: LOCALHOST.chain.clone() };
    let error = refused(server_as(&swapped));
    assert!(error.contains("has no certificate"), "{error}");
    let keyless = Identity { chain: LOCALHOST.chain.clone(), key: LOCALHOST.chain.clone() };
    let error = refused(server_as(&keyless));
    assert!(error.contains("has no private key"), "{error}");
    let torn = Identity { chain: LOCALHOST.chain[..100].into(), key: LOCALHOST.key.clone() };
    let error = refused(server_as(&torn));
    assert!(error.contains("can't be read as certificates in PEM"), "{error}");
    let error = refused(TlsConfig::builder());
    assert!(error.contains("needs a certificate"), "{error}");
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let other = KeyPair::generate().unwrap().serialize_pem();
    let chain = File::new("mismatch-chain", &LOCALHOST.chain);
    let error = TlsConfig::from_pem(&*chain.0, other.as_bytes()).unwrap_err().to_string();
    assert!(error.contains("does not match the first certificate in"), "{error}");
    assert!(error.contains("mismatch-chain"), "{error}");
    let error = client().certificate(&*chain.0, other.as_bytes()).build().unwrap_err();
    assert!(error.to_string().contains("does not match"), "{error}");
}

#[test]
fn a_key_that_is_no_key_is_refused() {
    let pem = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let error = refused(server_as(&Identity { chain: LOCALHOST.chain.clone(), key: pem.into() }));
    assert!(error.contains("can't be used"), "{error}");
}

#[test]
fn a_certificate_that_is_none_is_refused() {
    let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let error = refused(server_as(&Identity { chain: pem.into(), key: LOCALHOST.key.clone() }));
    assert!(error.contains("the first certificate in"), "{error}");
    let error = TlsClient::builder().roots(pem.as_bytes()).build().unwrap_err().to_string();
    assert!(error.contains("a root in"), "{error}");
}

#[test]
fn keys_are_in_no_debug_output() {
    let config = server().client_certificates(OURS.root.as_bytes()).build().unwrap();
    let text = format!("{config:?}");
    let line = LOCALHOST.key.lines().nth(1).unwrap();
    assert!(!text.contains(line) && text.contains("the PEM text of"), "{text}");
}

/// The name of the certificate that a client gets which asks for `name`.
fn served(config: &TlsConfig, name: &str) -> Vec<CertificateDer<'static>> {
    let (ours, _) = open_pair_for(config, name);
    ours.info().peer_certificates
}

fn open_pair_for(config: &TlsConfig, name: &str) -> (Ours, Ours) {
    // The name that is asked for need not be the certificate's here, so nothing is verified.
    let mut client = their_client(&TLS13);
    client.dangerous().set_certificate_verifier(trusting());
    let client = TlsClient::from_rustls(client.into()).unwrap();
    let mut client = Ours::dial(&client, &format!("{name}:1"));
    let mut server = Ours::accept(config);
    exchange(&mut client, &mut server).unwrap();
    (client, server)
}

#[test]
fn each_name_gets_its_certificate_and_others_the_first() {
    let [first, exact, wild] =
        [&["localhost"][..], &["a.example", "Upper.Example"], &["*.wild.example"]]
            .map(|it| OURS.sign(it));
    let config = [&exact, &wild]
        .iter()
        .fold(server_as(&first), |config, it| {
            config.certificate(it.chain.as_bytes(), it.key.as_bytes())
        })
        .build()
        .unwrap();
    let cases = [
        ("localhost", &first),
        ("a.example", &exact),
        ("upper.example", &exact),
        ("b.wild.example", &wild),
        ("c.b.wild.example", &first),
        ("wild.example", &first),
        ("example", &first),
        ("unknown.test", &first),
        ("127.0.0.1", &first),
    ];
    for (name, identity) in cases {
        let expected = CertificateDer::from_pem_slice(identity.chain.as_bytes()).unwrap();
        assert_eq!(served(&config, name), [expected], "{name}");
    }
}

#[test]
fn a_client_certificate_reaches_the_server() {
    let mine = OURS.sign(&["client"]);
    let with = client().certificate(mine.chain.as_bytes(), mine.key.as_bytes()).build().unwrap();
    let without = client().build().unwrap();
    let required = server().client_certificates(OURS.root.as_bytes()).build().unwrap();
    let optional = server().optional_client_certificates(OURS.root.as_bytes()).build().unwrap();
    let expected = CertificateDer::from_pem_slice(mine.chain.as_bytes()).unwrap();
    for config in [&required, &optional] {
        for resumed in [false, true] {
            let (_, server) = open_pair(&with, config);
            assert_eq!(server.info().peer_certificates, std::slice::from_ref(&expected));
            assert_eq!(server.info().resumed, resumed);
        }
    }
    let (_, server) = open_pair(&without, &optional);
    assert_eq!(server.info().peer_certificates, []);
}

#[test]
fn the_limits_of_each_option_are_kept() {
    for protocols in [vec![vec![]], vec![vec![b'x'; 256]]] {
        let error = refused(server().alpn(protocols.clone()));
        assert!(error.starts_with("alpn:"), "{error}");
        let error = client().alpn(protocols).build().unwrap_err().to_string();
        assert!(error.starts_with("alpn:"), "{error}");
    }
    let error = refused(server().handshake_timeout(Duration::ZERO));
    assert!(error.starts_with("handshake_timeout:"), "{error}");
    let error = refused(server().max_handshakes(0));
    assert!(error.starts_with("max_handshakes:"), "{error}");
    let longest = vec![b'x'; 255];
    let config = server().alpn([longest.clone()]).handshake_timeout(Duration::MAX).build().unwrap();
    let client = client().alpn([longest.clone()]).sessions(usize::MAX).build().unwrap();
    let (ours, _) = open_pair(&client, &config);
    assert_eq!(ours.info().alpn, Some(longest));
    let error = client_named("two words").to_string();
    assert!(error.contains("\"two words\""), "{error}");
}

fn client_named(name: &str) -> Error {
    client().server_name(name).build().unwrap_err()
}
