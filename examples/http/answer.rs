//! Answers: their heads, and which request gets which.

use std::cell::Cell;
use std::fs::File;
use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use netpoll::LinkBuffer;

use crate::files::{Files, Found};
use crate::request::{Parsed, Request, parse};

/// A status, and the field that it requires.
const NOT_ALLOWED: &str = "405 Method Not Allowed\r\nAllow: GET, HEAD";

/// What `answer` did with the input.
#[derive(Default)]
pub(crate) struct Answered {
    /// The bytes that were answered; those behind them are the start of a request.
    pub(crate) used: usize,
    /// Sent behind the answers that were written: so many bytes of this file.
    pub(crate) file: Option<(File, u64)>,
    /// No further request is answered.
    pub(crate) last: bool,
}

/// Answers the requests in `input`, one after the other, up to one for a file.
pub(crate) fn all(input: &[u8], files: &Files, out: &mut LinkBuffer) -> Answered {
    let mut done = Answered::default();
    let mut answers = Answers { date: date(), out };
    while !done.last && done.file.is_none() {
        match parse(&input[done.used..]) {
            Parsed::Whole(request, length) => {
                done.used += length;
                done.last = !request.keep_alive;
                done.file = answers.answer(&request, files);
            }
            Parsed::Part => break,
            Parsed::Refused(status) => {
                done.last = true;
                answers.text(status, "", &Request::REFUSED);
            }
        }
    }
    done
}

struct Answers<'a> {
    date: Date,
    out: &'a mut LinkBuffer,
}

impl Answers<'_> {
    /// Writes the answer, except for the file, which it returns.
    fn answer(&mut self, request: &Request<'_>, files: &Files) -> Option<(File, u64)> {
        match (request.method, request.path) {
            ("GET" | "HEAD", "/plaintext") => self.text("200 OK", "Hello, World!", request),
            ("GET" | "HEAD", path) => match files.open(path) {
                Ok(Found { file, length, kind }) => {
                    self.head("200 OK", kind, length, request);
                    return (request.method == "GET").then_some((file, length));
                }
                Err(status) => self.text(status, status, request),
            },
            _ => self.text(NOT_ALLOWED, "", request),
        }
        None
    }

    fn text(&mut self, status: &str, body: &str, request: &Request<'_>) {
        self.head(status, "text/plain", body.len() as u64, request);
        if request.method != "HEAD" {
            self.out.write_string(body);
        }
    }

    fn head(&mut self, status: &str, kind: &str, length: u64, request: &Request<'_>) {
        let connection = match (request.keep_alive, request.old) {
            (false, _) => "\r\nConnection: close",
            (true, true) => "\r\nConnection: keep-alive",
            (true, false) => "",
        };
        let mut digits = [0; 20]; // enough for every length
        let mut unwritten = &mut digits[..];
        let _ = write!(unwritten, "{length}");
        let free = unwritten.len();
        for piece in [
            b"HTTP/1.1 ",
            status.as_bytes(),
            b"\r\nServer: netpoll\r\nDate: ",
            &self.date,
            b"\r\nContent-Type: ",
            kind.as_bytes(),
            b"\r\nContent-Length: ",
            &digits[..digits.len() - free],
            connection.as_bytes(),
            b"\r\n\r\n",
        ] {
            self.out.write_bytes(piece);
        }
    }
}

/// The time of day as HTTP writes it.
type Date = [u8; 29];

/// Now. Written anew only when the second is another one.
fn date() -> Date {
    thread_local!(static LAST: Cell<(u64, Date)> = const { Cell::new((0, [0; 29])) });
    let now = SystemTime::now();
    let second = now.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let (written, mut date) = LAST.get();
    if written != second {
        // 29 bytes, until the year 9999.
        let _ = write!(&mut date[..], "{}", httpdate::HttpDate::from(now));
        LAST.set((second, date));
    }
    date
}
