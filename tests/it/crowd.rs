//! Very many connections at once: the server in its own process, whose memory is measured.

use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use netpoll::Dispatch;
use nix::sys::resource::{Resource, getrlimit};
use socket2::{Domain, Socket, Type};

use crate::util::{
    Client, PATIENCE, Process, Server, alone, connect, echo, is_filtered, is_role, pool,
    raise_fd_limit, resident,
};

const SERVER: &str = "crowd::an_echo_server_in_its_own_process";
const DISPATCH: &str = "NETPOLL_TEST_DISPATCH";

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
    if lacks_descriptors(CONNECTIONS) {
        return;
    }
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
    alone("crowd::nine_thousand_connections_are_held_and_answered_inline", || {
        nine_thousand("inline");
    });
}

#[test]
fn nine_thousand_connections_are_held_and_answered_by_a_pool() {
    alone("crowd::nine_thousand_connections_are_held_and_answered_by_a_pool", || {
        nine_thousand("pool");
    });
}

/// In waves as large as the kernel's queue, each begun at once and without waiting for an answer;
/// a SYN that found the queue full would come again only after a second.
#[test]
fn nine_thousand_connections_come_in_bursts_and_none_is_refused() {
    alone("crowd::nine_thousand_connections_come_in_bursts_and_none_is_refused", bursts);
}

fn bursts() {
    const WAVE: usize = 3000;
    raise_fd_limit();
    if lacks_descriptors(3 * WAVE) {
        return;
    }
    let (_process, address) = start(&[(DISPATCH, "inline")]);
    connect(address).echo(b"warm");
    let mut open = Vec::new();
    for wave in 0..3 {
        let begun = Instant::now();
        let coming: Vec<Socket> = (0..WAVE).map(|_| dial_at_once(address)).collect();
        for socket in coming {
            socket.set_nonblocking(false).expect("a mode");
            let mut client = TcpStream::from(socket);
            client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            client.say(b"here");
            open.push(client);
        }
        for client in &mut open[wave * WAVE..] {
            client.hear(b"here");
        }
        println!("wave {wave}: {WAVE} connections in {:?}", begun.elapsed());
    }
}

/// Whether this system allows a process too few. With a filter, the tunnel needs two for each
/// connection.
fn lacks_descriptors(connections: usize) -> bool {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    let needed = if is_filtered() { 2 * connections } else { connections } as u64 + 100;
    if hard < needed {
        println!("not run: it needs {needed} descriptors, and {hard} are allowed");
    }
    hard < needed
}

/// A connection on its way, which is not waited for.
fn dial_at_once(address: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket");
    socket.set_nonblocking(true).expect("a mode");
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(nix::libc::EINPROGRESS) => panic!("{error}"),
        _ => socket,
    }
}
