//! What a logger may do: it is user code, and runs on whatever thread has something to say.

use std::thread;

use log::{LevelFilter, Log, Metadata, Record};
use netpoll::{Dispatch, PoolOptions};

use crate::util::{Client, Count, Server, alone, echo, eventually};

/// Calls a function with each line, on the thread that logs.
struct Calling<F>(F);

impl<F: Fn(&str) + Send + Sync> Log for Calling<F> {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        (self.0)(&record.args().to_string());
    }

    fn flush(&self) {}
}

/// Has every line of this process call `on_line`.
pub(crate) fn listen(on_line: impl Fn(&str) + Send + Sync + 'static) {
    log::set_boxed_logger(Box::new(Calling(on_line))).expect("this process has no other");
    log::set_max_level(LevelFilter::Trace);
}

/// A worker that dies is no worker any more: the next job starts another one.
#[test]
fn a_logger_that_panics_on_a_worker_costs_that_worker_alone() {
    alone("loggers::a_logger_that_panics_on_a_worker_costs_that_worker_alone", || {
        let panicked = Count::default();
        let counted = panicked.clone();
        listen(move |line| {
            let on_worker = thread::current().name().is_some_and(|it| it.contains("work"));
            if on_worker && line.starts_with("connection ") && counted.get() < 3 {
                counted.add();
                panic!("no space left on the log's device");
            }
        });
        let options = PoolOptions { max_threads: 1, ..PoolOptions::default() };
        let server = Server::start(echo().dispatch(Dispatch::Pool(options)));
        for round in 1..=3 {
            server.connect().echo(b"hello, and goodbye");
            eventually("its worker dies", || panicked.get() == round);
        }
        server.connect().echo(b"another worker is there");
    });
}
