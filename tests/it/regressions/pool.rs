//! Bugs of the pool of workers, and of what waits for it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use netpoll::{Connection, Dispatch, Error, EventLoop, default_loops};

use super::{Gate, UNHARMED, pool_of};
use crate::util::{
    Client, PATIENCE, Random, Server, alone, echo, echo_once, eventually, is_filtered, pool, quiet,
    within,
};

/// The threads of this process that netpoll started.
fn our_threads() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").expect("procfs");
    let name = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm")).ok();
    let names = tasks.filter_map(|task| name(task.ok()?));
    names.map(|it| it.trim().to_owned()).filter(|it| it.starts_with("netpoll-")).collect()
}

/// Keeps a core busy.
fn compute(time: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < time {}
}

/// Where callbacks wait for each other.
#[derive(Default)]
struct Meeting {
    /// How many are here, and how many meetings there have been.
    state: Mutex<(usize, usize)>,
    complete: Condvar,
}

impl Meeting {
    /// Waits until `size` callbacks are here at once; says whether they were.
    fn attend(&self, size: usize) -> bool {
        let mut state = self.state.lock().expect(UNHARMED);
        let this = state.1;
        state.0 += 1;
        if state.0 == size {
            *state = (0, this + 1);
            self.complete.notify_all();
            return true;
        }
        let incomplete = |state: &mut (usize, usize)| state.1 == this;
        let waited = self.complete.wait_timeout_while(state, PATIENCE, incomplete);
        !waited.expect(UNHARMED).1.timed_out()
    }

    /// A server whose callbacks meet as many others as the byte that they read says.
    fn hold(dispatch: Dispatch) -> Server {
        let meeting = Self::default();
        Server::start(
            EventLoop::builder()
                .on_request(move |(): &mut (), conn: &mut Connection| {
                    let size = conn.reader().read_byte()?;
                    if !meeting.attend(size.into()) {
                        return Err(std::io::Error::other("the others did not come").into());
                    }
                    conn.writer().write_bytes(&[size]);
                    Ok(())
                })
                .dispatch(dispatch)
                .loops(1),
        )
    }
}

/// Has as many callbacks of a [`Meeting`]'s server inside at once.
fn meet(server: &Server, size: u8) {
    let mut clients: Vec<_> = (0..size).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.say(&[size]);
    }
    for client in &mut clients {
        client.hear(&[size]);
    }
}

/// Reported: with a queue of one, a reactor slept over connections that waited for room in it.
#[test]
fn connections_that_find_the_queue_full_are_all_answered() {
    const ROUNDS: usize = 400;
    // Where a reactor is not told of room, but looks for it every 50 ms, most take that long.
    const AT_MOST: Duration = Duration::from_millis(45);
    // Callbacks of all lengths up to this, so that room comes at each moment of the reactor's turn.
    const NANOSECONDS_AT_MOST: usize = 30_000;
    if is_filtered() {
        return; // half a turn of the tunnel takes as long
    }
    let random = Mutex::new(Random::new(1));
    let server = Server::start(
        EventLoop::builder()
            .on_request(move |(): &mut (), conn: &mut Connection| {
                let nanoseconds = random.lock().unwrap().below(NANOSECONDS_AT_MOST);
                compute(Duration::from_nanos(nanoseconds as u64));
                echo_once(conn)
            })
            .dispatch(pool_of(2, 1, PATIENCE))
            .loops(1),
    );
    let mut clients: Vec<_> = (0..50).map(|_| server.connect()).collect();
    let mut round = || {
        let begun = Instant::now();
        for client in &mut clients {
            client.say(b"x");
        }
        for client in &mut clients {
            client.hear(b"x");
        }
        begun.elapsed()
    };
    let mut times: Vec<_> = (0..ROUNDS).map(|_| round()).collect();
    times.sort();
    // Many are slow for other reasons.
    assert!(times[ROUNDS / 10] < AT_MOST, "not told of room: {:?}", times[ROUNDS / 10]);
}

/// Reported: a job that came while the only worker left for want of work stayed in the queue.
#[test]
fn a_job_that_comes_as_the_last_worker_leaves_is_done() {
    const ROUNDS: usize = 5000;
    let mut random = Random::new(3);
    for idle in [Duration::from_micros(50), Duration::from_millis(1)] {
        let server = Server::start(echo().loops(1).dispatch(pool_of(1, 16, idle)));
        let mut client = server.connect();
        let rounds = if idle < Duration::from_millis(1) { ROUNDS } else { ROUNDS / 50 };
        for _ in 0..rounds {
            client.echo(b"x");
            // About as long as an idle worker stays, the system's slack of 50 us among it.
            compute(idle + Duration::from_nanos(random.below(100_000) as u64));
        }
    }
}

