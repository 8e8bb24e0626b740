//! Jobs and timers of users: run as callbacks, on time, until they are cancelled or it ends.

use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use netpoll::{Connection, Dispatch, Error, EventLoop, Handle, Relay, Result};

use super::{handing_out, next, pair, telling};
use crate::util::{
    Client, Count, Gate, Journal, Server, echo_once, eventually, modes, pool, quiet,
};

/// A server that echoes, a client of it, and the handle of its connection.
fn served(dispatch: Dispatch, journal: &Journal) -> (Server, std::net::TcpStream, Handle) {
    let (builder, handles) = handing_out();
    let server = Server::start(
        builder
            .on_request(|(): &mut (), conn: &mut Connection| echo_once(conn))
            .on_disconnect(telling(journal))
            .dispatch(dispatch),
    );
    let client = server.connect();
    let handle = next(&handles);
    (server, client, handle)
}

#[test]
fn a_job_runs_as_a_callback_once_and_not_before_its_time() -> Result<()> {
    for dispatch in modes() {
        let (_server, mut client, handle) = served(dispatch, &Journal::default());
        let (begun, (sender, ran)) = (Instant::now(), mpsc::channel());
        handle.run_after(Duration::from_millis(80), move |conn: &mut Connection| {
            let _ = sender.send(begun.elapsed());
            conn.writer().write_bytes(b"it is time");
            Ok(())
        })?;
        client.hear(b"it is time");
        let after = next(&ran);
        assert!(after >= Duration::from_millis(80), "{dispatch:?}: after {after:?}");
        assert!(ran.recv_timeout(Duration::from_millis(100)).is_err(), "it ran twice");
        client.echo(b"callbacks go on");
    }
    Ok(())
}

#[test]
fn jobs_run_in_order_and_none_beside_a_callback() -> Result<()> {
    const JOBS: usize = 200;
    for dispatch in modes() {
        let (_server, mut client, handle) = served(dispatch, &Journal::default());
        let (gate, (entered, inside)) = (Gate::default(), mpsc::channel());
        let closed = gate.clone();
        handle.run(move |_: &mut Connection| {
            let _ = entered.send(());
            closed.pass();
            Ok(())
        })?;
        next(&inside);
        let journal = Journal::default();
        for number in 0..JOBS {
            let ran = journal.clone();
            handle.run(move |_: &mut Connection| {
                ran.add(number.to_string());
                Ok(())
            })?;
        }
        quiet(20);
        assert_eq!(journal.len(), 0, "{dispatch:?}: beside a job that still runs");
        gate.open();
        let expected: Vec<_> = (0..JOBS).map(|it| it.to_string()).collect();
        assert_eq!(journal.wait(JOBS), expected, "{dispatch:?}");
        client.echo(b"callbacks go on");
    }
    Ok(())
}

#[test]
fn a_periodic_job_runs_until_it_is_cancelled() -> Result<()> {
    for dispatch in modes() {
        let (_server, mut client, handle) = served(dispatch, &Journal::default());
        let ticks = Count::default();
        let counted = ticks.clone();
        let begun = Instant::now();
        let timer = handle.run_every(Duration::from_millis(10), move |_: &mut Connection| {
            counted.add();
            Ok(())
        })?;
        eventually("it ticks", || ticks.get() >= 5);
        assert!(begun.elapsed() >= Duration::from_millis(50), "{:?}", begun.elapsed());
        timer.cancel();
        client.echo(b"one that was running has ended");
        let at_cancel = ticks.get();
        quiet(60);
        assert_eq!(ticks.get(), at_cancel, "{dispatch:?}: it ticks after its cancellation");
    }
    Ok(())
}

