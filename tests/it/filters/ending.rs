//! How streams end that have a filter: in order, truncated, by a reset, by an error.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::mpsc;

use netpoll::{Connection, EventLoop};

use super::{handing_out, next, serve};
use crate::toy::{ALERT, ToyClient, Toys};
use crate::util::{Journal, echo_once, modes, noise};

#[test]
fn shutdown_write_ends_our_stream_in_order_and_reading_goes_on() {
    const MUCH: usize = 4 << 20;
    for dispatch in modes() {
        let (journal, (told, heard)) = (Journal::default(), mpsc::channel());
        let (_serving, address) = serve(
            EventLoop::builder()
                .on_request(move |(): &mut (), conn: &mut Connection| {
                    let len = conn.reader().len();
                    let text = conn.reader().read_string(len)?;
                    if text == "go" {
                        conn.writer().write_bytes(noise(1, MUCH));
                        conn.shutdown_write();
                    } else {
                        let _ = told.send(text);
                    }
                    Ok(())
                })
                .on_disconnect(journal.on_disconnect())
                .dispatch(dispatch),
            Toys::default(),
        );
        let mut client = ToyClient::connect(address);
        client.send(b"go").expect("sent");
        assert!(client.rest().expect("an end in order") == noise(1, MUCH));
        assert_eq!(client.socket.read(&mut [0]).expect("a FIN"), 0);
        client.send(b"still there").expect("sent");
        assert_eq!(next(&heard), "still there");
        client.finish().expect("an end");
        assert_eq!(journal.wait(1), ["Peer"], "{dispatch:?}");
    }
}

#[test]
fn a_close_in_order_sends_the_rest_then_the_end_then_a_fin() {
    const MUCH: usize = 4 << 20;
    for dispatch in modes() {
        let journal = Journal::default();
        let (_serving, address) = serve(
            EventLoop::builder()
                .on_request(|(): &mut (), conn: &mut Connection| {
                    conn.writer().write_bytes(noise(1, MUCH));
                    conn.close();
                    Ok(())
                })
                .on_disconnect(journal.on_disconnect())
                .dispatch(dispatch),
            Toys::default(),
        );
        let mut client = ToyClient::connect(address);
        client.send(b"all of it").expect("sent");
        assert!(client.rest().expect("an end in order") == noise(1, MUCH));
        assert_eq!(client.socket.read(&mut [0]).expect("a FIN"), 0);
        assert_eq!(journal.wait(1), ["Local"], "{dispatch:?}");
    }
}

/// A close at once that loses nothing, such as that of an idle timeout, is said, too.
#[test]
fn a_connection_that_is_idle_for_too_long_is_told_of_its_end() {
    let journal = Journal::default();
    let builder = EventLoop::builder()
        .on_request(|(): &mut (), conn: &mut Connection| echo_once(conn))
        .on_disconnect(journal.on_disconnect())
        .idle_timeout(std::time::Duration::from_millis(700));
    let (_serving, address) = serve(builder, Toys::default());
    let mut client = ToyClient::connect(address);
    client.echo(b"hello");
    assert!(client.rest().expect("an end in order").is_empty());
    assert_eq!(journal.wait(1), ["Timeout"]);
}

