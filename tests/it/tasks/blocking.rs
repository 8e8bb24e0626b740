//! Polls that block, and threads that wait for futures: in tasks, in callbacks, in each other.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use netpoll::{Connection, Dispatch, Error, EventLoop, Result};
use netpoll_async::{block_on, sleep, spawn, try_block_on, yield_now};

use super::spawner;
use crate::util::{Client, Server, hand_off, modes, pool};

const MS: Duration = Duration::from_millis(1);

#[test]
fn a_poll_that_blocks_does_not_hold_up_the_other_tasks_of_its_loop() {
    for mode in [hand_off(), pool()] {
        let spawner = spawner(mode);
        let (go, wait) = mpsc::channel::<()>();
        let blocks = spawner.spawn(async move { wait.recv().is_ok() });
        for _ in 0..10 {
            block_on(spawner.spawn(sleep(MS))).expect("it ends");
        }
        assert!(!blocks.is_finished());
        go.send(()).expect("it waits");
        assert!(block_on(blocks).expect("it ends"));
    }
}

#[test]
fn a_task_may_block_on_a_future_that_its_own_loop_wakes() {
    for mode in [hand_off(), pool()] {
        let spawner = spawner(mode);
        let nested = spawner.spawn(async {
            block_on(async {
                sleep(MS).await;
                let inner = spawn(async {
                    sleep(MS).await;
                    block_on(spawn(yield_now())).is_ok()
                });
                block_on(async { block_on(inner).expect("it ends") })
            })
        });
        assert!(block_on(nested).expect("it ends"));
    }
}

#[test]
fn a_callback_may_block_on_a_future_that_its_own_loop_wakes() {
    fn answer(_: &mut (), conn: &mut Connection) -> Result<()> {
        conn.reader().skip(1)?;
        let sum = block_on(async {
            sleep(MS).await;
            spawn(async { 6 * 7 }).await.map_err(|error| std::io::Error::other(error.to_string()))
        })?;
        conn.writer().write_string(&format!("{sum:02}"));
        conn.writer().flush()
    }
    for mode in [hand_off(), pool()] {
        let server = Server::start(EventLoop::builder().on_request(answer).dispatch(mode).loops(1));
        let mut client = server.connect();
        client.say(b"?");
        client.hear(b"42");
        server.stop();
    }
}

#[test]
fn where_a_poll_must_not_wait_block_on_says_so_by_name() {
    let spawner = spawner(Dispatch::Inline);
    let refused = spawner.spawn(async { try_block_on(sleep(MS)) });
    let error = block_on(refused).expect("it ends").expect_err("it must not wait");
    assert!(matches!(error, Error::Config(_)), "{error:?}");
    assert!(error.to_string().contains("cannot wait for a future"), "{error}");
    let panics = spawner.spawn(async { block_on(sleep(MS)) });
    assert!(block_on(panics).expect_err("it panics").is_panic());
    // A future that is ready needs no wait.
    let ready = spawner.spawn(async { block_on(async { 5 }) });
    assert_eq!(block_on(ready).expect("it ends"), 5);
}

#[test]
fn a_future_of_block_on_need_not_be_send_and_its_panic_comes_out() {
    let shared = std::rc::Rc::new(1);
    let sum = block_on(async {
        yield_now().await;
        *shared + 1
    });
    assert_eq!(sum, 2);
    let panicked = thread::spawn(|| block_on(async { panic!("in a future") })).join();
    assert_eq!(
        *panicked.expect_err("it panics").downcast::<&str>().expect("its text"),
        "in a future"
    );
}

#[test]
fn a_plain_callback_spawns_onto_its_loop() {
    fn answer(_: &mut (), conn: &mut Connection) -> Result<()> {
        conn.reader().skip(1)?;
        let handle = conn.handle();
        spawn(async move {
            sleep(MS).await;
            handle.send("hi")
        })
        .detach();
        Ok(())
    }
    for mode in modes() {
        let server = Server::start(EventLoop::builder().on_request(answer).dispatch(mode).loops(1));
        let mut client = server.connect();
        client.say(b"?");
        client.hear(b"hi");
        server.stop();
    }
}
