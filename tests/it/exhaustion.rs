//! A process that has no descriptors left: those who are served are served on, those who wait are
//! served as soon as one comes free, and nothing spins.

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use netpoll::{Dispatch, Error, LoadBalance, PollManager};

use crate::errors::is_a_sentence;
use crate::util::{
    Client, PATIENCE, Process, Server, alone, connect, cpu_time, echo, eventually, fd_count,
    is_role, our_threads, pool, quiet, set_fd_limit,
};

const SERVER: &str = "exhaustion::a_server_with_few_descriptors";
const DISPATCH: &str = "NETPOLL_TEST_DISPATCH";
const DESCRIPTORS: usize = 64;
const CLIENTS: usize = 100;

/// The server's part in [`exhaust`]: it runs until it is ended.
#[test]
fn a_server_with_few_descriptors() {
    if !is_role(SERVER) {
        return;
    }
    let dispatch = match std::env::var(DISPATCH) {
        Ok(name) if name == "inline" => Dispatch::Inline,
        _ => pool(),
    };
    set_fd_limit(DESCRIPTORS as u64);
    let server = Server::start(echo().dispatch(dispatch).loops(2));
    println!("listening on {}", server.address);
    let _ = std::io::stdin().read(&mut [0]);
    assert_eq!(server.stop().aborted, 0);
    println!("stopped in order");
}

/// Whether the server answers what was said to it, without waiting for long.
fn is_answered(client: &mut TcpStream) -> bool {
    client.set_read_timeout(Some(Duration::from_millis(300))).expect("an option");
    let answer = client.peek(&mut [0]);
    client.set_read_timeout(Some(PATIENCE)).expect("an option");
    match answer {
        Ok(1) => true,
        Err(error) if error.kind() == ErrorKind::WouldBlock => false,
        other => panic!("neither an answer nor a wait: {other:?}"),
    }
}

/// A server, the clients that it serves, and those that wait, each of which has said hello.
fn crowded(dispatch: &str) -> (Process, SocketAddr, Vec<TcpStream>, Vec<TcpStream>) {
    let mut server = Process::start(SERVER, &[(DISPATCH, dispatch)]);
    let address = server.said("listening on").parse().expect("an address");
    // The kernel connects them all; the server accepts in order for as long as it can.
    let mut served: Vec<_> = (0..CLIENTS).map(|_| connect(address)).collect();
    for client in &mut served {
        client.say(b"hello");
    }
    let accepted = (0..CLIENTS).find(|&number| !is_answered(&mut served[number]));
    let accepted = accepted.expect("some must wait");
    assert!((DESCRIPTORS / 2..DESCRIPTORS).contains(&accepted), "{accepted} are served");
    let waiting = served.split_off(accepted);
    for client in &mut served {
        client.hear(b"hello");
    }
    (server, address, served, waiting)
}

fn exhaust(dispatch: &str) {
    let (server, address, mut served, mut waiting) = crowded(dispatch);
    let before = cpu_time(server.id());
    quiet(1000);
    let used = cpu_time(server.id()).saturating_sub(before);
    assert!(used < Duration::from_millis(200), "a second of waiting took {used:?}");

    for round in 0..20 {
        for client in &mut served {
            client.echo(format!("round {round}").as_bytes());
        }
    }
    assert!(!is_answered(&mut waiting[0]), "from where did it get a descriptor?");

    drop(served.split_off(served.len() - 10));
    for client in &mut waiting[..10] {
        client.hear(b"hello");
        client.echo(b"at last");
    }
    assert!(!is_answered(&mut waiting[10]), "ten left, so ten are served");
    drop(served);
    for client in &mut waiting[10..] {
        client.hear(b"hello");
    }
    connect(address).echo(b"there is room again");
}

#[test]
fn descriptors_run_out_inline() {
    exhaust("inline");
}

#[test]
fn descriptors_run_out_on_a_pool() {
    exhaust("pool");
}

#[test]
fn a_server_without_descriptors_shuts_down_in_order() {
    for dispatch in ["inline", "pool"] {
        let (mut server, _, mut served, waiting) = crowded(dispatch);
        server.end_input();
        server.said("stopped in order");
        for client in &mut served {
            assert_eq!(client.rest(), b"", "{dispatch}");
        }
        for mut client in waiting {
            let end = client.read(&mut [0]).map_err(|error| error.kind());
            assert!(matches!(end, Ok(0) | Err(ErrorKind::ConnectionReset)), "{dispatch}: {end:?}");
        }
    }
}

#[test]
fn a_manager_that_gets_no_descriptors_leaves_none_behind() {
    alone("exhaustion::a_manager_that_gets_no_descriptors_leaves_none_behind", || {
        let descriptors = fd_count();
        set_fd_limit(descriptors as u64 + 7);
        let error = PollManager::new(10, LoadBalance::RoundRobin).expect_err("20 are needed");
        assert!(matches!(error, Error::Io(_)), "{error:?}");
        is_a_sentence(&error, &["descriptors"]);
        assert_eq!(fd_count(), descriptors);
        eventually("the loops that were started have ended", || our_threads().is_empty());
        let manager = PollManager::new(2, LoadBalance::RoundRobin).expect("there is room for two");
        manager.set_loops(10).expect_err("but not for ten");
        assert!(manager.loops() >= 2, "{} loops", manager.loops());
    });
}
