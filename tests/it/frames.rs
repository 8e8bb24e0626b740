//! Servers on frames: `on_frame`, whatever way the bytes arrive, end, or are not read.

use std::io::Write;
use std::thread;

use netpoll::codec::{
    Decode, Encode, EncodeError, Extent, Frame, FrameError, LengthPrefix, Lines, read_frame,
};
use netpoll::{
    CloseReason, Connection, Dispatch, Error, EventLoop, EventLoopBuilder, Framed, FromRead,
    LinkBuffer, Out, on_frame,
};

use crate::util::{Client, Journal, Server, modes};

/// The longest payload that the servers here let pass.
const LONGEST: usize = 100_000;

type Session = Framed<LengthPrefix, usize>;

fn prefix() -> LengthPrefix {
    LengthPrefix::new(4, LONGEST).expect("it can be")
}

/// Answers each frame with what it holds; the session counts them.
fn answering(dispatch: Dispatch, journal: &Journal) -> EventLoopBuilder<Session> {
    let journal = journal.clone();
    EventLoop::builder()
        .on_prepare(|_: &Connection| Ok(Framed::new(0_usize)))
        .on_request(on_frame(
            prefix(),
            |count: &mut usize, frame: Frame<'_>, out: &mut Out<'_, _>| {
                *count += 1;
                out.send(frame.bytes())
            },
        ))
        .on_disconnect(move |session: Session, why: &CloseReason| {
            journal.add(format!("{} frames, then {}", *session, told(why)));
        })
        .dispatch(dispatch)
}

/// The reason, and the fault in it if there is one.
fn told(why: &CloseReason) -> String {
    if let CloseReason::Callback(Error::Io(error)) = why
        && let Some(fault) = error.get_ref().and_then(|inner| inner.downcast_ref::<FrameError>())
    {
        return format!("{fault:?}");
    }
    format!("{why:?}")
}

/// Frames with these payloads.
fn framed<'a>(payloads: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut stream = Vec::new();
    for payload in payloads {
        stream.extend(u32::try_from(payload.len()).expect("short").to_be_bytes());
        stream.extend(payload);
    }
    stream
}

#[test]
fn frames_that_arrive_together_are_all_answered() {
    for dispatch in modes() {
        let journal = Journal::default();
        let server = Server::start(answering(dispatch, &journal));
        let stream = framed([&b"one"[..], b"", b"three"].repeat(1000));
        let mut client = server.connect();
        client.echo(&stream);
        drop(client);
        assert_eq!(journal.wait(1), ["3000 frames, then Peer"]);
        server.stop();
    }
}

#[test]
fn frames_that_arrive_byte_by_byte_are_answered_one_by_one() {
    for dispatch in modes() {
        let server = Server::start(answering(dispatch, &Journal::default()));
        let mut client = server.connect();
        for payload in [&b"a"[..], b"", b"abc"] {
            let frame = framed([payload]);
            for byte in &frame {
                client.say(&[*byte]);
            }
            client.hear(&frame);
        }
    }
}

#[test]
fn each_connection_has_a_codec_of_its_own() {
    for dispatch in modes() {
        let server = Server::start(answering(dispatch, &Journal::default()));
        let (frame, other) = (framed([&b"abcdef"[..]]), framed([&b"uvwxyz"[..]]));
        let mut clients = [(server.connect(), &frame), (server.connect(), &other)];
        for part in [0..3, 3..7, 7..10] {
            for (client, frame) in &mut clients {
                client.say(&frame[part.clone()]);
            }
        }
        for (client, frame) in &mut clients {
            client.hear(frame);
        }
    }
}

#[test]
fn a_frame_that_is_too_long_closes_after_what_came_before_is_answered() {
    for dispatch in modes() {
        let journal = Journal::default();
        let server = Server::start(answering(dispatch, &journal));
        let mut client = server.connect();
        let good = framed([&b"good"[..]]);
        client.say(&[&good[..], &u32::MAX.to_be_bytes()].concat());
        assert_eq!(client.rest(), good);
        let length = Some(u32::MAX.into());
        let fault = FrameError::FrameTooLong { position: 8, length, max: LONGEST };
        assert_eq!(journal.wait(1), [format!("1 frames, then {fault:?}")]);
    }
}

#[test]
fn an_end_inside_a_frame_is_told_and_one_between_frames_is_in_order() {
    for dispatch in modes() {
        let journal = Journal::default();
        let server = Server::start(answering(dispatch, &journal));
        let good = framed([&b"good"[..]]);
        let mut client = server.connect();
        client.say(&[&good[..], b"\0\0\0\x09half"].concat());
        client.half_close();
        assert_eq!(client.rest(), good);
        let fault = FrameError::TruncatedFrame { position: 8, received: 8 };
        assert_eq!(journal.wait(1), [format!("1 frames, then {fault:?}")]);
        let mut client = server.connect();
        client.say(&good);
        client.half_close();
        assert_eq!(client.rest(), good);
        assert_eq!(journal.wait(2)[1], "1 frames, then Peer");
    }
}

/// Else the connection would wait for ever: nothing more is received, and nothing can be decoded.
#[test]
fn a_frame_beyond_the_input_limit_closes() {
    for dispatch in modes() {
        let journal = Journal::default();
        let server = Server::start(answering(dispatch, &journal).input_limit(50));
        let mut client = server.connect();
        let good = framed([&[b'x'; 46][..]]);
        client.echo(&good);
        client.say(&framed([&[b'x'; 47][..]])[..50]);
        assert_eq!(client.rest(), b"");
        let [entry] = &journal.wait(1)[..] else { panic!("one entry") };
        let limit = "1 frames, then Limit(Input)";
        assert_eq!(entry, limit);
    }
}

