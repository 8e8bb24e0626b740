//! Tasks that the futures of connections spawn: where they run, and how they end.

use std::thread;
use std::time::Duration;

use netpoll::{Dispatch, Result};
use netpoll_async::{AsyncConnection, block_on, serve_async, sleep, spawn};

use super::Kept;
use crate::util::{Client, Journal, Server, eventually, modes};

const MS: Duration = Duration::from_millis(1);

struct OnDrop(Journal);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.add("dropped");
    }
}

#[test]
fn a_task_that_a_connection_spawns_outlives_it_and_ends_with_the_event_loop() {
    for mode in modes() {
        let (journal, kept) = (Journal::default(), Kept::default());
        let (drops, keeps) = (journal.clone(), kept.clone());
        let serve = move |mut conn: AsyncConnection| {
            let (guard, waits) = (OnDrop(drops.clone()), keeps.clone());
            async move {
                spawn(async move {
                    let _guard = guard;
                    waits.pending().await;
                })
                .detach();
                conn.write_all(b"hello").await
            }
        };
        let server = Server::start(serve_async(serve).dispatch(mode).loops(1));
        let mut client = server.connect();
        client.hear(b"hello");
        assert_eq!(client.rest(), b"");
        eventually("it was polled", || kept.waker().is_some());
        assert_eq!(journal.len(), 0);
        server.stop();
        assert_eq!(journal.entries(), ["dropped"]);
        kept.waker().expect("it was polled").wake();
    }
}

#[test]
fn a_task_that_a_connection_spawns_runs_on_its_loop_and_as_its_callbacks_do() {
    let serve = |mut conn: AsyncConnection| async move {
        let inner = spawn(async {
            sleep(MS).await;
            // Under Dispatch::Inline a wait is refused.
            let may_wait = netpoll_async::try_block_on(sleep(MS)).is_ok();
            (thread::current().id(), may_wait)
        });
        let (thread, may_wait) = inner.await.map_err(|_| netpoll::Error::Closed)?;
        let is_same = thread == thread::current().id();
        conn.write_all(format!("{is_same} {may_wait}").as_bytes()).await
    };
    let answer = |dispatch| {
        let server = Server::start(serve_async(serve).dispatch(dispatch).loops(1));
        let answer = server.connect().rest();
        server.stop();
        String::from_utf8(answer).expect("text")
    };
    assert_eq!(answer(Dispatch::Inline), "true false");
    for mode in modes().into_iter().skip(1) {
        assert!(answer(mode).ends_with(" true"));
    }
}

#[test]
fn a_handler_joins_what_it_has_spawned() {
    async fn serve(mut conn: AsyncConnection) -> Result<()> {
        let parts = [1, 2, 3].map(|part| {
            spawn(async move {
                sleep(part * MS).await;
                part
            })
        });
        let mut sum = 0;
        for part in parts {
            sum += part.await.map_err(|_| netpoll::Error::Closed)?;
        }
        conn.write_all(format!("{sum}").as_bytes()).await
    }
    for mode in modes() {
        let server = Server::start(serve_async(serve).dispatch(mode).loops(2));
        assert_eq!(server.connect().rest(), b"6");
        server.stop();
    }
    // Outside of connections the shared manager has the tasks, as ever.
    assert_eq!(block_on(spawn(async { 1 })).expect("it ends"), 1);
}
