//! Broadcasts keep their place among what the thread that broadcasts writes to a member.

use netpoll::{Connection, Dispatch, Error, EventLoop, Group};

use crate::groups::{joining, member};
use crate::util::{Client, Gate, Server, eventually, hand_off, modes, pool};

/// A pass runs while the callback does, so only what it has deferred keeps the order.
#[test]
fn a_broadcast_comes_behind_what_its_thread_has_written_and_not_flushed() {
    for dispatch in [pool(), hand_off()] {
        for joins_late in [false, true] {
            let (group, gate) = (Group::new(), Gate::default());
            let (builder, handles) = joining(&group);
            let witnesses = Server::start(builder.loops(1));
            let (mut witness, _) = member(&witnesses, &handles);
            let (here, closed) = (group.clone(), gate.clone());
            let server = Server::start(
                EventLoop::builder()
                    .on_request(move |(): &mut (), conn: &mut Connection| {
                        conn.reader().skip(1)?;
                        if !joins_late {
                            here.add(&conn.handle());
                        }
                        conn.writer().write_bytes(b"written, ");
                        here.add(&conn.handle());
                        here.broadcast("broadcast, ")?;
                        closed.pass();
                        here.broadcast("another, ")?;
                        conn.writer().write_bytes(b"more, ");
                        conn.handle().send("sent; ")
                    })
                    .dispatch(dispatch)
                    .loops(1),
            );
            let mut client = server.connect();
            for _ in 0..2 {
                client.say(b"?");
                // No other member waits, and the pass of the callback's own loop has had time.
                witness.hear(b"broadcast, ");
                eventually("both loops have passed", || group.stats().pending == 0);
                gate.open();
                witness.hear(b"another, ");
                client.hear(b"written, broadcast, another, more, sent; ");
            }
            assert_eq!(group.stats().skipped, 0);
        }
    }
}

/// Under `Inline` no pass comes between; what does is a send, which the broadcast goes before.
#[test]
fn a_broadcast_of_an_inline_callback_keeps_its_place_between_a_write_and_a_send() {
    let group = Group::new();
    let here = group.clone();
    let server = EventLoop::builder()
        .on_request(move |(): &mut (), conn: &mut Connection| {
            conn.reader().skip(1)?;
            here.add(&conn.handle());
            conn.writer().write_bytes(b"written, ");
            here.broadcast("broadcast, ")?;
            conn.handle().send("sent; ")
        })
        .dispatch(Dispatch::Inline);
    let server = Server::start(server);
    let mut client = server.connect();
    for _ in 0..3 {
        client.say(b"?");
        client.hear(b"written, broadcast, sent; ");
    }
}

/// Its written bytes may be half a message; what it has broadcast is whole.
#[test]
fn a_callback_that_fails_after_a_broadcast_drops_its_written_bytes_and_not_the_broadcast() {
    for dispatch in modes() {
        let group = Group::new();
        let here = group.clone();
        let server = EventLoop::builder()
            .on_request(move |(): &mut (), conn: &mut Connection| {
                here.add(&conn.handle());
                conn.writer().write_bytes(b"half, ");
                here.broadcast("broadcast; ")?;
                Err(Error::other("on purpose"))
            })
            .dispatch(dispatch);
        let server = Server::start(server);
        let mut client = server.connect();
        client.say(b"?");
        assert_eq!(client.rest(), b"broadcast; ", "{dispatch:?}");
    }
}