/// 8 MiB of answers, of which the queue holds 32 KiB: none is lost while it is full.
#[test]
fn frames_wait_for_a_peer_that_reads_slowly() {
    for dispatch in modes() {
        let journal = Journal::default();
        let builder = answering(dispatch, &journal).output_limits(1 << 10, 32 << 10);
        let server = Server::start(builder);
        let mut client = server.connect();
        let payload = vec![b'x'; 1000];
        let stream = framed((0..8000).map(|_| &payload[..]));
        let mut sender = client.try_clone().expect("a descriptor");
        let sent = stream.clone();
        let sending = thread::spawn(move || {
            sender.write_all(&sent).expect("the server reads as it is read");
            sender.half_close();
        });
        assert_eq!(client.rest(), stream);
        sending.join().expect("everything was sent");
        assert_eq!(journal.wait(1), ["8000 frames, then Peer"]);
    }
}

/// One small frame asks for a lot: the others wait in the buffer, where no event tells of them.
#[test]
fn frames_that_are_buffered_are_decoded_once_the_peer_has_read() {
    for dispatch in modes() {
        let server = Server::start(
            EventLoop::builder()
                .on_prepare(|_: &Connection| Ok(Framed::new(())))
                .on_request(on_frame(
                    prefix(),
                    |(): &mut (), frame: Frame<'_>, out: &mut Out<'_, LengthPrefix>| {
                        let byte = frame.bytes()[0];
                        out.send_buffer(LinkBuffer::from(vec![byte; LONGEST]))
                    },
                ))
                .output_limits(1 << 10, 32 << 10)
                .dispatch(dispatch),
        );
        let mut client = server.connect();
        let asked: Vec<[u8; 1]> = (0..100).map(|byte| [byte]).collect();
        client.say(&framed(asked.iter().map(|payload| &payload[..])));
        for byte in 0..100 {
            client.hear(&framed([&vec![byte; LONGEST][..]]));
        }
    }
}

#[test]
fn a_callback_may_close_behind_its_answer() {
    for dispatch in modes() {
        let journal = Journal::default();
        let entered = journal.clone();
        let lines = Lines::new(80).expect("it can be");
        let server = Server::start(
            EventLoop::builder()
                .on_prepare(|_: &Connection| Ok(Framed::new(())))
                .on_request(on_frame(
                    lines,
                    move |(): &mut (), line: Frame<'_>, out: &mut Out<'_, Lines>| {
                        let line = line.bytes();
                        entered.add(String::from_utf8_lossy(line));
                        if line == b"quit" {
                            out.send(b"bye")?;
                            out.close();
                        }
                        Ok(())
                    },
                ))
                .on_disconnect(journal.on_disconnect())
                .dispatch(dispatch),
        );
        let mut client = server.connect();
        client.say(b"hello\r\nquit\r\nnobody hears this\r\n");
        assert_eq!(client.rest(), b"bye\n");
        assert_eq!(journal.wait(3), ["hello", "quit", "Local"]);
    }
}

#[test]
fn an_answer_that_can_not_be_a_frame_closes_with_that_reason() {
    for dispatch in modes() {
        let journal = Journal::default();
        let server = Server::start(answering(dispatch, &journal).on_request(on_frame(
            prefix(),
            |_: &mut usize, frame: Frame<'_>, out: &mut Out<'_, LengthPrefix>| {
                out.send(&frame.bytes().repeat(LONGEST))
            },
        )));
        let mut client = server.connect();
        client.say(&framed([&b"ab"[..]]));
        assert_eq!(client.rest(), b"");
        let [entry] = &journal.wait(1)[..] else { panic!("one entry") };
        assert!(entry.contains("a payload of 200000 bytes is longer"), "{entry}");
    }
}

#[test]
fn a_client_waits_for_frames_with_the_same_codec() {
    let server = Server::start(answering(Dispatch::Inline, &Journal::default()));
    let mut client = server.connect();
    client.say(&framed([&b"one"[..], b"two"]));
    client.half_close();
    let (mut source, mut codec) = (FromRead::new(client), prefix());
    for expected in [b"one", b"two"] {
        let frame = read_frame(&mut codec, &mut source).expect("in order").expect("a frame");
        assert_eq!(frame.bytes(), expected);
    }
    assert!(read_frame(&mut codec, &mut source).expect("in order").is_none());
}

/// A decoder that finds a frame of no byte in front of everything.
#[derive(Clone)]
struct Empty;

impl Decode for Empty {
    fn find(&mut self, _: &mut LinkBuffer) -> Result<Option<Extent>, FrameError> {
        Ok(Some(Extent { header: 0, payload: 0, trailer: 0 }))
    }

    fn finish(&mut self, _: &LinkBuffer) -> Result<(), FrameError> {
        Ok(())
    }
}

impl Encode for Empty {
    fn encode(&mut self, _: &[u8], _: &mut LinkBuffer) -> Result<(), EncodeError> {
        Ok(())
    }
}

#[test]
fn a_decoder_that_takes_nothing_ends_the_connection_and_spins_no_loop() {
    for dispatch in modes() {
        let journal = Journal::default();
        let server = Server::start(
            EventLoop::builder()
                .on_prepare(|_: &Connection| Ok(Framed::new(())))
                .on_request(on_frame(Empty, |(): &mut (), _: Frame<'_>, _: &mut Out<'_, _>| Ok(())))
                .on_disconnect(journal.on_disconnect())
                .dispatch(dispatch),
        );
        let mut client = server.connect();
        client.say(b"x");
        assert_eq!(client.rest(), b"");
        assert_eq!(journal.wait(1), ["Panic"]);
        server.stop();
    }
}
