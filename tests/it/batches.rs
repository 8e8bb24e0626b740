//! Loops whose callbacks run on a pool: how the system schedules their threads.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use netpoll::{Connection, Dispatch, EventLoopBuilder, LoadBalance, PollManager};

use crate::util::{Client, Journal, Server, alone, echo, echo_once, eventually, lock, pool};

/// `SCHED_OTHER`, which threads have by default.
const DEFAULT: &str = "0";
const BATCH: &str = "3";

/// The policy and the nice value of a thread, as procfs names them in a file.
fn scheduling_in(file: &str) -> (String, String) {
    let stat = fs::read_to_string(file).expect("procfs");
    let fields: Vec<_> = stat.rsplit(')').next().expect("a name").split_whitespace().collect();
    (fields[38].to_owned(), fields[16].to_owned())
}

/// The nice value that threads have here.
fn nice() -> String {
    scheduling_in("/proc/self/stat").1
}

/// Those of all threads whose names begin so.
fn scheduling_of(name: &str) -> Vec<(String, String)> {
    let threads = fs::read_dir("/proc/self/task").expect("procfs");
    let paths = threads.map(|thread| thread.expect("a thread").path());
    let named = paths.filter(|path| {
        fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.starts_with(name))
    });
    named.map(|path| scheduling_in(path.join("stat").to_str().expect("a path"))).collect()
}

/// A loop that can be held while events come, so that it finds them all in one turn.
struct Held {
    manager: Arc<PollManager>,
    gate: Arc<Mutex<()>>,
    waits: Arc<AtomicBool>,
}

impl Held {
    fn new() -> Self {
        let manager = Arc::new(PollManager::new(1, LoadBalance::default()).expect("a manager"));
        let (gate, waits) = (Arc::new(Mutex::new(())), Arc::new(AtomicBool::new(false)));
        let (its, tells) = (gate.clone(), waits.clone());
        let tick = move |_| {
            tells.store(true, Ordering::SeqCst);
            drop(lock(&its));
            tells.store(false, Ordering::SeqCst);
        };
        manager.run_every(Duration::from_millis(1), tick).expect("a tick");
        Self { manager, gate, waits }
    }

    fn serve(&self, builder: EventLoopBuilder) -> Server {
        Server::start(builder.manager(self.manager.clone()))
    }

    /// Each client sends a message, and the loop finds all of them at once.
    fn batch(&self, clients: &mut [TcpStream]) {
        let held = lock(&self.gate);
        eventually("the loop is held", || self.waits.load(Ordering::SeqCst));
        for client in clients.iter_mut() {
            client.write_all(b"hello").expect("it is taken");
        }
        drop(held);
        for client in clients {
            client.hear(b"hello");
        }
    }

    /// Sends batches until the thread of the loop is scheduled so.
    fn batches_until(&self, policy: &str, clients: &mut [TcpStream]) {
        eventually("its thread is in batches", || {
            self.batch(clients);
            scheduling_of("netpoll-loop") == [(policy.to_owned(), nice())]
        });
    }
}

fn clients(server: &Server) -> Vec<TcpStream> {
    (0..16).map(|_| server.connect()).collect()
}

#[test]
fn a_loop_of_a_pool_is_scheduled_in_batches_while_they_are_large() {
    alone("batches::a_loop_of_a_pool_is_scheduled_in_batches_while_they_are_large", || {
        let held = Held::new();
        let server = held.serve(echo().dispatch(pool()));
        let mut clients = clients(&server);
        held.batches_until(BATCH, &mut clients);
        let workers = scheduling_of("netpoll-work");
        assert!(workers.iter().all(|(policy, _)| policy == DEFAULT), "{workers:?}");
        eventually("it is alone again", || {
            clients[0].echo(b"hello");
            scheduling_of("netpoll-loop")[0].0 == DEFAULT
        });
    });
}

#[test]
fn a_callback_on_the_loop_never_finds_its_thread_in_batches() {
    alone("batches::a_callback_on_the_loop_never_finds_its_thread_in_batches", || {
        let held = Held::new();
        let found = Journal::default();
        let finds = found.clone();
        let inline = echo().dispatch(Dispatch::Inline);
        let inline = held.serve(inline.on_request(move |(): &mut (), conn: &mut Connection| {
            let (policy, nice) = scheduling_in("/proc/thread-self/stat");
            finds.add(format!("{policy}, {nice}, {:?}", thread::current().name()));
            echo_once(conn)
        }));
        let mut other = inline.connect();
        other.echo(b"hello");
        let server = held.serve(echo().dispatch(pool()));
        let mut clients = clients(&server);
        for _ in 0..3 {
            held.batches_until(BATCH, &mut clients);
            other.echo(b"hello");
        }
        // While it runs callbacks of its own every now and then, it stays as it is.
        for _ in 0..100 {
            other.echo(b"hello");
            held.batch(&mut clients);
        }
        let expected = format!("{DEFAULT}, {}, {:?}", nice(), Some("netpoll-loop-0"));
        assert!(found.entries().iter().all(|each| *each == expected), "{:?}", found.entries());
        assert_eq!(found.len(), 104);
    });
}
