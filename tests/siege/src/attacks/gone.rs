//! Peers that vanish while the server waits for something else: it notices at once.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use crate::confine::Confine;
use crate::crowd::{many, reset};
use crate::process::{Server, pause, until};
use crate::report::{Outcome, Problem, Row};
use crate::run::Siege;

/// 200 clients that send half a PROXY header and go, half of them by a reset.
pub(crate) fn half_proxy_header(_: &Siege, row: &mut Row) -> Outcome {
    let mut server = Server::own(&["--proxy-protocol"], &Confine::default())?;
    let before = server.process.sockets();
    let mut crowd = many(server.address, 200)?;
    for client in &mut crowd {
        client.write_all(b"PROXY TCP4 192.0")?;
    }
    let all = || server.process.sockets() >= before + 200;
    if until(Duration::from_secs(5), all).is_none() {
        return Err(Problem::broken("they are not accepted"));
    }
    crowd.iter().step_by(2).for_each(reset);
    drop(crowd);
    let back = || server.process.sockets() <= before;
    let took = until(Duration::from_secs(3), back);
    server.is_alive()?;
    row.equal("kept", server.process.sockets().saturating_sub(before), 0);
    row.soon("noticed after", took, Duration::from_secs(2));
    Ok(())
}

/// `tcp_proxy` before an origin that reads nothing: the client, which is not read from any more,
/// resets, and both sockets go.
pub(crate) fn tcp_proxy(_: &Siege, row: &mut Row) -> Outcome {
    let origin = TcpListener::bind("127.0.0.1:0")?;
    let address = origin.local_addr()?.to_string();
    let mut proxy = Server::example("tcp_proxy", &[&address, "127.0.0.1:0"], &Confine::default())?;
    let before = proxy.process.sockets();
    let mut client = TcpStream::connect(proxy.address)?;
    let (stuck, _) = origin.accept()?;
    client.set_nonblocking(true)?;
    let chunk = vec![b'x'; 64 << 10];
    // Until the proxy has taken nothing for a while.
    let (mut sent, mut still) = (0, 0);
    while still < 50 && sent < 64 << 20 {
        match client.write(&chunk) {
            Ok(bytes) => (sent, still) = (sent + bytes, 0),
            Err(_) => still += 1,
        }
        if still > 0 {
            pause(Duration::from_millis(10));
        }
    }
    reset(&client);
    drop(client);
    let gone = until(Duration::from_secs(3), || proxy.process.sockets() <= before);
    proxy.is_alive()?;
    row.note("MiB in between", sent >> 20);
    row.equal("kept", proxy.process.sockets().saturating_sub(before), 0);
    row.soon("noticed after", gone, Duration::from_secs(2));
    stuck.set_nonblocking(true)?;
    let _ = (&stuck).read(&mut [0]); // it was open until now
    Ok(())
}
