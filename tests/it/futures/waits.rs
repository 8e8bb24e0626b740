//! What limits the waits of futures: timeouts, deadlines, and the rate at which a request comes.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use netpoll::{
    CloseReason, Dialer, Dispatch, Error, EventLoopBuilder, Limits, ReceiveRate, Result,
};
use netpoll_async::{AsyncConnection, AsyncDialer, AsyncSession, block_on, serve_async, timeout};

use super::{Event, server};
use crate::util::{Client, Count, Journal, PATIENCE, Server, eventually, modes, quiet};

const SHORT: Duration = Duration::from_millis(100);

/// The kind of wait that an error of a future says was too long.
fn named<T>(outcome: Result<T>) -> String {
    match outcome {
        Ok(_) => "it went on".to_owned(),
        Err(Error::TimedOut(wait)) => format!("{wait:?}"),
        Err(error) => format!("another error: {error:?}"),
    }
}

/// Ends told by their whole reason.
fn telling(
    builder: EventLoopBuilder<AsyncSession>,
    dispatch: Dispatch,
    ends: &Journal,
) -> EventLoopBuilder<AsyncSession> {
    let ends = ends.clone();
    builder.loops(1).dispatch(dispatch).on_disconnect(
        move |session: AsyncSession, reason: &CloseReason| {
            ends.add(format!("{reason:?}"));
            session.end(reason);
        },
    )
}

#[test]
fn a_read_that_waits_for_too_long_fails_and_the_next_one_goes_on() {
    for dispatch in modes() {
        let (told, ends) = (Journal::default(), Journal::default());
        let tells = told.clone();
        let serve = serve_async(move |mut conn: AsyncConnection| {
            let told = tells.clone();
            async move {
                let begun = Instant::now();
                told.add(named(conn.read_bytes().await));
                assert!(begun.elapsed() >= SHORT, "{:?}", begun.elapsed());
                conn.set_read_timeout(None);
                let mut heard = [0; 5];
                conn.read_exact(&mut heard).await?;
                conn.write_all(&heard).await?;
                conn.set_read_timeout(Some(SHORT));
                conn.read_bytes().await.map(drop)
            }
        });
        let server = Server::start(telling(serve, dispatch, &ends).read_timeout(SHORT));
        let mut client = server.connect();
        assert_eq!(told.wait(1), ["Read"], "{dispatch:?}");
        quiet(150);
        client.echo(b"hello");
        // An error that is passed on is the reason.
        assert_eq!(ends.wait(1), ["Timeout(Read)"], "{dispatch:?}");
    }
}

/// The drops come one by one, each in time for a read of its own.
#[test]
fn one_read_exact_has_one_timeout_for_all_of_its_bytes() {
    let (told, timed) = (Journal::default(), 4 * SHORT);
    let tells = told.clone();
    let builder = serve_async(move |mut conn: AsyncConnection| {
        let told = tells.clone();
        async move {
            told.add(named(conn.read_exact(&mut [0; 1000]).await));
            Ok::<_, Error>(())
        }
    });
    let server = Server::start(builder.loops(1).read_timeout(timed));
    let mut client = server.connect();
    let begun = Instant::now();
    while told.len() == 0 {
        assert!(begun.elapsed() < PATIENCE, "it waits for ever");
        let _ = std::io::Write::write_all(&mut client, b"x");
        quiet(20); // the pace of the drops: they need 20 s
    }
    assert!(begun.elapsed() >= timed, "{:?}", begun.elapsed());
    assert_eq!(told.entries(), ["Read"]);
}

/// Each read that is dropped was one of its own, as in a `select!`.
#[test]
fn a_read_that_was_dropped_takes_no_time_from_the_next() {
    for dispatch in modes() {
        let (server, _) = server(dispatch, |mut conn: AsyncConnection| async move {
            let limit = SHORT * 4;
            conn.set_read_timeout(Some(limit));
            assert!(timeout(limit / 2, conn.read_bytes()).await.is_err(), "it is dropped");
            let begun = Instant::now();
            assert_eq!(named(conn.read_bytes().await), "Read");
            assert!(
                begun.elapsed() >= limit,
                "it has the time of the first: {:?}",
                begun.elapsed()
            );
            conn.write_all(b"done").await
        });
        server.connect().hear(b"done");
    }
}

