//! A peer that has finished its handshake, and then sends records that no honest peer sends.

use std::sync::Arc;

use netpoll_buffer::LinkBuffer;
use netpoll_tls::TlsConfig;
use netpoll_tls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use netpoll_tls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use netpoll_tls::rustls::version::{TLS12, TLS13};
use netpoll_tls::rustls::{
    self, ClientConnection, ConnectionTrafficSecrets, DigitallySignedStruct, ProtocolVersion,
    SignatureScheme,
};
use proptest::prelude::*;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use crate::ends::{End, Ours, Theirs, exchange};
use crate::handshake::{Version, their_client, their_server};
use crate::identities::{client, server};

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;
/// How long the seal of a record is.
const TAG: usize = 16;
/// A `KeyUpdate` that does not ask for one in return.
const KEY_UPDATE: &[u8] = &[24, 0, 0, 1, 0];

/// Accepts every certificate.
#[derive(Debug)]
struct Trusting;

pub(crate) fn trusting() -> Arc<dyn ServerCertVerifier> {
    Arc::new(Trusting)
}

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

/// Seals records of any kind with the keys of a finished handshake.
struct Forger {
    version: Version,
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
}

impl Forger {
    /// A client that has these keys, and the server on which it is.
    fn against(config: &TlsConfig, version: Version) -> (Self, Ours) {
        let mut theirs = their_client(version);
        theirs.enable_secret_extraction = true;
        let name = "localhost".try_into().unwrap();
        let mut client = ClientConnection::new(theirs.into(), name).unwrap();
        let mut server = Ours::accept(config);
        while client.is_handshaking() || client.wants_write() {
            let mut there = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut there).unwrap();
            }
            server.receive(&there).unwrap();
            let back = server.transmit();
            let mut back = &back[..];
            while !back.is_empty() {
                client.read_tls(&mut back).unwrap();
                client.process_new_packets().unwrap();
            }
        }
        let (sequence, secrets) = client.dangerous_extract_secrets().unwrap().tx;
        let ConnectionTrafficSecrets::Aes256Gcm { key, iv } = secrets else {
            panic!("the first cipher suite of ring is AES 256");
        };
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.as_ref()).unwrap());
        let iv = iv.as_ref().try_into().unwrap();
        (Self { version, key, iv, sequence }, server)
    }

    fn record(&mut self, kind: u8, payload: &[u8]) -> Vec<u8> {
        let mut nonce = self.iv;
        for (byte, other) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= other;
        }
        let number = self.sequence.to_be_bytes();
        self.sequence += 1;
        // In TLS 1.2 the type is not hidden, and a part of the nonce stands in front.
        let is_old = self.version.version == ProtocolVersion::TLSv1_2;
        let (outer, inner, explicit): (_, &[u8], &[u8]) =
            if is_old { (kind, &[], &nonce[4..]) } else { (DATA, &[kind], &[]) };
        let mut sealed = [payload, inner].concat();
        let header = |length: usize| {
            let length = u16::try_from(length).unwrap().to_be_bytes();
            [outer, 3, 3, length[0], length[1]]
        };
        let whole = header(explicit.len() + sealed.len() + TAG);
        let authentic =
            if is_old { [&number[..], &header(sealed.len())].concat() } else { whole.to_vec() };
        let unique = Nonce::assume_unique_for_key(nonce);
        self.key.seal_in_place_append_tag(unique, Aad::from(authentic), &mut sealed).unwrap();
        [&whole[..], explicit, &sealed].concat()
    }
}

fn forger() -> (Forger, Ours) {
    Forger::against(&server().build().unwrap(), &TLS13)
}

/// Any thread may send at any time.
fn seals(server: &Ours) -> bool {
    server.filter.seal(&"answer".into(), 0, &mut LinkBuffer::new()).is_ok()
}

