//! Handshakes of TLS that begin and stop, as many as an event loop has under way at a time, beside
//! clients that are served: in each mode, and where the operator's resources are scarce.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use netpoll::Dialer;
use netpoll::tls::{TlsClient, TlsDialer};

use super::threads::least;
use super::{Mode, PERIOD};
use crate::confine::Confine;
use crate::crowd::many;
use crate::pingers::{Pingers, Talk};
use crate::process::{Server, pause, until};
use crate::report::{Outcome, Problem, Row};
use crate::run::Siege;

/// How long the server gives a handshake, in milliseconds.
const TIMEOUT: u64 = 3_000;
/// As many as may be under way in one event loop.
const CLIENTS: usize = 10_000;
const BUDGET: u64 = 64;

/// Each sends a quarter of the longest `ClientHello`: 160 MiB, where the budget has 64.
pub(crate) fn half_open(siege: &Siege, row: &mut Row, mode: Mode) -> Outcome {
    stopped(siege, row, mode, &Confine::default(), CLIENTS)
}

pub(crate) fn no_proc(siege: &Siege, row: &mut Row) -> Outcome {
    let confine = Confine { no_proc: true, ..Confine::default() };
    stopped(siege, row, Mode::HandOff, &confine, CLIENTS / 10)
}

pub(crate) fn no_threads(siege: &Siege, row: &mut Row) -> Outcome {
    let confine = Confine { threads: Some(least(Mode::HandOff)? + 4), ..Confine::default() };
    stopped(siege, row, Mode::HandOff, &confine, CLIENTS / 10)
}

/// Most of them get no descriptor, and wait in the queue.
pub(crate) fn no_descriptors(siege: &Siege, row: &mut Row) -> Outcome {
    let confine = Confine { descriptors: Some(200), ..Confine::default() };
    stopped(siege, row, Mode::HandOff, &confine, CLIENTS / 20)
}

/// There is room for what the clients hold, and for a few stacks.
pub(crate) fn address_space(siege: &Siege, row: &mut Row) -> Outcome {
    let confine = Confine { address_space: Some(512 << 20), ..Confine::default() };
    stopped(siege, row, Mode::HandOff, &confine, CLIENTS / 10)
}

fn stopped(siege: &Siege, row: &mut Row, mode: Mode, confine: &Confine, clients: usize) -> Outcome {
    let identity = Identity::new()?;
    let (place, timeout) = (identity.0.display().to_string(), TIMEOUT.to_string());
    let budget = (BUDGET << 20).to_string();
    let args = mode.with(&[
        "--tls",
        &place,
        "--handshake-timeout",
        &timeout,
        "--memory-budget",
        &budget,
        "--loops",
        "2",
    ]);
    let mut server = Server::own(&args, confine)?;
    let talk = Talk::command(b'p', 0);
    let pingers = Pingers::start(server.address, 20, &talk, PERIOD)?;
    let newcomer = || shakes_hands(&identity.0, &server.address.to_string(), &talk.ask);
    newcomer().ok_or_else(|| Problem::broken("no client of TLS is served"))?;
    pause(Duration::from_secs(1));
    let alone = pingers.take();
    let (before, sockets) = (server.process.resident(), server.process.sockets());

    for _ in 0..if siege.long { 5 } else { 1 } {
        let mut crowd = many(server.address, clients)?;
        let begin = begin_of_a_hello();
        for client in &mut crowd {
            client.set_nonblocking(true)?;
            // The server may have refused it, or take no more of it.
            let _ = client.write(&begin);
        }
        pause(Duration::from_millis(TIMEOUT));
        drop(crowd);
    }
    let beside = pingers.take();
    let all_gone = || server.process.sockets() <= sockets;
    let gone = until(Duration::from_secs(20), all_gone);
    let after = newcomer();
    let peak = server.process.peak();
    server.is_alive()?;
    row.note("clients", clients);
    row.soon("all gone after", gone, Duration::from_secs(10));
    row.soon("a client of TLS after", after, Duration::from_secs(1));
    // The budget counts what was received; a connection itself has some KiB beside that.
    row.below("memory", peak.saturating_sub(before), BUDGET * 4, "MiB");
    beside.report(row, &alone);
    Ok(())
}

/// One record that has the first 16 KiB of a message of 64 KiB.
fn begin_of_a_hello() -> Vec<u8> {
    let mut begin = vec![0x16, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff, 3, 3];
    begin.resize(5 + (16 << 10), 0);
    begin
}

/// A handshake, a request and its answer; how long that took.
fn shakes_hands(place: &Path, address: &str, ask: &[u8]) -> Option<Duration> {
    let begun = Instant::now();
    let client = TlsClient::builder().roots(place.join("chain.pem")).server_name("localhost");
    let dialer = Dialer::builder().tls(client.build().ok()?).timeout(Duration::from_secs(5));
    let mut conn = dialer.build().ok()?.dial("tcp", address).ok()?;
    conn.set_read_timeout(Some(Duration::from_secs(5)));
    let (mut reader, mut writer) = conn.split();
    writer.write_bytes(ask);
    writer.flush().ok()?;
    (reader.next(ask.len()).ok()? == ask).then(|| begun.elapsed())
}

/// What `openssl req` makes: a certificate that is no authority's.
const REQUEST: &str = "\
[req]
distinguished_name = name
x509_extensions = extensions
prompt = no
[name]
CN = siege
[extensions]
basicConstraints = CA:FALSE
subjectAltName = DNS:localhost
";

/// A certificate for `localhost` and its key, in a directory that goes with this.
struct Identity(PathBuf);

impl Identity {
    fn new() -> Result<Self, Problem> {
        let place = std::env::temp_dir().join(format!("siege-tls-{}", std::process::id()));
        fs::create_dir_all(&place)?;
        let identity = Self(place);
        fs::write(identity.0.join("request"), REQUEST)?;
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
            .args(["-nodes", "-days", "2", "-config", "request"])
            .args(["-keyout", "key.pem", "-out", "chain.pem"])
            .current_dir(&identity.0)
            .stderr(Stdio::null())
            .status();
        if !made.is_ok_and(|status| status.success()) {
            return Err(Problem::Missing("openssl, which makes a certificate".to_owned()));
        }
        // The server may run as another user.
        fs::set_permissions(identity.0.join("key.pem"), Permissions::from_mode(0o644))?;
        Ok(identity)
    }
}

impl Drop for Identity {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