#[test]
fn a_deadline_ends_a_read_that_waits_now_in_whatever_task() {
    for dispatch in modes() {
        let told = Journal::default();
        let (handles, taken) = mpsc::channel();
        let tells = told.clone();
        let (server, _) = server(dispatch, move |conn: AsyncConnection| {
            let (told, handles) = (tells.clone(), handles.clone());
            async move {
                let (mut read, mut write) = conn.split();
                handles.send(read.handle()).expect("the test waits");
                let first = named(read.read_bytes().await);
                told.add(first);
                // On another thread, which our loop wakes.
                let handle = read.handle();
                read.set_read_deadline(None);
                let is_done = Event::default();
                let done = is_done.clone();
                std::thread::spawn(move || {
                    handles.send(handle).expect("the test waits");
                    let tokio = tokio::runtime::Builder::new_current_thread().build();
                    let outcome = tokio.expect("a runtime").block_on(read.read_bytes());
                    told.add(named(outcome));
                    done.happen();
                });
                is_done.await;
                write.write_all(b"done").await
            }
        });
        let mut client = server.connect();
        for at in 1..=2 {
            let handle = taken.recv_timeout(PATIENCE).expect("it is served");
            quiet(20);
            assert_eq!(told.len(), at - 1, "{dispatch:?}: nothing limits it yet");
            handle.set_read_deadline(Some(Instant::now() + SHORT));
            assert_eq!(told.wait(at), vec!["Read"; at], "{dispatch:?}");
        }
        client.hear(b"done");
    }
}

/// A past deadline ends no read of bytes that stand in the socket or in the connection.
#[test]
fn what_has_come_is_read_though_the_deadline_is_past() {
    for dispatch in modes() {
        let (here, told) = (Event::default(), Journal::default());
        let (awaited, tells) = (here.clone(), told.clone());
        let (server, _) = server(dispatch, move |mut conn: AsyncConnection| {
            let (here, told) = (awaited.clone(), tells.clone());
            async move {
                conn.read_exact(&mut [0]).await?;
                conn.set_read_deadline(Some(Instant::now()));
                here.await;
                conn.read_exact(&mut vec![0; 100_000]).await?;
                told.add(named(conn.read_bytes().await));
                conn.write_all(b"all").await
            }
        });
        let mut client = server.connect();
        client.say(b"?");
        eventually("it waits for something else", || here.is_awaited());
        client.say(&vec![b'x'; 100_000]);
        quiet(20);
        here.happen();
        client.hear(b"all");
        assert_eq!(told.wait(1), ["Read"], "{dispatch:?}");
    }
}

/// Its peer reads nothing, and the write timeout is long.
#[test]
fn a_write_deadline_ends_a_write_that_waits_for_room() {
    for dispatch in modes() {
        let (told, ends) = (Journal::default(), Journal::default());
        let (handles, taken) = mpsc::channel();
        let tells = told.clone();
        let serve = serve_async(move |mut conn: AsyncConnection| {
            let (told, handles) = (tells.clone(), handles.clone());
            async move {
                handles.send(conn.handle()).expect("the test waits");
                let mut written = 0;
                let error = loop {
                    match conn.write_all(&[b'x'; 4096]).await {
                        Ok(()) => written += 4096,
                        Err(error) => break error,
                    }
                };
                told.add(named::<()>(Err(error)));
                conn.set_write_deadline(None);
                conn.write_all(b"end").await?;
                told.add((written + 3).to_string());
                Ok::<_, Error>(())
            }
        });
        let builder = telling(serve, dispatch, &ends).output_limits(1 << 10, 64 << 10);
        let server = Server::start(builder);
        let mut client = server.connect();
        let handle = taken.recv_timeout(PATIENCE).expect("it is served");
        eventually("the output is congested", || handle.is_congested());
        assert_eq!(told.len(), 0);
        handle.set_write_deadline(Some(Instant::now() + SHORT));
        assert_eq!(told.wait(1), ["Write"], "{dispatch:?}");
        // Nothing that was written is lost by it.
        let heard = client.rest();
        assert_eq!(told.wait(2)[1], heard.len().to_string(), "{dispatch:?}");
        assert!(heard.ends_with(b"xend"));
        assert_eq!(ends.wait(1), ["Local"]);
    }
}

#[test]
fn a_write_timeout_of_one_connection_ends_it_while_its_peer_takes_nothing() {
    for dispatch in modes() {
        let ends = Journal::default();
        let serve = serve_async(|mut conn: AsyncConnection| async move {
            conn.set_write_timeout(Some(SHORT));
            loop {
                conn.write_all(&[b'x'; 4096]).await?;
            }
            #[expect(unreachable_code, reason = "the type of its end")]
            Ok::<_, Error>(())
        });
        let builder = telling(serve, dispatch, &ends).output_limits(1 << 10, 64 << 10);
        let server = Server::start(builder);
        let _client = server.connect();
        assert_eq!(ends.wait(1), ["Timeout(Write)"], "{dispatch:?}");
    }
}

