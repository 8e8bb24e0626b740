//! A configuration that changes while it serves: new handshakes only.

use std::fs::{self, File};
use std::io::Write;
use std::panic::panic_any;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use netpoll_tls::rustls::pki_types::CertificateDer;
use netpoll_tls::rustls::pki_types::pem::PemObject;
use netpoll_tls::rustls::version::{TLS12, TLS13};
use netpoll_tls::{TlsClient, TlsConfig, TlsWatch};

use crate::ends::{End, Ours, Theirs, exchange, open_pair};
use crate::handshake::{their_client, their_server};
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
fn no_ticket_of_before_resumes_in_version_1_2() {
    let [old, new] = [OURS.sign(&["localhost"]), OURS.sign(&["localhost"])];
    let config = server_as(&old).build().unwrap();
    let theirs = Arc::new(their_client(&TLS12));
    let resumes = || {
        let (mut client, mut server) = (Theirs::client(theirs.clone()), Ours::accept(&config));
        exchange(&mut client, &mut server).unwrap();
        let first = client.tls.peer_certificates().unwrap()[0].clone();
        (server.info().resumed, first)
    };
    assert_eq!([resumes().0, resumes().0], [false, true]);
    config.replace(&server_as(&new).build().unwrap());
    assert_eq!(resumes(), (false, certificate(&new)));
    assert_eq!(resumes(), (true, certificate(&new)));
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

/// A chain and a key on disk, for one test.
struct Files {
    chain: PathBuf,
    key: PathBuf,
}

impl Files {
    fn new(test: &str) -> Self {
        let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let place = |name: &str| directory.join(format!("{test}-{name}-{}", std::process::id()));
        Self { chain: place("chain"), key: place("key") }
    }

    /// As certbot renews: another file takes the place of the old one.
    fn renew(&self, identity: &Identity) {
        renamed(&self.chain, &identity.chain);
        renamed(&self.key, &identity.key);
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = (fs::remove_file(&self.chain), fs::remove_file(&self.key));
    }
}

const PATIENCE: Duration = Duration::from_secs(30);
const OFTEN: Duration = Duration::from_millis(1);

/// What a closure panics with, whose drop panics, too.
struct PanicsAgain;

impl Drop for PanicsAgain {
    fn drop(&mut self) {
        panic!("on purpose");
    }
}

#[test]
fn a_watch_reloads_what_has_changed_and_goes_on_after_an_error_and_a_panic() {
    let files = Files::new("watched");
    let [old, new] = [OURS.sign(&["localhost"]), OURS.sign(&["localhost"])];
    files.renew(&old);
    let config = TlsConfig::from_pem(files.chain.clone(), files.key.clone()).unwrap();
    let client = client().sessions(0).build().unwrap();
    let (told, outcomes) = mpsc::channel();
    let watch = config.watch(OFTEN, move |outcome| {
        told.send(outcome.map_err(|error| error.to_string())).unwrap();
        panic_any(PanicsAgain);
    });
    let watch = watch.unwrap();
    assert!(outcomes.recv_timeout(20 * OFTEN).is_err(), "nothing has changed");

    fs::remove_file(&files.key).unwrap();
    let error = outcomes.recv_timeout(PATIENCE).unwrap().unwrap_err();
    assert!(error.contains("cannot read"), "{error}");
    assert_eq!(served(&client, &config), certificate(&old));

    files.renew(&new);
    // Between the two files it may have seen one that does not match the other.
    while outcomes.recv_timeout(PATIENCE).unwrap().is_err() {}
    assert_eq!(served(&client, &config), certificate(&new));

    drop(watch);
    files.renew(&old);
    assert!(outcomes.recv_timeout(PATIENCE).is_err(), "the closure went with the watch");
    assert_eq!(served(&client, &config), certificate(&new));
}

/// Makes files wrong.
type Wrong = Box<dyn Fn(&Files)>;

/// Whatever makes the files wrong: it is told once, the old certificate goes on, and what mends
/// them counts.
#[test]
fn a_watch_tells_of_each_way_in_which_files_go_wrong_and_of_their_mending() {
    let other = OURS.sign(&["localhost"]);
    let (chain_of_other, key_of_other) = (other.chain, other.key);
    let ways: [(&str, Wrong, &str); 6] = [
        ("removed", Box::new(|it| fs::remove_file(&it.chain).unwrap()), "cannot read"),
        ("truncated", Box::new(|it| drop(File::create(&it.chain).unwrap())), "no certificate"),
        ("cut", Box::new(|it| cut(&it.key)), "key"),
        ("unreadable", Box::new(|it| becomes_a_directory(&it.key)), "cannot read"),
        ("of another", Box::new(move |it| fs::write(&it.key, &key_of_other).unwrap()), "match"),
        ("of another", Box::new(move |it| renamed(&it.chain, &chain_of_other)), "match"),
    ];
    let client = client().sessions(0).build().unwrap();
    for (number, (way, make_wrong, says)) in ways.iter().enumerate() {
        let files = Files::new(&format!("wrong-{number}"));
        let [old, new] = [OURS.sign(&["localhost"]), OURS.sign(&["localhost"])];
        files.renew(&old);
        let config = TlsConfig::from_pem(files.chain.clone(), files.key.clone()).unwrap();
        let (told, outcomes) = mpsc::channel();
        let watch = config.watch(OFTEN, move |outcome| {
            told.send(outcome.map_err(|error| error.to_string())).unwrap();
        });
        make_wrong(&files);
        let error = outcomes.recv_timeout(PATIENCE).expect(way).unwrap_err();
        assert!(error.contains(says), "{way}: {error}");
        // A file that is written in two steps may be told of twice, and then no more.
        while outcomes.recv_timeout(50 * OFTEN).is_ok() {}
        assert_eq!(served(&client, &config), certificate(&old), "{way}");
        let _ = fs::remove_dir(&files.key);
        files.renew(&new);
        while outcomes.recv_timeout(PATIENCE).expect(way).is_err() {}
        assert_eq!(served(&client, &config), certificate(&new), "{way}");
        drop(watch);
    }
}

/// As an editor or a script does that writes in place: the file is the same, and so is its length.
#[test]
fn a_watch_sees_what_is_written_in_place_with_the_time_of_before() {
    let files = Files::new("in-place");
    let [old, new] = [OURS.sign(&["localhost"]), OURS.sign(&["localhost"])].map(|it| Identity {
        chain: format!("{:\n<2000}", it.chain),
        key: format!("{:\n<2000}", it.key),
    });
    files.renew(&old);
    let config = TlsConfig::from_pem(files.chain.clone(), files.key.clone()).unwrap();
    let (told, outcomes) = mpsc::channel();
    let watch = config.watch(OFTEN, move |outcome| told.send(outcome.is_ok()).unwrap());
    for (path, text) in [(&files.chain, &new.chain), (&files.key, &new.key)] {
        let before = fs::metadata(path).unwrap();
        assert_eq!(before.len(), text.len() as u64);
        let mut file = File::options().write(true).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.set_modified(before.modified().unwrap()).unwrap();
    }
    while !outcomes.recv_timeout(PATIENCE).unwrap() {}
    let client = client().sessions(0).build().unwrap();
    assert_eq!(served(&client, &config), certificate(&new));
    drop(watch);
}

/// The last half is missing, as when a disk is full.
fn cut(path: &Path) {
    let text = fs::read(path).unwrap();
    fs::write(path, &text[..text.len() / 2]).unwrap();
}

/// Not even root can read it.
fn becomes_a_directory(path: &Path) {
    fs::remove_file(path).unwrap();
    fs::create_dir(path).unwrap();
}

fn renamed(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(&new, path).unwrap();
}

#[test]
fn a_watch_may_end_in_its_own_closure() {
    let files = Files::new("ended");
    files.renew(&OURS.sign(&["localhost"]));
    let config = TlsConfig::from_pem(files.chain.clone(), files.key.clone()).unwrap();
    let (given, taken) = mpsc::channel::<TlsWatch>();
    let (told, ended) = mpsc::channel();
    let watch = config.watch(OFTEN, move |_| {
        drop(taken.recv_timeout(PATIENCE).unwrap());
        told.send(()).unwrap();
    });
    given.send(watch.unwrap()).unwrap();
    files.renew(&OURS.sign(&["localhost"]));
    ended.recv_timeout(PATIENCE).unwrap();
    let error = ended.recv_timeout(PATIENCE).unwrap_err();
    assert_eq!(error, mpsc::RecvTimeoutError::Disconnected, "the thread has ended");
}

#[test]
fn a_watch_of_nothing_or_without_a_pause_is_refused() {
    let error = server_as(&OURS.sign(&["localhost"])).build().unwrap().watch(OFTEN, drop);
    assert!(error.unwrap_err().to_string().contains("no file"));
    let files = Files::new("refused");
    files.renew(&OURS.sign(&["localhost"]));
    let config = TlsConfig::from_pem(files.chain.clone(), files.key.clone()).unwrap();
    let error = config.watch(Duration::ZERO, drop).unwrap_err();
    assert!(error.to_string().contains("every 0 s"), "{error}");
    drop(config.watch(Duration::MAX, drop).unwrap());
}