#[test]
fn a_message_in_fragments_does_not_stop_what_is_sent_meanwhile() {
    let (mut forger, mut server) = forger();
    for byte in KEY_UPDATE {
        let record = forger.record(HANDSHAKE, &[*byte]);
        let (first, rest) = record.split_at(10);
        server.receive(first).unwrap();
        assert!(seals(&server), "with a part of a record behind the fragments");
        server.receive(rest).unwrap();
        assert!(seals(&server), "with a part of a message");
    }
    assert_eq!(server.wire.len(), 0, "the message is complete");
    assert!(seals(&server));
    let error = server.receive(&forger.record(DATA, b"sealed by the old key")).unwrap_err();
    assert!(error.contains("could not be decrypted"), "{error}");
}

#[test]
fn tickets_in_fragments_do_not_stop_what_is_sent_meanwhile() {
    let mut theirs = their_server(&TLS13);
    theirs.max_fragment_size = Some(32);
    let mut server = Theirs::server(theirs.into());
    let mut client = Ours::dial(&client().build().unwrap(), "localhost:1");
    for _ in 0..3 {
        server.receive(&client.transmit()).unwrap();
        for piece in server.transmit().chunks(7) {
            client.receive(piece).unwrap();
            if client.state == netpoll_core::FilterState::Open {
                client.send(b"x");
            }
        }
    }
    exchange(&mut client, &mut server).unwrap();
    assert!(server.plain().len() > 10);
}

/// A message that was in parts is complete, and data follows: a thread that sends between the two
/// records must not show the parts once more.
#[test]
fn parts_of_a_message_are_forgotten_when_it_is_complete() {
    let mut theirs = their_server(&TLS13);
    theirs.max_fragment_size = Some(32);
    let mut server = Theirs::server(theirs.into());
    let mut client = Ours::dial(&client().build().unwrap(), "localhost:1");
    server.receive(&client.transmit()).unwrap();
    client.receive(&server.transmit()).unwrap();
    server.receive(&client.transmit()).unwrap();
    server.send(b"data");
    let mut wire = server.transmit(); // tickets, each in many records, then the data
    let (mut used, mut plain, mut shown) = (0, LinkBuffer::new(), 0);
    while plain.malloc_len() == 0 {
        shown += 1;
        used += client.filter.open(&mut wire[used..shown], 1, &mut plain).unwrap().used;
        assert!(seals(&client), "after {shown} bytes");
    }
    assert_eq!((used, shown), (wire.len(), wire.len()));

    server.send(b"more");
    let mut wire = server.transmit();
    let opened = client.filter.open(&mut wire, 1, &mut plain).unwrap();
    assert_eq!((opened.used, plain.malloc_len()), (wire.len(), 8));
}

#[test]
fn data_inside_a_message_is_refused() {
    let (mut forger, mut server) = forger();
    server.receive(&forger.record(HANDSHAKE, &KEY_UPDATE[..2])).unwrap();
    let error = server.receive(&forger.record(DATA, b"data")).unwrap_err();
    assert!(error.contains("broke the protocol"), "{error}");
    assert!(!seals(&server));
}

#[test]
fn floods_of_empty_records_end() {
    let (mut forger, mut server) = forger();
    let error = (0..100).find_map(|_| server.receive(&forger.record(DATA, b"")).err());
    assert!(error.unwrap().contains("TooManyEmptyFragments"));
}

#[test]
fn floods_of_warnings_end() {
    let (mut forger, mut server) = forger();
    let user_cancelled = [1, 90];
    let error = (0..100).find_map(|_| server.receive(&forger.record(ALERT, &user_cancelled)).err());
    assert!(error.unwrap().contains("TooManyWarningAlertsReceived"));
}

#[test]
fn floods_of_key_updates_end_and_a_few_are_answered_by_one_message() {
    let mut client = Theirs::client(their_client(&TLS13).into());
    let mut server = Ours::accept(&server().build().unwrap());
    exchange(&mut client, &mut server).unwrap();
    let mut update = |client: &mut Theirs| {
        client.tls.refresh_traffic_keys().unwrap();
        let wire = client.transmit();
        server.receive(&wire)
    };
    for _ in 0..32 {
        update(&mut client).unwrap();
    }
    let error = (0..100).find_map(|_| update(&mut client).err()).unwrap();
    assert!(error.contains("TooManyKeyUpdateRequests"), "{error}");
}