/// A FIN alone may be forged: what came whole is delivered, and then that it is not all.
#[test]
fn a_stream_that_ends_without_saying_so_is_truncated() {
    for dispatch in modes() {
        for half_open in [false, true] {
            let (journal, (told, reads)) = (Journal::default(), mpsc::channel());
            let (_serving, address) = serve(
                EventLoop::builder()
                    .on_request(move |(): &mut (), conn: &mut Connection| {
                        let len = conn.reader().len();
                        let heard = conn.reader().read_bytes(len)?;
                        let end = conn.reader().try_read_byte().map_err(|it| it.kind());
                        let _ = told.send((heard, end));
                        Ok(())
                    })
                    .on_disconnect(journal.on_disconnect())
                    .half_open(half_open)
                    .dispatch(dispatch),
                Toys::default(),
            );
            let mut client = ToyClient::connect(address);
            client.send(b"a whole record").expect("sent");
            let cut = client.toy.record(crate::toy::DATA, b"and one that is cut off");
            client.socket.write_all(&cut[..12]).expect("sent");
            client.socket.shutdown(Shutdown::Write).expect("a FIN");
            let mut heard = Vec::new();
            let mut end = Ok(0);
            while end.is_ok() || end == Err(ErrorKind::WouldBlock) {
                let (some, how) = next(&reads);
                heard.extend_from_slice(&some);
                end = how;
                if !half_open {
                    break;
                }
            }
            assert_eq!(heard, b"a whole record", "{dispatch:?}");
            if half_open {
                assert_eq!(end, Err(ErrorKind::UnexpectedEof), "{dispatch:?}");
            }
            assert_eq!(journal.wait(1), ["Truncated"], "{dispatch:?}");
        }
    }
}

#[test]
fn after_the_peers_end_we_may_still_send() {
    for dispatch in modes() {
        let (builder, handles) = handing_out();
        let journal = Journal::default();
        let (_serving, address) = serve(
            builder
                .on_request(|(): &mut (), conn: &mut Connection| echo_once(conn))
                .on_disconnect(journal.on_disconnect())
                .half_open(true)
                .dispatch(dispatch),
            Toys::default(),
        );
        let mut client = ToyClient::connect(address);
        let handle = next(&handles);
        client.send(b"the last of ours").expect("sent");
        client.finish().expect("an end");
        client.hear(16).expect("an echo");
        crate::util::eventually("the end is seen", || !handle.is_active());
        handle.send(noise(4, 100_000)).expect("our stream is open");
        assert!(client.hear(100_000).expect("it is sent") == noise(4, 100_000));
        handle.close();
        assert!(client.rest().expect("an end in order").is_empty());
        assert_eq!(journal.wait(1), ["Local"], "{dispatch:?}");
    }
}

#[test]
fn an_abort_is_a_reset_and_says_nothing() {
    for dispatch in modes() {
        let (builder, handles) = handing_out();
        let (_serving, address) = serve(
            builder.on_request(|(): &mut (), _: &mut Connection| Ok(())).dispatch(dispatch),
            Toys::default(),
        );
        let mut client = ToyClient::connect(address);
        next(&handles).abort();
        let error = client.rest().expect_err("no end in order");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{dispatch:?}");
    }
}

/// The alert arrives, though the peer has sent more than was read.
#[test]
fn an_error_of_the_filter_sends_its_alert_and_is_the_reason() {
    for dispatch in modes() {
        let (journal, (builder, handles)) = (Journal::default(), handing_out());
        let seen = journal.clone();
        let (_serving, address) = serve(
            builder
                .on_request(|(): &mut (), conn: &mut Connection| echo_once(conn))
                .on_disconnect(move |(): (), reason: &netpoll::CloseReason| {
                    seen.add(reason.to_string());
                })
                .dispatch(dispatch),
            Toys::default(),
        );
        let mut client = ToyClient::connect(address);
        let handle = next(&handles);
        client.send(b"whole").expect("sent");
        client.hear(5).expect("an echo");
        let mut changed = client.toy.record(crate::toy::DATA, b"and a record that is changed");
        changed[20] ^= 1;
        changed.resize(100_000, 0);
        client.socket.write_all(&changed).expect("sent");
        let mut heard = Vec::new();
        client.socket.read_to_end(&mut heard).expect("a FIN, no reset");
        assert_eq!(heard[0], ALERT, "{dispatch:?}: {heard:?}");
        assert_eq!(journal.wait(1), ["record 4 was changed on its way"], "{dispatch:?}");
        assert!(handle.send(b"more".as_slice()).is_err());
    }
}
