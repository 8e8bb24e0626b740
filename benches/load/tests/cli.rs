//! The program as it is used: against servers of a few lines, right ones and wrong ones.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Serves each connection on a thread of its own. `alter` gets the bytes to send back, and where in
/// the connection's stream they begin.
fn serve(alter: fn(u64, &mut [u8])) -> SocketAddr {
    serve_each(move |stream| converse(stream, alter))
}

fn serve_each(converse: impl Fn(TcpStream) + Clone + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    thread::spawn(move || {
        for peer in listener.incoming().flatten() {
            let converse = converse.clone();
            thread::spawn(move || converse(peer));
        }
    });
    address
}

fn converse(mut stream: TcpStream, alter: fn(u64, &mut [u8])) {
    let (mut position, mut buffer) = (0, vec![0; 16 << 10]);
    // The load generator closes whenever it likes, in the middle of a message too.
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        alter(position, &mut buffer[..length]);
        position += length as u64;
        if stream.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}

/// Counts uploads, and says that there was so much more.
fn sink(more: u64) -> SocketAddr {
    serve_each(move |mut stream| {
        let (mut count, mut buffer) = (0, vec![0; 16 << 10]);
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            count += length as u64;
        }
        let _ = stream.write_all(&(count + more).to_be_bytes());
    })
}

/// Sends downloads, the second piece of which is `alter`ed.
fn source(alter: fn(&mut [u8])) -> SocketAddr {
    serve_each(move |mut stream| {
        let mut size = [0; 4];
        stream.read_exact(&mut size).expect("the size of a piece");
        let mut piece: Vec<u8> = (0..u32::from_be_bytes(size)).map(|i| (i % 251) as u8).collect();
        for altered in [false, true] {
            if altered {
                alter(&mut piece);
            }
            let _ = stream.write_all(&piece);
        }
        while stream.write_all(&piece).is_ok() {}
    })
}

fn echo() -> SocketAddr {
    serve(|_, _| ())
}

fn load(address: SocketAddr, options: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_load"));
    command.arg(address.to_string()).args(options.split_whitespace()).output().expect("it runs")
}

/// Loads for longer and longer until something was answered: the tests' machine may be busy.
fn load_until_answered(address: SocketAddr, options: &str) -> Output {
    let mut seconds = [0.3, 1.0, 4.0, 16.0].iter();
    loop {
        let next = seconds.next().expect("an answer, within the last of the times");
        let output = load(address, &format!("{options} --warmup 0 --seconds {next}"));
        if !text(&output.stderr).contains("nothing was answered") {
            return output;
        }
    }
}

/// The number behind `"key": ` in a report that must be a good one.
#[track_caller]
fn number(output: &Output, key: &str) -> f64 {
    let text = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{text}{}", self::text(&output.stderr));
    let (_, behind) = text.split_once(&format!("\"{key}\": ")).expect("the key is there");
    let end = behind.find([',', '}']).expect("the object ends");
    behind[..end].parse().expect("a number")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn every_busy_mode_gets_its_bytes_back() {
    for mode in ["echo --depth 16 --threads 2", "rpc --size 5000 --depth 3", "churn", "stream"] {
        let options = format!("--mode {mode} --connections 4 --json");
        let output = load_until_answered(echo(), &options);
        assert!(number(&output, "requests") > 0.0, "{mode}");
        assert!(number(&output, "bytes") > 0.0, "{mode}");
    }
}

#[test]
fn an_idle_run_holds_its_connections() {
    let pid = std::process::id();
    let options = format!("--mode idle --connections 50 --seconds 0.2 --json --server-pid {pid}");
    let output = load(echo(), &options);
    assert_eq!(number(&output, "requests").to_bits(), 50_f64.to_bits());
    assert!(number(&output, "rss_each_silent") > 100.0, "each of them has a thread");
}

#[test]
fn the_server_is_measured() {
    let options = format!("--json --server-pid {}", std::process::id());
    let output = load_until_answered(echo(), &options);
    assert!(number(&output, "cpu_seconds_per_million") > 0.0);
}

#[test]
fn a_changed_byte_is_reported_with_its_position() {
    let corrupt = serve(|position, bytes| {
        let index = usize::try_from(1000_u64.wrapping_sub(position));
        if let Some(byte) = index.ok().and_then(|index| bytes.get_mut(index)) {
            *byte ^= 0x20;
        }
    });
    for options in ["--connections 1", "--mode stream --connections 2", "--rate 9000"] {
        let output = load(corrupt, options);
        let report = text(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{report}");
        assert!(report.contains(": byte 1000 of its stream, in message "), "{report}");
    }
}

/// The server stops for 0.4 s, once. A closed loop stops with it and sees one slow answer; in an
/// open loop everything waited that was due meanwhile, and the latencies say so.
#[test]
fn an_open_loop_omits_nothing() {
    let stalling = || {
        serve(|position, _| {
            if position == 0 {
                thread::sleep(Duration::from_millis(400)); // sleep: the server that is measured
            }
        })
    };
    let options = "--connections 1 --seconds 1 --warmup 0 --json";
    assert!(number(&load(stalling(), options), "p50") < 1e8);
    assert!(number(&load(stalling(), &format!("{options} --rate 500")), "p90") > 2e8);
}

/// A run that is late because the server is slow has one message per connection, too.
#[test]
fn churn_connects_for_each_message() {
    let once = serve(|position, bytes| {
        let second = 64_usize.saturating_sub(usize::try_from(position).unwrap());
        bytes.iter_mut().skip(second).for_each(|byte| *byte = !*byte);
        thread::sleep(Duration::from_millis(5)); // sleep: the server that is measured
    });
    for options in ["--mode churn --json", "--mode churn --connections 1 --rate 2000 --json"] {
        assert!(number(&load_until_answered(once, options), "requests") > 0.0);
    }
}

/// With `--per` a connection has as many messages, and the next one goes on.
#[test]
fn churn_sends_as_many_as_it_is_told() {
    let thrice = serve(|position, bytes| {
        let fourth = 192_usize.saturating_sub(usize::try_from(position).unwrap());
        bytes.iter_mut().skip(fourth).for_each(|byte| *byte = !*byte);
    });
    let options = "--mode churn --connections 2 --json";
    assert!(number(&load_until_answered(thrice, &format!("{options} --per 3")), "requests") > 3.0);
    let more = format!("{options} --per 4 --seconds 0.3 --warmup 0");
    assert_eq!(load(thrice, &more).status.code(), Some(1));
}

#[test]
fn silent_connections_say_nothing() {
    let (speakers, seen) = mpsc::channel();
    let address = serve_each(move |mut stream| {
        let mut buffer = [0; 1 << 10];
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            let _ = speakers.send(u32::from_le_bytes(buffer[..4].try_into().unwrap()));
            let _ = stream.write_all(&buffer[..length]);
        }
    });
    load_until_answered(address, "--connections 6 --every 3");
    let spoke: BTreeSet<u32> = seen.try_iter().collect();
    assert!(spoke.iter().all(|id| id.is_multiple_of(3)), "{spoke:?}");
    assert!(!spoke.is_empty());
}

/// Unmasks frames of 64 bytes, which is to take the zeros of the mask away.
fn frames(agree: &'static str) -> SocketAddr {
    serve_each(move |mut stream| {
        let mut byte = [0];
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).is_ok() {
            head.push(byte[0]);
        }
        let _ = stream.write_all(agree.as_bytes());
        let mut frame = [0; 70];
        while stream.read_exact(&mut frame).is_ok() {
            assert_eq!(frame[..6], [0x82, 0xc0, 0, 0, 0, 0]);
            let _ = stream.write_all(&[&[0x82, 64], &frame[6..]].concat());
        }
    })
}

