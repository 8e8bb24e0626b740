//! Very many connections, and more than there are descriptors for: the server in its own process.

use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use netpoll::Dispatch;

use crate::util::{
    Client, Process, Server, connect, cpu_time, echo, is_role, pool, quiet, raise_fd_limit,
    resident, set_fd_limit, within,
};

const SERVER: &str = "crowd::an_echo_server_in_its_own_process";
const DISPATCH: &str = "NETPOLL_TEST_DISPATCH";
const DESCRIPTORS: &str = "NETPOLL_TEST_DESCRIPTORS";

/// Not a test by itself: the server of the tests below. It serves until its standard input ends,
/// which it does with the process that started it.
#[test]
fn an_echo_server_in_its_own_process() {
    if !is_role(SERVER) {
        return;
    }
    raise_fd_limit();
    let inline = std::env::var(DISPATCH).is_ok_and(|it| it == "inline");
    let dispatch = if inline { Dispatch::Inline } else { pool() };
    let server = Server::start(echo().dispatch(dispatch).loops(2));
    if let Ok(descriptors) = std::env::var(DESCRIPTORS) {
        set_fd_limit(descriptors.parse().expect("a number"));
    }
    println!("listening on {}", server.address);
    let _ = std::io::stdin().read(&mut [0]);
    println!("{:?}", server.stop());
}

fn start(variables: &[(&str, &str)]) -> (Process, SocketAddr) {
    let mut process = Process::start(SERVER, variables);
    let address = process.said("listening on ").parse().expect("an address");
    (process, address)
}

fn nine_thousand(dispatch: &str) {
    const CONNECTIONS: usize = 9000;
    raise_fd_limit();
    let (process, address) = start(&[(DISPATCH, dispatch)]);
    let mut warm = connect(address);
    warm.echo(b"warm");
    let before = resident(process.id());
    let mut open: Vec<TcpStream> = (0..CONNECTIONS).map(|_| connect(address)).collect();
    let idle = silent(&mut warm, &process);
    for round in 0..2 {
        for (number, client) in open.iter_mut().enumerate() {
            client.say(format!("{round} {number:04}").as_bytes());
        }
        for (number, client) in open.iter_mut().enumerate() {
            client.hear(format!("{round} {number:04}").as_bytes());
        }
    }
    let after = silent(&mut warm, &process);
    let each = after.saturating_sub(before) / CONNECTIONS;
    println!(
        "{dispatch}, {CONNECTIONS} connections: {} KiB resident before, {} accepted, {} after all \
         were answered twice; {each} bytes each",
        before >> 10,
        idle >> 10,
        after >> 10
    );
    assert!(each < 16 << 10, "an idle connection takes {each} bytes");
}

/// The server's memory when it has served all that came before.
fn silent(warm: &mut TcpStream, process: &Process) -> usize {
    warm.echo(b"done?");
    resident(process.id())
}

#[test]
fn nine_thousand_connections_are_held_and_answered_inline() {
    nine_thousand("inline");
}

#[test]
fn nine_thousand_connections_are_held_and_answered_by_a_pool() {
    nine_thousand("pool");
}

/// Beyond its descriptors a server neither spins nor stops: those it has are served, the others
/// wait, and each that leaves makes room for one.
#[test]
fn without_descriptors_new_clients_wait_and_nothing_spins() {
    for dispatch in ["inline", "pool"] {
        let (process, address) = start(&[(DISPATCH, dispatch), (DESCRIPTORS, "40")]);
        let mut clients: Vec<TcpStream> = (0..60).map(|_| connect(address)).collect();
        for client in &mut clients {
            client.say(b"hello");
        }
        let (mut served, mut waiting) = part(clients);
        assert!(served.len() >= 15, "{dispatch}: {} are served", served.len());
        assert!(waiting.len() >= 20, "{dispatch}: {} wait", waiting.len());

        let before = cpu_time(process.id());
        quiet(1000);
        let used = cpu_time(process.id()).saturating_sub(before);
        assert!(used < Duration::from_millis(200), "{dispatch}: {used:?} in a second of waiting");
        for client in &mut served {
            client.echo(b"as before");
        }

        // The first that waits is the first to be served.
        while let Some(mut next) = (!waiting.is_empty()).then(|| waiting.remove(0)) {
            drop(served.pop().expect("as many as wait"));
            next.hear(b"hello");
            served.insert(0, next);
        }
        for client in &mut served {
            client.echo(b"all is well");
        }
    }
}

/// Those that have been answered, and those that wait, in the order in which they came.
fn part(clients: Vec<TcpStream>) -> (Vec<TcpStream>, Vec<TcpStream>) {
    let (mut served, mut waiting) = (Vec::new(), Vec::new());
    for mut client in clients {
        // All that can be served are, within a moment; after the first that waits, all do.
        let patience = if waiting.is_empty() { 1000 } else { 1 };
        client.set_nonblocking(true).expect("an option");
        let answered = within(Duration::from_millis(patience), || client.peek(&mut [0]).is_ok());
        client.set_nonblocking(false).expect("an option");
        if answered {
            client.hear(b"hello");
            served.push(client);
        } else {
            waiting.push(client);
        }
    }
    (served, waiting)
}
