//! A configuration that changes while it serves: new handshakes only.

use std::fs;
use std::path::PathBuf;

use netpoll_tls::rustls::pki_types::CertificateDer;
use netpoll_tls::rustls::pki_types::pem::PemObject;
use netpoll_tls::rustls::version::TLS13;
use netpoll_tls::{TlsClient, TlsConfig};

use crate::ends::{End, exchange, open_pair};
use crate::handshake::their_server;
use crate::identities::{Identity, OURS, client, server_as};

fn certificate(identity: &Identity) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(identity.chain.as_bytes()).unwrap()
}

/// The certificate that a new client gets.
fn served(client: &TlsClient, config: &TlsConfig) -> CertificateDer<'static> {
    let (ours, _) = open_pair(client, config);
    assert!(!ours.info().resumed);
    ours.info().peer_certificates[0].clone()
}

#[test]
fn new_files_count_from_the_next_handshake_on() {
    let [old, new] = [OURS.sign(&["localhost"]), OURS.sign(&["localhost"])];
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let place = |name: &str| directory.join(format!("reload-{name}-{}", std::process::id()));
    let (chain, key) = (place("chain"), place("key"));
    let write = |identity: &Identity| {
        fs::write(&chain, &identity.chain).unwrap();
        fs::write(&key, &identity.key).unwrap();
    };
    write(&old);
    let config = TlsConfig::from_pem(chain.clone(), key.clone()).unwrap();
    let also = config.clone();
    let client = client().build().unwrap();
    let (mut ours, mut theirs) = open_pair(&client, &config);
    assert_eq!(ours.info().peer_certificates, [certificate(&old)]);

    fs::write(&chain, &new.chain).unwrap();
    let error = config.reload().unwrap_err().to_string();
    assert!(error.contains("does not match"), "the key is still the old one: {error}");
    write(&new);
    config.reload().unwrap();
    assert_eq!(served(&client, &also), certificate(&new), "no ticket of before resumes");

    theirs.send(b"as before");
    exchange(&mut ours, &mut theirs).unwrap();
    assert_eq!(ours.plain(), b"as before");
    fs::remove_file(&chain).unwrap();
    fs::remove_file(&key).unwrap();
    assert!(config.reload().is_err());
    let (ours, _) = open_pair(&client, &config);
    assert_eq!(ours.info().peer_certificates, [certificate(&new)], "an error changes nothing");
}

#[test]
fn another_configuration_can_take_the_place() {
    let [old, new] = [OURS.sign(&["localhost"]), OURS.sign(&["localhost"])];
    let config = server_as(&old).build().unwrap();
    let client = client().sessions(0).build().unwrap();
    assert_eq!(served(&client, &config), certificate(&old));
    config.replace(&server_as(&new).build().unwrap());
    assert_eq!(served(&client, &config), certificate(&new));
    config.replace(&config.clone());
    assert_eq!(served(&client, &config), certificate(&new));
}

#[test]
fn a_configuration_without_files_says_what_to_do() {
    let config = TlsConfig::from_rustls(their_server(&TLS13).into()).unwrap();
    let error = config.reload().unwrap_err().to_string();
    assert!(error.contains("replace()"), "{error}");
}