/// Deadlines and timeouts of a dialled connection, which no callback polls.
#[test]
fn a_dialled_connection_has_the_same_limits() {
    let (server, _) = server(crate::util::hand_off(), |mut conn: AsyncConnection| async move {
        conn.read_exact(&mut [0]).await?;
        Event::default().await;
        Ok(())
    });
    let limits = Limits {
        read_timeout: Some(SHORT),
        write_timeout: Some(SHORT),
        output: netpoll::OutputLimits { low: 1 << 10, high: 64 << 10 },
        ..Limits::default()
    };
    let dialer = AsyncDialer::new(Dialer::builder().build().expect("good options"));
    let dialer = dialer.limits(limits);
    let address = server.address.to_string();
    block_on(async {
        let mut conn = dialer.dial("tcp", &address).await?;
        assert_eq!(named(conn.read_bytes().await), "Read");
        conn.set_read_timeout(None);
        conn.set_read_deadline(Some(Instant::now() + SHORT));
        assert_eq!(named(conn.read_bytes().await), "Read");
        let error = loop {
            if let Err(error) = conn.write_all(&[b'x'; 4096]).await {
                break error;
            }
        };
        assert_eq!(named::<()>(Err(error)), "Write");
        Ok::<_, Error>(())
    })
    .expect("it is dialled");
}

const RATE: ReceiveRate = ReceiveRate { bytes: 100, per: Duration::from_millis(300) };

/// How a future takes a line.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// It leaves the parts in the buffer of the connection.
    Buffered,
    /// It has taken some bytes of a fixed number.
    Exact,
    /// It keeps what it has taken itself.
    Taken,
}

/// Lines of 1 000 bytes, each answered with one byte.
async fn answer_lines(mut conn: AsyncConnection, way: Way) -> Result<()> {
    let counts = matches!(way, Way::Taken).then(|| conn.count_taken());
    let mut taken = 0;
    loop {
        match way {
            Way::Buffered => {
                while conn.buffer().len() < 1000 {
                    if !conn.more().await? {
                        return Ok(());
                    }
                }
                conn.consume(1000);
            }
            Way::Exact => conn.read_exact(&mut [0; 1000]).await?,
            Way::Taken => {
                while taken < 1000 {
                    let Some(bytes) = conn.read_bytes().await? else {
                        drop(counts);
                        return Ok(());
                    };
                    taken += bytes.len();
                }
                taken -= 1000;
            }
        }
        conn.write_all(b"!").await?;
    }
}

#[test]
fn a_request_that_trickles_is_cut_however_a_future_takes_it() {
    for dispatch in modes() {
        for way in [Way::Buffered, Way::Exact, Way::Taken] {
            let ends = Journal::default();
            let serve = serve_async(move |conn: AsyncConnection| answer_lines(conn, way));
            let server = Server::start(telling(serve, dispatch, &ends).min_receive_rate(RATE));
            let (mut idle, mut trickles) = (server.connect(), server.connect());
            idle.say(&[b'x'; 1000]);
            idle.hear(b"!");
            let begun = Instant::now();
            while ends.len() == 0 {
                assert!(begun.elapsed() < PATIENCE, "{dispatch:?}, {way:?}: it is not cut");
                let _ = std::io::Write::write_all(&mut trickles, b"x");
                quiet(20); // the pace of the trickle: 15 bytes where 100 are asked for
            }
            assert!(begun.elapsed() >= RATE.per, "cut after {:?}", begun.elapsed());
            assert_eq!(ends.entries(), ["Timeout(Rate)"], "{dispatch:?}, {way:?}");
            // Silence between two requests is no trickle.
            quiet(700);
            idle.say(&[b'x'; 1000]);
            idle.hear(b"!");
            assert_eq!(ends.len(), 1, "{dispatch:?}, {way:?}");
        }
    }
}

/// Its bytes are all taken, it is at work, or the next request has come in part meanwhile.
#[test]
fn a_future_that_has_no_part_of_a_request_is_not_cut() {
    for dispatch in modes() {
        let (ends, gate, at_work) = (Journal::default(), Event::default(), Count::default());
        let (awaited, counted) = (gate.clone(), at_work.clone());
        let serve = serve_async(move |mut conn: AsyncConnection| {
            let (gate, at_work) = (awaited.clone(), counted.clone());
            async move {
                let mut first = [0; 2];
                conn.read_exact(&mut first).await?;
                if first == *b"wo" {
                    at_work.add();
                    gate.await;
                    conn.write_all(b"worked").await?;
                }
                // A protocol of one way: nothing is answered.
                while let Some(bytes) = conn.read_bytes().await? {
                    if bytes.ends_with(b"?") {
                        conn.write_all(b"all").await?;
                    }
                }
                Ok::<_, Error>(())
            }
        });
        let server = Server::start(telling(serve, dispatch, &ends).min_receive_rate(RATE));
        let (mut works, mut one_way) = (server.connect(), server.connect());
        // Its request is a part at first.
        works.say(b"w");
        quiet(20);
        works.say(b"o and a part of the next");
        one_way.say(b"some, and no more for long");
        eventually("it is at work", || at_work.get() == 1);
        quiet(1000); // three spans of the rate
        gate.happen();
        works.hear(b"worked");
        for client in [&mut works, &mut one_way] {
            client.say(b"?");
            client.hear(b"all");
        }
        assert_eq!(ends.entries(), [""; 0], "{dispatch:?}");
    }
}
