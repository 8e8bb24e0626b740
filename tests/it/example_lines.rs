//! The parsers of the examples `statsd` and `syslog`.

#[path = "../../examples/statsd/line.rs"]
mod line;
#[path = "../../examples/syslog/message.rs"]
mod message;
#[path = "../../examples/statsd/metrics.rs"]
mod metrics;

use line::{Value, parse};
use message::Message;
use metrics::Metrics;
use proptest::prelude::*;

#[test]
fn a_line_of_statsd_has_a_name_a_value_and_a_type() {
    for (line, name, value) in [
        ("a.b:1|c", "a.b", Value::Count(1.0)),
        ("a:2|c|@0.5", "a", Value::Count(4.0)),
        ("a:2|c|@0.5|#host:one", "a", Value::Count(4.0)),
        ("t:3.5|ms", "t", Value::Time(3.5)),
        ("t:3.5|h", "t", Value::Time(3.5)),
        ("g:7|g", "g", Value::Gauge(7.0)),
        ("g:-7|g", "g", Value::Change(-7.0)),
        ("g:+7|g", "g", Value::Change(7.0)),
        ("s:me|s", "s", Value::Member("me")),
    ] {
        let parsed = parse(line.as_bytes()).unwrap();
        assert_eq!((parsed.name, parsed.value), (name, value), "{line}");
    }
    for line in [
        "",
        "a",
        "a:1",
        "a:1|",
        "a:1|x",
        ":1|c",
        "a:|c",
        "a:one|c",
        "a:inf|c",
        "a:NaN|g",
        "a b:1|c",
        "a:1|c|@0",
        "a:1|c|@2",
        "a:1|c|@-1",
        "a:1|c|half",
        "a:1e308|c|@1e-300",
        "t:-1|ms",
        "s:|s",
        "a|b:1|c",
    ] {
        assert_eq!(parse(line.as_bytes()), None, "{line}");
    }
    assert_eq!(parse(b"a\xFF:1|c"), None);
    assert_eq!(parse(format!("{}:1|c", "a".repeat(201)).as_bytes()), None);
    assert_eq!(parse(format!("s:{}|s", "a".repeat(201)).as_bytes()), None);
}

#[test]
fn metrics_are_added_printed_and_begun_anew() {
    let mut metrics = Metrics::default();
    metrics.add_all(b"hits:1|c\nhits:2|c\nload:5|g\nload:-2|g\n");
    metrics.add_all(b"took:10|ms\ntook:20|ms\nwho:a|s\nwho:b|s\nwho:a|s\nbroken\nhits:1|g");
    let text = "hits counter 3\nload gauge 3\ntook timer 2 × 15.000 ms, 10 to 20\nwho set 2\n\
                refused 2 lines\n";
    assert_eq!(metrics.take(), text);
    assert_eq!(metrics.take(), "load gauge 3\n");
}

#[test]
fn names_and_members_have_a_bound() {
    let mut metrics = Metrics::default();
    for number in 0..10_002 {
        metrics.add_all(format!("n{number}:1|c").as_bytes());
    }
    let text = metrics.take();
    assert_eq!(text.lines().count(), 10_001);
    assert!(text.ends_with("refused 2 lines\n"), "{}", &text[text.len() - 40..]);
    for number in 0..10_002 {
        metrics.add_all(format!("s:m{number}|s").as_bytes());
    }
    assert_eq!(metrics.take(), "s set 10000\nrefused 2 lines\n");
    // Members of all sets together: there may be as many sets as names.
    for number in 0..5_001 {
        metrics.add_all(format!("a:m{number}|s\nb:m{number}|s").as_bytes());
    }
    assert_eq!(metrics.take(), "a set 5000\nb set 5000\nrefused 2 lines\n");
}

#[test]
fn both_forms_of_syslog_are_read() {
    for (datagram, shown) in [
        ("<13>Dec  1 10:00:00 root: hello", "user.notice root: hello"),
        ("<86>Dec  1 10:00:00 sshd[42]: in: out\n", "authpriv.info sshd: in: out"),
        ("<13>Dec  1 10:00:00 no tag: here", "user.notice no tag: here"),
        ("<13>hello", "user.notice hello"),
        ("<0>a:b\0", "kern.emerg a: b"),
        ("<191>x[y]: z", "local7.debug x[y]: z"),
        ("<165>1 2026-12-01T10:00:00Z host app 12 id - text", "local4.notice app: text"),
        ("<165>1 - - app - - [a b=\"c]\\\"\"][d] text", "local4.notice app: text"),
        ("<165>1 - - app - - - \u{feff}text", "local4.notice app: text"),
        ("<165>1 - - app - - -", "local4.notice app: "),
        ("<13>a\u{1b}[31m\nb", "user.notice a\\u{1b}[31m\\nb"),
    ] {
        let message = Message::parse(datagram.as_bytes()).unwrap();
        assert_eq!(message.to_string(), shown, "{datagram}");
    }
    for datagram in
        ["", "hello", "<>x", "<13", "<192>x", "<-1>x", "<+1>x", "<9999>x", "<1 3>x", "<165>1 - -"]
    {
        assert_eq!(Message::parse(datagram.as_bytes()), None, "{datagram}");
    }
    for unended in
        ["<165>1 - - app - - [a b=\"c", "<165>1 - - app - - [a b=\"\\", "<1>1 - - a - - x"]
    {
        assert_eq!(Message::parse(unended.as_bytes()), None, "{unended}");
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        let _ = parse(&bytes);
        let structured = [b"<165>1 - - app - - [", &bytes[..]].concat();
        for datagram in [&bytes, &structured] {
            if let Some(message) = Message::parse(datagram) {
                prop_assert!(!message.to_string().contains(char::is_control));
            }
        }
    }
}