#[test]
fn a_cancelled_timer_does_not_fire_and_frees_what_it_held() -> Result<()> {
    for dispatch in modes() {
        let (_server, mut client, handle) = served(dispatch, &Journal::default());
        let held = Arc::new(());
        let captured = held.clone();
        let fired = Count::default();
        let counted = fired.clone();
        let timer = handle.run_after(Duration::from_secs(1), move |_: &mut Connection| {
            drop(captured);
            counted.add();
            Ok(())
        })?;
        timer.cancel();
        assert_eq!(Arc::strong_count(&held), 1, "{dispatch:?}: it still holds what it captured");
        timer.cancel();
        quiet(1200);
        assert_eq!(fired.get(), 0, "{dispatch:?}: it fired");
        client.echo(b"callbacks go on");
    }
    Ok(())
}

#[test]
fn no_job_runs_after_on_disconnect_and_all_are_dropped() -> Result<()> {
    for dispatch in modes() {
        let journal = Journal::default();
        let (_server, client, handle) = served(dispatch, &journal);
        let held = Arc::new(());
        let ticking = journal.clone();
        let captured = held.clone();
        handle.run_every(Duration::from_millis(1), move |_: &mut Connection| {
            assert!(Arc::strong_count(&captured) > 1);
            ticking.add("tick");
            Ok(())
        })?;
        let (late, captured) = (journal.clone(), held.clone());
        handle.run_after(Duration::from_millis(100), move |_: &mut Connection| {
            drop(captured);
            late.add("late");
            Ok(())
        })?;
        journal.wait(3);
        drop(client);
        eventually("it ends", || journal.entries().iter().any(|it| it == "Peer"));
        let entries = journal.len();
        eventually("what the jobs held is dropped", || Arc::strong_count(&held) == 1);
        quiet(150);
        assert_eq!(journal.len(), entries, "{dispatch:?}: {:?}", journal.entries().last());
        assert_eq!(journal.entries().last().map(String::as_str), Some("Peer"), "{dispatch:?}");
        let refused = handle.run(|_: &mut Connection| Ok(()));
        assert!(matches!(refused, Err(Error::Closed)), "{refused:?}");
    }
    Ok(())
}

#[test]
fn an_error_or_a_panic_of_a_job_closes_only_its_connection() -> Result<()> {
    for dispatch in modes() {
        let journal = Journal::default();
        let (server, mut failing, handle) = served(dispatch, &journal);
        let mut bystander = server.connect();
        bystander.echo(b"before");
        handle.run(|_: &mut Connection| Err(std::io::Error::other("a job's own").into()))?;
        assert_eq!(failing.rest(), b"");
        assert!(journal.wait(1)[0].starts_with("Callback("), "{dispatch:?}");
        bystander.echo(b"after");
    }
    let journal = Journal::default();
    let (_server, mut failing, handle) = served(pool(), &journal);
    handle.run(|_: &mut Connection| panic!("told to"))?;
    assert_eq!(failing.rest(), b"");
    assert_eq!(journal.wait(1), ["Panic"]);
    Ok(())
}

/// A job that posts itself for ever is one of the things that a connection has to do.
#[test]
fn a_job_that_posts_itself_starves_nothing() {
    fn again(handle: &Handle) -> Result<()> {
        let next = handle.clone();
        handle.run(move |_: &mut Connection| again(&next))
    }
    for dispatch in modes() {
        let journal = Journal::default();
        let (server, mut client, handle) = served(dispatch, &journal);
        again(&handle).expect("it is open");
        client.echo(b"input is served");
        handle.send(crate::util::noise(1, 16 << 20)).expect("accepted");
        client.hear(crate::util::noise(1, 16 << 20));
        client.echo(b"and output");
        drop(client);
        assert_eq!(journal.wait(1), ["Peer"], "{dispatch:?}");

        let (gone, mut client, handle) = served(dispatch, &journal);
        again(&handle).expect("it is open");
        client.echo(b"input is served");
        let report = gone.stop();
        assert_eq!(report.aborted, 0, "{dispatch:?}: a shutdown ends it in order");
        assert_eq!(journal.wait(2)[1], "Shutdown", "{dispatch:?}");
        drop(server);
    }
}