#[test]
fn key_updates_between_messages_are_answered() {
    let mut client = Theirs::client(their_client(&TLS13).into());
    let mut server = Ours::accept(&server().build().unwrap());
    exchange(&mut client, &mut server).unwrap();
    for _ in 0..100 {
        client.tls.refresh_traffic_keys().unwrap();
        client.send(b"ping");
        exchange(&mut client, &mut server).unwrap();
        assert_eq!(server.plain(), b"ping");
        server.send(b"pong");
        exchange(&mut client, &mut server).unwrap();
        assert_eq!(client.plain(), b"pong");
    }
}

/// A `ClientHello` on a connection of TLS 1.2 that is open is answered by a warning, and the next
/// one ends the connection: each costs computing.
#[test]
fn renegotiation_is_refused() {
    let (mut forger, mut server) = Forger::against(&server().build().unwrap(), &TLS12);
    let hello = Theirs::client(their_client(&TLS12).into()).transmit();
    server.receive(&forger.record(HANDSHAKE, &hello[5..])).unwrap();
    let warning = server.transmit();
    assert_eq!((warning[0], warning.len()), (ALERT, 5 + 8 + 2 + TAG), "a warning, sealed");
    server.receive(&forger.record(DATA, b"data")).unwrap();
    assert_eq!(server.plain(), b"data", "the connection goes on with the keys that it has");
    let error = server.receive(&forger.record(HANDSHAKE, &hello[5..])).unwrap_err();
    assert!(error.contains("TooManyRenegotiationRequests"), "{error}");
}

#[test]
fn renegotiation_without_the_keys_is_no_record() {
    let (_, mut server) = Forger::against(&server().build().unwrap(), &TLS12);
    let hello = Theirs::client(their_client(&TLS12).into()).transmit();
    let error = server.receive(&hello).unwrap_err();
    assert!(error.contains("could not be decrypted"), "it is not sealed: {error}");
}

#[test]
fn an_empty_message_record_is_harmless() {
    let (mut forger, mut server) = forger();
    _ = server.receive(&forger.record(HANDSHAKE, b""));
    seals(&server);
    for _ in 0..3 {
        if server.receive(&forger.record(DATA, b"data")).is_err() {
            return;
        }
        assert_eq!(server.plain(), b"data");
        assert!(seals(&server));
    }
}

fn hostile_record() -> impl Strategy<Value = (u8, Vec<u8>)> {
    let kind = prop_oneof![Just(HANDSHAKE), Just(DATA), Just(ALERT), Just(20), any::<u8>()];
    let payload = prop_oneof![
        Just(Vec::new()),
        Just(KEY_UPDATE.to_vec()),
        Just(KEY_UPDATE[..3].to_vec()),
        Just([KEY_UPDATE, KEY_UPDATE].concat()),
        Just(vec![1, 0]),
        Just(vec![1, 0, 0, 0]),
        prop::collection::vec(any::<u8>(), 0..40),
    ];
    (kind, payload)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever records come, in whatever pieces, nothing panics, and what is data arrives.
    #[test]
    fn no_record_panics(
        records in prop::collection::vec(hostile_record(), 1..12),
        cut in 1..60_usize,
    ) {
        let (mut forger, mut server) = forger();
        let mut expected = Vec::new();
        'records: for (kind, payload) in records {
            if kind == DATA {
                expected.extend_from_slice(&payload);
            }
            for piece in forger.record(kind, &payload).chunks(cut) {
                let ended = server.receive(piece).is_err();
                seals(&server);
                if ended || server.has_finished() {
                    break 'records;
                }
            }
        }
        prop_assert!(expected.starts_with(&server.plain()));
    }
}
