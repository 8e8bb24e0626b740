//! A process that has no descriptors left: its connections are still served, waiting clients are
//! served as soon as a descriptor is free, and nothing spins.

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use netpoll::{Dispatch, Error, LoadBalance, PollManager};

use crate::errors::is_a_sentence;
use crate::util::{
    Client, PATIENCE, Process, Server, alone, connect, cpu_time, echo, eventually, fd_count,
    is_role, one_takes_less, our_threads, pool, quiet, set_fd_limit,
};

const SERVER: &str = "exhaustion::a_server_with_few_descriptors";
const DISPATCH: &str = "NETPOLL_TEST_DISPATCH";
const DESCRIPTORS: usize = 64;
const CLIENTS: usize = 100;
/// A server that is not told of a free descriptor looks for one after a second.
const UNNOTICED: Duration = Duration::from_millis(900);

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

/// What a client hears within a while of the server to which it has said hello.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    Answer,
    Nothing,
    /// It was turned away.
    End,
}

fn listen(client: &mut TcpStream, milliseconds: u64) -> Heard {
    client.set_read_timeout(Some(Duration::from_millis(milliseconds))).expect("an option");
    let answer = client.peek(&mut [0]);
    client.set_read_timeout(Some(PATIENCE)).expect("an option");
    match answer.map_err(|error| error.kind()) {
        Ok(1) => Heard::Answer,
        Ok(_) | Err(ErrorKind::ConnectionReset) => Heard::End,
        Err(ErrorKind::WouldBlock) => Heard::Nothing,
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
    let answered = |number: &usize| listen(&mut served[*number], 5000) == Heard::Answer;
    let accepted = (0..CLIENTS).take_while(answered).count();
    let accepted = Some(accepted).filter(|&it| it < CLIENTS);
    let accepted = accepted.expect("some must wait");
    assert!((DESCRIPTORS / 2..DESCRIPTORS).contains(&accepted), "{accepted} are served");
    let waiting = served.split_off(accepted);
    for client in &mut served {
        client.hear(b"hello");
    }
    (server, address, served, waiting)
}

/// How long a server whose descriptors had run out takes to notice that there are some again.
fn exhaust(dispatch: &str) -> Duration {
    let begun = Instant::now();
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
    // The first clients after the descriptors had run out know it by now; the others wait.
    let told = (0..waiting.len()).take_while(|&it| listen(&mut waiting[it], 1) == Heard::End);
    let told = told.count();
    // The pauses between them double up to a second.
    let most = 10 + 2 * begun.elapsed().as_secs() as usize;
    assert!((1..=most).contains(&told), "{told} were turned away in {:?}", begun.elapsed());
    let mut waiting = waiting.split_off(told);
    let last = waiting.last_mut().expect("most still wait");
    assert_eq!(listen(last, 1), Heard::Nothing, "from where did it get a descriptor?");

    let begun = Instant::now();
    drop(served.split_off(served.len() - 10));
    // As many as had time for it were turned away; of the next, ten are served but for a reserve.
    let mut answered = 0;
    let next = waiting.iter_mut().position(|client| {
        let heard = listen(client, 5000);
        assert_ne!(heard, Heard::Nothing, "{answered} of ten are served when ten have left");
        answered += usize::from(heard == Heard::Answer);
        answered == 8
    });
    let took = begun.elapsed();
    let mut waiting = waiting.split_off(next.expect("not all were turned away") + 1);
    drop(served);
    let mut answered = 0;
    for client in &mut waiting {
        let heard = listen(client, 5000);
        assert_ne!(heard, Heard::Nothing, "{answered} are served when there is room");
        answered += usize::from(heard == Heard::Answer);
    }
    assert!(answered > 0, "all are turned away though there is room");
    drop(waiting);
    connect(address).echo(b"there is room again");
    took
}

#[test]
fn descriptors_run_out_inline() {
    one_takes_less(UNNOTICED, || exhaust("inline"));
}

#[test]
fn descriptors_run_out_on_a_pool() {
    one_takes_less(UNNOTICED, || exhaust("pool"));
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
            assert!(matches!(end, Ok(_) | Err(ErrorKind::ConnectionReset)), "{dispatch}: {end:?}");
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