/// Reported: the pool stayed as small as there are cores where callbacks blocked for about a
/// millisecond each, since jobs were taken all the time.
#[test]
fn the_pool_grows_for_callbacks_that_block_briefly() {
    const BRIEFLY: Duration = Duration::from_millis(1);
    if is_filtered() {
        return; // the one thread of the tunnel paces them
    }
    let hoped = 4 * default_loops() + 8;
    let most = Arc::new(AtomicUsize::new(0));
    let (inside, peak) = (AtomicUsize::new(0), most.clone());
    let server = Server::start(
        EventLoop::builder()
            .on_request(move |(): &mut (), conn: &mut Connection| {
                peak.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                thread::sleep(BRIEFLY); // sleep: a callback that blocks is the point
                inside.fetch_sub(1, Ordering::SeqCst);
                echo_once(conn)
            })
            .loops(1),
    );
    let mut clients: Vec<_> = (0..4 * hoped).map(|_| server.connect()).collect();
    let grown = within(PATIENCE, || {
        for client in &mut clients {
            client.say(b"x");
        }
        for client in &mut clients {
            client.hear(b"x");
        }
        most.load(Ordering::SeqCst) >= hoped
    });
    assert!(grown, "hoped for {hoped} callbacks at once, saw {most:?} at the most");
}

/// Reported: with a queue of one, a stop reached one idle worker, and the others stayed.
#[test]
fn a_stop_ends_more_idle_workers_than_the_queue_is_long() {
    alone("regressions::pool::a_stop_ends_more_idle_workers_than_the_queue_is_long", || {
        let server = Meeting::hold(pool_of(16, 1, Duration::from_secs(3600)));
        meet(&server, 12);
        assert!(our_threads().iter().filter(|it| it.starts_with("netpoll-work-")).count() >= 12);
        server.stop();
        // What is joined may stand in procfs for a moment.
        let ended = within(PATIENCE, || our_threads().is_empty());
        assert!(ended, "left behind: {:?}", our_threads());
    });
}

/// Reported: idle workers for ever, `Duration::MAX`, overflowed a clock, and the pool never grew
/// again; none at all was not refused.
#[test]
fn workers_may_stay_for_ever_but_not_for_no_time() {
    let server = Meeting::hold(pool_of(64, 64, Duration::MAX));
    for more in 1..5 {
        // Each needs one worker more, and finds the standby asleep or about to be.
        meet(&server, u8::try_from(default_loops()).unwrap_or(32).min(32) + more);
        quiet(20);
    }
    server.stop();
    let refused = echo().dispatch(pool_of(1, 1, Duration::ZERO)).build();
    let error = refused.expect_err("idle is zero");
    assert!(matches!(&error, Error::Config(text) if text.contains("idle is 0")), "{error}");
}

/// Reported: a callback that never returned kept the loops of a server, which do not need it, from
/// ending with `serve`.
#[test]
fn a_stuck_callback_outlasts_a_shutdown_alone() {
    alone("regressions::pool::a_stuck_callback_outlasts_a_shutdown_alone", || {
        let (entered, inside) = mpsc::channel();
        let gate = Gate::default();
        let closed = gate.clone();
        let server = Server::start(
            EventLoop::builder()
                .on_request(move |(): &mut (), _: &mut Connection| {
                    let _ = entered.send(());
                    closed.pass();
                    Ok(())
                })
                .dispatch(pool())
                .loops(2),
        );
        let mut client = server.connect();
        client.say(b"x");
        inside.recv_timeout(PATIENCE).expect("a callback");
        server.event_loop.shutdown(Duration::from_millis(20));
        assert_eq!(server.join().aborted, 1);
        // Only the thread of the callback is left. A joined thread may stand in procfs for a
        // moment, but not for as long as a loop that waits for the callback.
        let others = || our_threads().iter().any(|it| !it.starts_with("netpoll-work-"));
        let alone = || our_threads().len() == 1 && !others();
        assert!(within(Duration::from_secs(10), alone), "{:?}", our_threads());
        gate.open();
        eventually("the callback ends the last thread", || our_threads().is_empty());
    });
}