/// Now, later, again and again; beside callbacks that count in the same session.
#[test]
fn a_job_is_given_the_session() -> Result<()> {
    for dispatch in modes() {
        let (sender, handles) = mpsc::channel();
        let journal = Journal::default();
        let told = journal.clone();
        let server = Server::start(
            EventLoop::builder()
                .on_prepare(move |conn: &Connection| {
                    let _ = sender.send(conn.handle());
                    Ok(String::from("prepared"))
                })
                .on_request(|session: &mut String, conn: &mut Connection| {
                    session.push_str(", asked");
                    echo_once(conn)
                })
                .on_disconnect(move |session: String, _: &netpoll::CloseReason| told.add(session))
                .dispatch(dispatch),
        );
        let mut client = server.connect();
        let handle = next(&handles);
        client.echo(b"?");
        handle.run_with(|session: &mut String, conn: &mut Connection| {
            session.push_str(", now");
            conn.writer().write_string(session);
            Ok(())
        })?;
        client.hear(b"prepared, asked, now");
        let later = Duration::from_millis(1);
        handle.run_after_with(later, |session: &mut String, conn: &mut Connection| {
            session.push_str(", later");
            conn.writer().write_string(session);
            Ok(())
        })?;
        client.hear(b"prepared, asked, now, later");
        let mut runs = 0;
        handle.run_every_with(later, move |session: &mut String, conn: &mut Connection| {
            runs += 1;
            session.push_str(", again");
            if runs == 3 {
                conn.close();
            }
            Ok(())
        })?;
        assert_eq!(client.rest(), b"");
        let all = "prepared, asked, now, later, again, again, again";
        assert_eq!(journal.wait(1), [all], "{dispatch:?}");
        let late = handle.run_with(|_: &mut String, _: &mut Connection| Ok(()));
        assert!(matches!(late, Err(Error::Closed)), "{late:?}");
    }
    Ok(())
}

#[test]
fn a_job_for_a_session_of_another_type_is_refused_by_name() -> Result<()> {
    let (_server, mut client, handle) = served(pool(), &Journal::default());
    let millisecond = Duration::from_millis(1);
    let refused = [
        handle.run_with(|_: &mut String, _: &mut Connection| Ok(())),
        handle.run_after_with(millisecond, |_: &mut String, _: &mut Connection| Ok(())).map(drop),
        handle.run_every_with(millisecond, |_: &mut String, _: &mut Connection| Ok(())).map(drop),
    ];
    for outcome in refused {
        let Err(Error::Config(sentence)) = outcome else { panic!("{outcome:?}") };
        let expected = "the session is of the type `()`, not `alloc::string::String`";
        assert_eq!(&*sentence, expected);
    }
    handle.run_with(|(): &mut (), conn: &mut Connection| {
        conn.writer().write_bytes(b"of the right type");
        Ok(())
    })?;
    client.hear(b"of the right type");
    let (dialled, _peer) = pair()?;
    let outcome = dialled.handle().run_with(|(): &mut (), _: &mut Connection| Ok(()));
    assert!(matches!(outcome, Err(Error::Config(_))), "{outcome:?}");
    Ok(())
}

/// A relay takes the place of the callbacks; the session is still there for jobs.
#[test]
fn a_job_is_given_the_session_in_a_relay() -> Result<()> {
    for dispatch in modes() {
        let (_server, mut client, handle) = served(dispatch, &Journal::default());
        let (other, mut origin) = pair()?;
        let (sender, joined) = mpsc::channel();
        handle.run(move |conn: &mut Connection| {
            let outcome = Relay::new().join(conn, other);
            let _ = sender.send(outcome.is_ok());
            Ok(())
        })?;
        assert!(next(&joined));
        client.say(b"up");
        origin.hear(b"up");
        handle.run_with(|(): &mut (), conn: &mut Connection| {
            conn.writer().write_bytes(b"from a job");
            Ok(())
        })?;
        client.hear(b"from a job");
    }
    Ok(())
}
