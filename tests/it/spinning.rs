//! Loops that stay awake for a while before they sleep: whatever they are told, they miss nothing.

use std::net::TcpStream;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use netpoll::{Connection, Dispatch, Handle, Spin};

use crate::util::{Client, PATIENCE, Server, alone, cpu_time, echo, modes, quiet};

/// Longer than any test takes: what has to wait for the end of such a spin comes too late.
const FOR_EVER: Duration = Duration::from_secs(3600);
const AFTER: Duration = Duration::from_millis(20);

fn spun(server: &Server) -> u64 {
    server.event_loop.stats().loops.iter().map(|each| each.spun).sum()
}

#[test]
fn a_loop_spins_as_it_is_told() {
    for dispatch in modes() {
        for (spin, spins) in [(Spin::For(FOR_EVER), true), (Spin::Never, false)] {
            let server = Server::start(echo().dispatch(dispatch).loops(2).spin(spin));
            let mut client = server.connect();
            for _ in 0..100 {
                client.echo(b"hello");
            }
            assert_eq!(spun(&server) > 0, spins, "{dispatch:?}, {spin:?}");
            server.stop();
        }
    }
}

/// Whether it has spun or not, which the machine decides: it sleeps when nothing comes any more.
#[test]
fn a_loop_is_quiet_after_its_load() {
    alone("spinning::a_loop_is_quiet_after_its_load", || {
        for dispatch in modes() {
            let server = Server::start(echo().dispatch(dispatch).loops(2));
            let mut client = server.connect();
            for _ in 0..3_000 {
                client.echo(b"hello");
            }
            let before = cpu_time(std::process::id());
            quiet(500);
            let used = cpu_time(std::process::id()).saturating_sub(before);
            assert!(used <= Duration::from_millis(100), "{dispatch:?}: {used:?} of 500 ms");
            server.stop();
        }
    });
}

#[test]
fn a_spin_ends_with_a_call() {
    for dispatch in modes() {
        let (server, _client, handle) = spinning(dispatch);
        let begun = Instant::now();
        (0..20).for_each(|_| run(&handle));
        assert!(begun.elapsed() < PATIENCE, "{dispatch:?}: they wait for its end");
        server.stop();
    }
}

#[test]
fn a_spin_ends_with_a_timer() {
    for dispatch in modes() {
        let (server, _client, handle) = spinning(dispatch);
        let begun = Instant::now();
        for _ in 0..10 {
            let (done, fired) = mpsc::channel();
            let due = Instant::now() + AFTER;
            let job = move |_: &mut Connection| {
                let _ = done.send(Instant::now());
                Ok(())
            };
            let _timer = handle.run_after(AFTER, job).expect("the connection lives");
            let fired = fired.recv_timeout(PATIENCE).expect("the timer");
            assert!(fired >= due, "{dispatch:?}: {:?} early", due - fired);
        }
        assert!(begun.elapsed() < PATIENCE, "{dispatch:?}: they wait for its end");
        server.stop();
    }
}

/// A server whose only loop spins, and a connection to it that is known on both sides.
fn spinning(dispatch: Dispatch) -> (Server, TcpStream, Handle) {
    let (handles, received) = mpsc::channel::<Handle>();
    let builder = echo().on_connect(move |(): &mut (), conn: &mut Connection| {
        let _ = handles.send(conn.handle());
        Ok(())
    });
    let server = Server::start(builder.dispatch(dispatch).loops(1).spin(Spin::For(FOR_EVER)));
    let client = server.connect();
    let handle = received.recv_timeout(PATIENCE).expect("the connection's handle");
    (server, client, handle)
}

/// Has the connection's loop run something, and waits for it.
fn run(handle: &Handle) {
    let (done, when) = mpsc::channel();
    let job = move |_: &mut Connection| {
        let _ = done.send(());
        Ok(())
    };
    handle.run(job).expect("the connection lives");
    when.recv_timeout(PATIENCE).expect("the job");
}