#[test]
fn frames_come_back_behind_a_handshake() {
    let server =
        frames("HTTP/1.1 101 x\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n");
    let options = "--mode websocket --connections 3 --depth 4 --json";
    assert!(number(&load_until_answered(server, options), "requests") > 0.0);
    let output = load(frames("HTTP/1.1 404 gone\r\n\r\n"), options);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("no WebSocket, but `HTTP/1.1 404 gone`"));
}

#[test]
fn bytes_in_one_direction_are_counted_and_compared() {
    for options in ["--size 1000 --connections 3 --threads 2 --json", "--size 300000 --json"] {
        for (mode, server) in [("up", sink(0)), ("down", source(|_| ()))] {
            let output = load_until_answered(server, &format!("{options} --mode {mode}"));
            assert!(number(&output, "requests") > 0.0, "{mode}");
            assert!(number(&output, "bytes") > 0.0, "{mode}");
        }
    }
}

#[test]
fn an_upload_that_is_miscounted_is_reported() {
    let output = load(sink(1), "--mode up --connections 1 --seconds 0.2 --warmup 0");
    let report = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{report}");
    assert!(report.contains(": the server counted "), "{report}");
}

#[test]
fn a_changed_byte_of_a_download_is_reported() {
    let wrong = source(|piece| piece[500] = 77);
    let options = "--mode down --size 1000 --connections 1 --seconds 0.2 --warmup 0";
    let output = load(wrong, options);
    let report = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{report}");
    assert!(report.contains(": byte 1500 came as 0x4d and is 0xf9"), "{report}");
}

#[test]
fn a_server_that_talks_into_an_upload_or_ends_it_fails() {
    let output = load(echo(), "--mode up --connections 1 --warmup 0");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("the server answered before the end"));
    // It ends its stream in order: with a request unread, a close would be a reset.
    let ends = serve_each(|mut stream| {
        let _ =
            stream.shutdown(Shutdown::Write).and_then(|()| io::copy(&mut stream, &mut io::sink()));
    });
    let output = load(ends, "--mode down --connections 1 --warmup 0");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("closed by the server"));
}

/// A server that answers nothing gives nothing to compare.
#[test]
fn silence_is_a_failure() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let output = load(silent.local_addr().unwrap(), "--connections 2 --warmup 0 --seconds 0.2");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("nothing was answered"));
    assert!(text(&output.stdout).contains("unanswered  2 at the end"));
}

#[test]
fn arguments_that_make_no_sense_are_explained() {
    let output = load(echo(), "--depth 0");
    let complaint = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(complaint.starts_with("load: --depth is a number from 1 to 4096, not `0`.\n"));
    assert!(complaint.contains("usage: load ADDRESS"), "{complaint}");
}

#[test]
fn a_server_that_is_not_there_is_a_failure() {
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for options in ["", "--mode churn", "--mode idle"] {
        let output = load(unused, options);
        let words = text(&output.stdout) + &text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{words}");
        assert!(words.contains("Connection refused"), "{words}");
    }
}
