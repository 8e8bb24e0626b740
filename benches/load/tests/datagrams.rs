//! The modes of datagrams, against servers of a few lines, right ones and wrong ones.

use std::net::{SocketAddr, UdpSocket};
use std::process::{Command, Output};
use std::thread;

/// Gives each datagram, and how many there were before it, to `answer`.
fn serve(
    mut answer: impl FnMut(&UdpSocket, u64, &[u8], SocketAddr) + Send + 'static,
) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let address = socket.local_addr().expect("it is bound");
    thread::spawn(move || {
        let (mut buffer, mut count) = (vec![0; 1 << 16], 0);
        // A sender that has ended refuses what is sent to it, and the socket goes on.
        loop {
            if let Ok((length, peer)) = socket.recv_from(&mut buffer) {
                answer(&socket, count, &buffer[..length], peer);
                count += 1;
            }
        }
    });
    address
}

fn echo() -> SocketAddr {
    serve(|socket, _, datagram, peer| drop(socket.send_to(datagram, peer)))
}

/// Counts datagrams, and says that there were so many more.
fn sink(more: u64) -> SocketAddr {
    let (mut datagrams, mut bytes) = (more, 0);
    serve(move |socket, _, datagram, peer| {
        if datagram == b"count?" {
            let answer = [datagrams.to_be_bytes(), bytes_of(bytes)].concat();
            datagrams += more;
            let _ = socket.send_to(&answer, peer);
        } else {
            datagrams += 1;
            bytes += datagram.len();
        }
    })
}

fn bytes_of(bytes: usize) -> [u8; 8] {
    (bytes as u64).to_be_bytes()
}

fn load(address: SocketAddr, options: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_load"));
    let options = options.split_whitespace();
    let common = ["--warmup", "0", "--json"];
    command.arg(address.to_string()).args(options).args(common).output().expect("it runs")
}

/// Loads for longer and longer until something was answered: the tests' machine may be busy.
fn load_until_answered(server: impl Fn() -> SocketAddr, options: &str) -> Output {
    let mut seconds = [0.5, 1.0, 4.0, 16.0].iter();
    loop {
        let next = seconds.next().expect("an answer, within the last of the times");
        let output = load(server(), &format!("{options} --seconds {next}"));
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
fn every_datagram_comes_back() {
    for options in ["", "--depth 16 --size 1200", "--depth 64 --gso --threads 2"] {
        let output = load_until_answered(echo, &format!("--mode udp --connections 4 {options}"));
        assert!(number(&output, "requests") > 0.0, "{options}");
        assert!(number(&output, "reordered") < 1.0, "{options}");
    }
}

#[test]
fn what_is_dropped_is_lost_and_the_flow_goes_on() {
    let forgetful = serve(|socket, count, datagram, peer| {
        if count % 100 != 7 {
            let _ = socket.send_to(datagram, peer);
        }
    });
    let output = load(forgetful, "--mode udp --connections 1 --seconds 4");
    assert!(number(&output, "lost") > 0.0);
    assert!(number(&output, "requests") > 90.0, "the first 100 and more");
}

#[test]
fn a_datagram_that_overtakes_another_is_counted() {
    let mut kept = Vec::new();
    let swapping = serve(move |socket, count, datagram, peer| {
        let first = count % 2 == 0;
        if first {
            kept = datagram.to_vec();
        } else {
            let _ = socket.send_to(datagram, peer).and(socket.send_to(&kept, peer));
        }
    });
    let output = load(swapping, "--mode udp --connections 1 --depth 2 --seconds 0.5");
    assert!(number(&output, "reordered") > 0.0);
}

#[test]
fn a_changed_a_cut_and_a_doubled_datagram_are_errors() {
    type Spoil = fn(&UdpSocket, u64, &[u8], SocketAddr);
    let wrong: [(Spoil, &str); 4] = [
        (
            |socket, _, datagram, peer| {
                let mut changed = datagram.to_vec();
                changed[40] ^= 1;
                let _ = socket.send_to(&changed, peer);
            },
            "was sent as",
        ),
        (
            |socket, _, datagram, peer| drop(socket.send_to(&datagram[..60], peer)),
            "60 bytes came back of a datagram of 64",
        ),
        (
            |socket, _, datagram, peer| {
                let _ = socket.send_to(datagram, peer).and(socket.send_to(datagram, peer));
            },
            "came back unasked",
        ),
        (|socket, _, _, peer| drop(socket.send_to(&[], peer)), "an empty datagram came back"),
    ];
    for (answer, part) in wrong {
        let output = load(serve(answer), "--mode udp --connections 1 --seconds 1");
        let report = text(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{report}");
        assert!(report.contains(part), "{report}");
    }
}

#[test]
fn a_flood_is_counted_by_the_server() {
    for options in ["--size 64", "--gso", "--gso --connections 3"] {
        let output = load_until_answered(|| sink(0), &format!("--mode udp-flood {options}"));
        let [sent, lost, counted] = ["sent", "lost", "requests"].map(|key| number(&output, key));
        assert!(counted > 0.0, "{options}");
        assert!((sent - lost - counted).abs() < 0.5, "{options}: {sent} - {lost} != {counted}");
    }
}

#[test]
fn a_flood_that_is_miscounted_is_an_error() {
    let output = load_until_answered(|| sink(1), "--mode udp-flood --connections 1");
    let report = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{report}");
    assert!(report.contains("the server counted "), "{report}");
}

#[test]
fn a_server_that_is_not_there_is_a_failure() {
    let unused = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for mode in ["udp", "udp-flood"] {
        let output = load(unused, &format!("--mode {mode} --connections 1 --seconds 0.2"));
        let words = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{words}");
        assert!(words.contains("Connection refused"), "{words}");
    }
}
