//! Loops that can't go on, since the system or a panic outside of callbacks ends them.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread;

use netpoll::{AtLimit, Dispatch, Error, Listener, LoadBalance, PollManager};

use crate::loggers::listen;
use crate::util::{
    Client, Count, Serving, alone, connect, echo, eventually, hand_off, inet, quiet,
};

/// The numbers of the epoll instances that this process has open, in the order of their opening.
fn polls() -> Vec<i32> {
    let all = fs::read_dir("/proc/self/fd").expect("procfs").filter_map(Result::ok);
    let polls = all.filter(|it| {
        fs::read_link(it.path()).is_ok_and(|link| link.as_os_str() == "anon_inode:[eventpoll]")
    });
    let numbers = polls.filter_map(|it| it.file_name().to_str()?.parse().ok());
    let mut numbers: Vec<i32> = numbers.collect();
    numbers.sort_unstable();
    numbers
}

/// Makes each further wait on a poll fail: something else has its number.
fn break_poll(number: i32) {
    nix::unistd::close(number).expect("it is open");
    let mut lower = Vec::new();
    loop {
        let other = File::open("/dev/null").expect("a file");
        if other.as_raw_fd() == number {
            return std::mem::forget(other);
        }
        lower.push(other);
    }
}

fn manager(loops: usize) -> Arc<PollManager> {
    Arc::new(PollManager::new(loops, LoadBalance::RoundRobin).expect("a manager"))
}

#[test]
fn a_loop_whose_waits_fail_is_replaced_and_everybody_is_served() {
    alone("broken::a_loop_whose_waits_fail_is_replaced_and_everybody_is_served", || {
        for (loops, reuse_port) in [(1, false), (2, false), (1, true), (2, true)] {
            let manager = manager(loops);
            let first = polls()[0];
            let event_loop = echo().manager(manager.clone()).build().expect("options");
            let options = Listener::options().reuse_port(reuse_port);
            let listener = options.bind("tcp", "127.0.0.1:0").expect("a port");
            let address = inet(&listener);
            let serving = Serving::start(event_loop, listener);
            let mut clients = Vec::new();
            eventually("each loop has a connection", || {
                let mut client = connect(address);
                client.echo(b"before");
                clients.push(client);
                manager.stats().iter().all(|it| it.connections > 0)
            });
            break_poll(first);
            // The wait that it is in still ends well.
            let answers = |client: &mut TcpStream| {
                client.write_all(b"more").and_then(|()| client.read_exact(&mut [0; 4])).is_ok()
            };
            eventually("its connections end", || !clients.iter_mut().all(answers));
            quiet(20);
            assert_eq!(clients.iter_mut().any(answers), loops > 1, "the other loop goes on");
            let mut clients: Vec<_> = (0..20).map(|_| connect(address)).collect();
            for client in &mut clients {
                client.echo(b"and after");
            }
            assert_eq!(manager.loops(), loops);
            drop(clients);
            assert_eq!(serving.stop().aborted, 0);
        }
    });
}

#[test]
fn the_end_of_the_loop_that_accepts_is_an_error_of_serve() {
    alone("broken::the_end_of_the_loop_that_accepts_is_an_error_of_serve", || {
        let manager = manager(2);
        let before = polls();
        let event_loop = echo().manager(manager).build().expect("options");
        let listener = Listener::bind("tcp", "127.0.0.1:0").expect("a port");
        let address = inet(&listener);
        let serving = thread::spawn(move || event_loop.serve(listener));
        connect(address).echo(b"it serves");
        let main = polls().into_iter().find(|it| !before.contains(it)).expect("another one");
        break_poll(main);
        // Accepted by the wait that it is in, or left in the queue.
        let _newcomer = connect(address);
        let error = serving.join().expect("it does not panic").expect_err("nobody accepts");
        assert!(matches!(error, Error::Io(_)), "{error:?}");
        assert!(error.to_string().contains("the loop that accepts has ended"), "{error}");
    });
}

/// A logger is user code that runs anywhere; here, where the loop accepts for itself.
#[test]
fn a_loop_that_a_panic_ends_is_replaced() {
    alone("broken::a_loop_that_a_panic_ends_is_replaced", || {
        let panicked = Count::default();
        let counted = panicked.clone();
        listen(move |line| {
            let on_loop = thread::current().name().is_some_and(|it| it.contains("loop"));
            if on_loop && line.contains("is refused at the limit") {
                counted.add();
                panic!("no space left on the log's device");
            }
        });
        for dispatch in [Dispatch::Inline, hand_off()] {
            let before = panicked.get();
            let manager = manager(1);
            let builder = echo().manager(manager.clone()).dispatch(dispatch);
            let builder = builder.max_connections(1).at_limit(AtLimit::Close);
            let listener = Listener::bind("tcp", "127.0.0.1:0").expect("a port");
            let address = inet(&listener);
            let serving = Serving::start(builder.build().expect("options"), listener);
            let mut client = connect(address);
            client.echo(b"the only place");
            let mut refused = connect(address);
            eventually("the loop panics", || panicked.get() > before);
            client.end(); // as its loop has
            refused.end();
            eventually("its place is free", || {
                let mut next = connect(address);
                next.write_all(b"x").is_ok() && next.read_exact(&mut [0]).is_ok()
            });
            assert_eq!(manager.loops(), 1);
            assert_eq!(serving.stop().aborted, 0);
        }
    });
}
