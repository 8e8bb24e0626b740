//! A client of HTTP/2 that sends and receives frames by hand.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use netpoll_server::Running;

use crate::util::SOON;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) fn ends_stream(&self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0
    }
}

pub(crate) struct Client {
    pub(crate) socket: TcpStream,
    next: u32,
}

impl Client {
    pub(crate) fn of(server: &Running) -> Self {
        let mut socket = TcpStream::connect(server.address().to_string()).expect("it listens");
        socket.set_read_timeout(Some(SOON)).expect("a valid time");
        socket.set_nodelay(true).expect("an option");
        socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").expect("the server takes it");
        let mut client = Self { socket, next: 1 };
        client.send(&frame(SETTINGS, 0, 0, &[]));
        client
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).expect("the server takes it");
    }

    /// Begins a GET, and returns its stream.
    pub(crate) fn get(&mut self, path: &str) -> u32 {
        let (stream, bytes) = self.request(path);
        self.send(&bytes);
        stream
    }

    pub(crate) fn request(&mut self, path: &str) -> (u32, Vec<u8>) {
        let stream = self.next;
        self.next += 2;
        // `:method: GET`, `:scheme: http`, and two literals that no table keeps.
        let mut block = vec![0x82, 0x86, 0x01, 1, b'a', 0x04];
        block.push(u8::try_from(path.len()).expect("a short path"));
        block.extend_from_slice(path.as_bytes());
        (stream, frame(HEADERS, END_STREAM | END_HEADERS, stream, &block))
    }

    /// The next frame that is no acknowledgement and no window; `None` at the end.
    pub(crate) fn next(&mut self) -> Option<Frame> {
        loop {
            let frame = self.any()?;
            match (frame.kind, frame.flags) {
                (SETTINGS, 0) => {
                    let _ = self.socket.write_all(&self::frame(SETTINGS, ACK, 0, &[]));
                }
                (SETTINGS | 8, _) => {}
                (6, 0) => {
                    let _ = self.socket.write_all(&self::frame(6, ACK, 0, &frame.payload));
                }
                _ => return Some(frame),
            }
        }
    }

    fn any(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        match self.socket.read_exact(&mut head) {
            Ok(()) => {}
            Err(error) => {
                assert_ne!(error.kind(), ErrorKind::WouldBlock, "nothing has come");
                return None;
            }
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let mut payload = vec![0; length as usize];
        self.socket.read_exact(&mut payload).ok()?;
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// The bodies of these streams.
    pub(crate) fn bodies(&mut self, streams: &[u32]) -> BTreeMap<u32, String> {
        let mut bodies: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
        let mut open = streams.len();
        while open > 0 {
            let frame = self.next().expect("the connection lives");
            assert!(matches!(frame.kind, DATA | HEADERS), "{frame:?}");
            assert!(streams.contains(&frame.stream), "{frame:?}");
            let body = bodies.entry(frame.stream).or_default();
            open -= usize::from(frame.ends_stream());
            if frame.kind == DATA {
                body.extend(frame.payload);
            }
        }
        let text = |(stream, body)| (stream, String::from_utf8(body).expect("text"));
        bodies.into_iter().map(text).collect()
    }
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short payload").to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

pub(crate) fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())
}
