//! 2 000 clients that send a part of a request and no more, while callbacks wait for the rest of
//! it, beside clients with whole requests.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::{Mode, PERIOD, PINGERS};
use crate::confine::Confine;
use crate::crowd::many;
use crate::pingers::{Pingers, Talk};
use crate::process::{Server, pause};
use crate::report::{Outcome, Problem, Row};
use crate::run::Siege;

const CLIENTS: usize = 2_000;

/// The siege's own server: each callback reads eight bytes, and waits for them.
pub(crate) fn own(siege: &Siege, row: &mut Row, mode: Mode) -> Outcome {
    let mut server = Server::own(mode.args(), &Confine::default())?;
    let talk = Talk::command(b'p', 0);
    let pingers = Pingers::start(server.address, PINGERS, &talk, PERIOD)?;
    pause(Duration::from_secs(1));
    let alone = pingers.take();

    let mut crowd = many(server.address, CLIENTS)?;
    crowd.iter_mut().try_for_each(|client| client.write_all(b"h"))?;
    pause(Duration::from_secs(if siege.long { 20 } else { 4 }));
    let newcomers = newcomers(|| talk.newcomer(server.address, Duration::from_secs(2)));
    let beside = pingers.take();
    server.is_alive()?;
    beside.report(row, &alone);
    row.within("newcomers", newcomers, Duration::from_secs(1));
    row.note("threads", server.process.threads());
    Ok(())
}

/// The example `socks5`: its handshake waits for each byte. Beside it there are established relays.
pub(crate) fn socks5(siege: &Siege, row: &mut Row) -> Outcome {
    let origin = Server::example("echo", &["127.0.0.1:0"], &Confine::default())?;
    let mut proxy = Server::example("socks5", &["127.0.0.1:0"], &Confine::default())?;
    let relayed: Result<Vec<_>, _> =
        (0..PINGERS).map(|_| relay(proxy.address, origin.address)).collect();
    let relayed = relayed.map_err(|error| Problem::Broken(format!("no relay: {error}")))?;
    let pingers = Pingers::on(relayed, &Talk::echo(), PERIOD)?;
    pause(Duration::from_secs(1));
    let alone = pingers.take();

    let mut crowd = many(proxy.address, CLIENTS)?;
    crowd.iter_mut().try_for_each(|client| client.write_all(&[5]))?;
    pause(Duration::from_secs(if siege.long { 14 } else { 4 }));
    let newcomers = newcomers(|| greeting(proxy.address, Duration::from_secs(2)));
    let beside = pingers.take();
    proxy.is_alive()?;
    beside.report(row, &alone);
    row.within("newcomers", newcomers, Duration::from_secs(1));
    row.note("threads", proxy.process.threads());
    Ok(())
}

fn newcomers(mut one: impl FnMut() -> Option<Duration>) -> Duration {
    let missed = Duration::from_secs(2);
    (0..4).map(|_| one().unwrap_or(missed)).max().unwrap_or(missed)
}

/// A new client of `socks5`: it offers its methods, and learns that it needs no password.
pub(super) fn greeting(proxy: SocketAddr, patience: Duration) -> Option<Duration> {
    use crate::pingers::Answer;
    Talk { ask: vec![5, 1, 0], answer: Answer::Bytes(2) }.newcomer(proxy, patience)
}

/// A connection to `origin` through `proxy`.
fn relay(proxy: SocketAddr, origin: SocketAddr) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(proxy)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(&[5, 1, 0])?;
    stream.read_exact(&mut [0; 2])?;
    let [high, low] = origin.port().to_be_bytes();
    stream.write_all(&[5, 1, 0, 1, 127, 0, 0, 1, high, low])?;
    stream.read_exact(&mut [0; 10])?;
    Ok(stream)
}
