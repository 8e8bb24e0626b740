//! The parsers of the example `dns`: what a peer sends, however malformed, and what it gets back.

#[path = "../../examples/dns/cache.rs"]
mod cache;
#[path = "../../examples/dns/forwarded.rs"]
mod forwarded;
#[path = "../../examples/dns/message.rs"]
mod message;
#[path = "../../examples/dns/name.rs"]
mod name;
#[path = "../../examples/dns/record.rs"]
mod record;
#[path = "../../examples/dns/reply.rs"]
mod reply;
#[path = "../../examples/dns/zone.rs"]
mod zone;
#[path = "../../examples/dns/zone_file.rs"]
mod zone_file;

use std::time::{Duration, Instant};

use cache::Cache;
use forwarded::Forwarded;
use message::{Bad, Query, Rcode};
use name::Name;
use proptest::prelude::*;
use reply::{Reply, refusal};
use zone::Zone;

const ZONE: &str = "\
$ORIGIN example.test.
@     3600 SOA   ns hostmaster 1 3600 600 86400 60 ; the first one
@     3600 MX    10 mail
ns    60   A     192.0.2.53
www   60   A     192.0.2.1
www   60   AAAA  2001:db8::1
alias 60   CNAME www
away  60   CNAME www.elsewhere.test.
loop  60   CNAME loop
a.b.c 60   TXT   \"one; two\"
";

fn name(text: &str) -> Name {
    Name::parse(text, None).expect("a name")
}

/// A query of one question; an EDNS size, if there is one.
fn query(text: &str, kind: u16, size: Option<u16>) -> Vec<u8> {
    let more = u8::from(size.is_some());
    let mut query = vec![0xAB, 0xCD, 1, 0, 0, 1, 0, 0, 0, 0, 0, more];
    for label in text.split('.') {
        query.push(label.len() as u8);
        query.extend_from_slice(label.as_bytes());
    }
    query.extend([&[0], &kind.to_be_bytes()[..], &[0, 1]].concat());
    if let Some(size) = size {
        query.extend([&[0, 0, 41], &size.to_be_bytes()[..], &[0; 6]].concat());
    }
    query
}

fn answer(zone: &Zone, query: &[u8], limit: usize) -> Vec<u8> {
    let query = Query::read(query).expect("a query");
    zone.answer(&query).write(&query, limit)
}

/// The lower half of the flags' word is the rcode; the counts of answers and of authority.
fn outline(message: &[u8]) -> (u8, u8, u8) {
    (message[3] & 15, message[7], message[9])
}

#[test]
fn a_name_is_read_across_pointers_in_lower_case() {
    let mut message = vec![0; 12];
    message.extend(b"\x07Example\x04TEST\x00");
    message.extend(b"\x03wWw\xC0\x0C!");
    let (read, behind) = Name::read(&message, 26).unwrap();
    assert_eq!((read.to_string().as_str(), behind), ("www.example.test.", 32));
    assert_eq!(read, name("www.example.test."));
    assert!(read.is_within(&name("example.test.")) && !name("example.test.").is_within(&read));
    assert!(!name("anexample.test.").is_within(&name("example.test.")), "labels are whole");
    assert_eq!(Name::read(&[0], 0).unwrap().0.to_string(), ".");
    assert_eq!(Name::read(b"\x03a.\x07\0", 0).unwrap().0.to_string(), "a\\.\\007.");
}

#[test]
fn names_that_lead_in_a_circle_or_too_far_are_none() {
    let message = |tail: &[u8]| [&[0; 12], tail].concat();
    for (tail, at) in [
        (&b"\xC0\x0C"[..], 12),       // itself
        (b"\x01a\xC0\x0C", 12),       // the name that it ends
        (b"\xC0\x0E\xC0\x0C", 14),    // forth and back
        (b"\xC0\x10\0\0\x01a\0", 12), // what is behind
        (b"\xC0\x02\0", 12),          // the header
        (b"\x40a\0", 12),             // a kind of label that is none
        (b"\x05abc", 12),             // beyond the end
        (b"\x01a", 12),
        (b"\xC0", 12),
        (b"", 12),
    ] {
        assert_eq!(Name::read(&message(tail), at), None, "{tail:?}");
    }
    // Pointers that lead back are no circle, but names have a bound: 127 labels and the root.
    let mut long = vec![0; 12];
    for _ in 0..127 {
        long.extend(b"\x01a");
    }
    long.push(0);
    assert!(Name::read(&long, 12).is_some());
    long.splice(12..12, *b"\x01a");
    assert_eq!(Name::read(&long, 12), None);
    assert_eq!(Name::parse(&"a.".repeat(128), None), None);
    assert_eq!(Name::parse("a..b.", None), None);
}

#[test]
fn what_is_no_query_is_refused_or_not_answered() {
    let good = query("www.example.test", 1, Some(4096));
    let read = Query::read(&good).unwrap();
    assert_eq!((read.id, read.kind, read.class, read.size), (0xABCD, 1, 1, Some(4096)));
    assert_eq!((read.limit(), read.wants_recursion), (1232, true));
    assert_eq!(Query::read(&query("a", 1, None)).unwrap().limit(), 512);
    assert_eq!(Query::read(&query("a", 1, Some(0))).unwrap().limit(), 512);
    for end in 0..good.len() {
        let bad = Query::read(&good[..end]).unwrap_err();
        assert_eq!(bad == Bad::Silent, end < 12, "{end}");
    }
    let change = |at: usize, to: u8| {
        let mut changed = good.clone();
        changed[at] = to;
        Query::read(&changed).map(|_| ()).unwrap_err()
    };
    assert_eq!(change(2, 0x81), Bad::Silent, "it is an answer");
    assert_eq!(change(2, 0x29), Bad::Refused(Rcode::NotImplemented), "it is an update");
    assert_eq!(change(5, 2), Bad::Refused(Rcode::Format), "two questions");
    assert_eq!(change(11, 2), Bad::Refused(Rcode::Format), "one record of two");
    let version = good.len() - 5;
    assert_eq!(change(version, 1), Bad::Refused(Rcode::BadVersion));
    let mut twice = [&good[..], &good[good.len() - 11..]].concat();
    twice[11] = 2;
    assert_eq!(Query::read(&twice), Err(Bad::Refused(Rcode::Format)));
    let trailing = [&good[..], b"!"].concat();
    assert_eq!(Query::read(&trailing), Err(Bad::Refused(Rcode::Format)));
}

#[test]
fn a_refusal_repeats_the_id_and_nothing_else() {
    let refused = refusal(&query("www.example.test", 1, None), Rcode::Format);
    assert_eq!(refused, [0xAB, 0xCD, 0x81, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(refusal(&query("a", 1, None), Rcode::Failed)[3], 2);
    let old = refusal(&query("a", 1, Some(512)), Rcode::BadVersion);
    // The upper bits of 16 stand in the record of EDNS.
    assert_eq!((old[3], old[11], &old[12..15], old[17]), (0, 1, &[0, 0, 41][..], 1));
}

#[test]
fn a_zone_answers_what_it_has_and_says_what_it_has_not() {
    let zone = Zone::parse(ZONE).unwrap();
    assert!(zone.has(&name("no.example.test.")) && !zone.has(&name("elsewhere.test.")));
    let found = answer(&zone, &query("WWW.example.test", 1, None), 512);
    assert_eq!(outline(&found), (0, 1, 0));
    assert_eq!(found[2] & 4, 4, "it is the zone's own server");
    assert_eq!(&found[12..30], b"\x03WWW\x07example\x04test\0", "case is the client's");
    assert_eq!(&found[34..], b"\xC0\x0C\0\x01\0\x01\0\0\0\x3C\0\x04\xC0\0\x02\x01");
    for (text, kind, wanted) in [
        ("www.example.test", 255, (0, 2, 0)),
        ("www.example.test", 16, (0, 0, 1)),  // another type
        ("no.example.test", 1, (3, 0, 1)),    // no such name
        ("b.c.example.test", 1, (0, 0, 1)),   // only names below it
        ("alias.example.test", 1, (0, 2, 0)), // the alias, and what it is for
        ("alias.example.test", 5, (0, 1, 0)), // the alias itself
        ("away.example.test", 1, (0, 1, 0)),  // the rest is elsewhere
        ("a.b.c.example.test", 16, (0, 1, 0)),
    ] {
        assert_eq!(outline(&answer(&zone, &query(text, kind, None), 512)), wanted, "{text}");
    }
    let circle = answer(&zone, &query("loop.example.test", 1, None), 4096);
    assert_eq!(outline(&circle).1, 9, "it ends");
}

#[test]
fn a_line_that_is_no_record_is_named() {
    for line in ["www 60 A", "www 60 A 192.0.2", "www A 60 1.1.1.1", "other.test. 60 A 1.1.1.1"] {
        let error = Zone::parse(&format!("{ZONE}{line}\n")).unwrap_err();
        assert_eq!(error, format!("line 11: no record: {line}"));
    }
    assert!(Zone::parse("").unwrap_err().contains("$ORIGIN"));
}

#[test]
fn what_is_too_long_is_cut_short_and_says_so() {
    let records = (0..40).map(|host| format!("many 60 A 192.0.2.{host}\n"));
    let zone = Zone::parse(&format!("{ZONE}{}", records.collect::<String>())).unwrap();
    for (size, limit, is_cut) in [(None, 512, true), (Some(1232), 1232, false)] {
        let answer = answer(&zone, &query("many.example.test", 1, size), limit);
        assert!(answer.len() <= limit);
        assert_eq!((answer[2] & 2 != 0, answer[7]), (is_cut, if is_cut { 0 } else { 40 }));
        assert_eq!(answer[11], u8::from(size.is_some()), "EDNS stays");
    }
}

/// What another server says to a query: one record with a pointer, and EDNS.
fn foreign(query: &[u8], ttl: u32) -> Vec<u8> {
    let question = Query::read(query).expect("a query").question.to_vec();
    let mut answer = vec![0, 7, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 1];
    answer.extend(question);
    answer.extend([b"\xC0\x0C\0\x01\0\x01", &ttl.to_be_bytes()[..], b"\0\x04abcd"].concat());
    answer.extend(b"\0\0\x29\x10\0\0\0\0\0\0\0");
    answer
}

#[test]
fn an_answer_is_kept_for_its_time_and_grows_old() {
    let asked = query("www.elsewhere.test", 1, Some(1232));
    let (asked, message) = (Query::read(&asked).unwrap(), foreign(&asked, 30));
    let forwarded = Forwarded::read(&message, asked.question).unwrap();
    let (mut cache, now) = (Cache::default(), Instant::now());
    cache.put(asked.key(), forwarded, now);
    let plain = query("WWW.Elsewhere.test", 1, None);
    let other = Query::read(&plain).unwrap();
    let found = cache.find(&other, 512, now + Duration::from_secs(20)).unwrap();
    assert_eq!((&found[..2], outline(&found), found[11]), (&[0xAB, 0xCD][..], (0, 1, 0), 0));
    assert_eq!(&found[12..12 + other.question.len()], other.question);
    let ttl = found.len() - 10;
    assert_eq!(found[ttl..], *b"\0\0\0\x0A\0\x04abcd");
    assert!(cache.find(&other, 20, now).unwrap()[2] & 2 != 0, "it does not fit");
    assert_eq!(cache.find(&other, 512, now + Duration::from_secs(30)), None);
    // 65 and 97 are other types, although as letters they are the same one.
    let types = [65, 97].map(|kind| query("www.elsewhere.test", kind, None));
    let [first, second] = [&types[0], &types[1]].map(|query| Query::read(query).unwrap());
    let forwarded = Forwarded::read(&foreign(&types[0], 30), first.question).unwrap();
    assert!(Forwarded::read(&foreign(&types[0], 30), second.question).is_none());
    cache.put(first.key(), forwarded, now);
    assert!(cache.find(&first, 512, now).is_some() && cache.find(&second, 512, now).is_none());
}

#[test]
fn what_is_no_answer_to_the_question_is_not_taken() {
    let asked = query("www.elsewhere.test", 1, None);
    let (asked, good) = (Query::read(&asked).unwrap(), foreign(&asked, 30));
    for end in 0..good.len() {
        assert!(Forwarded::read(&good[..end], asked.question).is_none(), "{end}");
    }
    let other = query("www.elsewhere.tesT", 28, None);
    assert!(Forwarded::read(&good, Query::read(&other).unwrap().question).is_none());
    let mut question = good.clone();
    question[2] = 0;
    assert!(Forwarded::read(&question, asked.question).is_none());
    let mut cut = good.clone();
    cut[2] |= 2;
    let cut = Forwarded::read(&cut, asked.question).unwrap();
    assert_eq!(cut.keep, None, "what was cut short is not kept");
    assert!(cut.write(&asked, Duration::ZERO, 512)[2] & 2 != 0, "and stays so");
}

#[test]
fn a_cache_has_a_bound() {
    let (mut cache, now) = (Cache::default(), Instant::now());
    let asked = query("a", 1, None);
    let asked = Query::read(&asked).unwrap();
    let forwarded = Forwarded::read(&foreign(&query("a", 1, None), 30), asked.question).unwrap();
    for _ in 0..2 {
        cache.put(asked.key(), forwarded.clone(), now);
    }
    for number in 0..10_000_u32 {
        assert!(cache.find(&asked, 512, now).is_some(), "{number}");
        cache.put(number.to_be_bytes().to_vec(), forwarded.clone(), now);
    }
    assert!(cache.find(&asked, 512, now).is_none(), "the oldest one went");
}

#[test]
fn a_refused_query_has_its_question_and_no_records() {
    let asked = query("www.elsewhere.test", 1, None);
    let asked = Query::read(&asked).unwrap();
    let refused = Reply::refused(Rcode::Refused).write(&asked, 512);
    assert_eq!((outline(&refused), refused.len()), ((5, 0, 0), 12 + asked.question.len()));
}

proptest! {
    #[test]
    fn no_bytes_panic_and_answers_keep_their_bound(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
        as_query in any::<bool>(),
    ) {
        if as_query && bytes.len() >= 12 {
            let more = bytes[11] & 1;
            bytes[2..12].copy_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, more]);
        }
        let zone = Zone::parse(ZONE).unwrap();
        match Query::read(&bytes) {
            Ok(query) => {
                let answer = zone.answer(&query).write(&query, query.limit());
                prop_assert!(answer.len() <= query.limit());
                let _ = Forwarded::read(&answer, query.question);
            }
            Err(Bad::Refused(rcode)) => prop_assert!(refusal(&bytes, rcode).len() <= 23),
            Err(Bad::Silent) => {}
        }
        let _ = Forwarded::read(&bytes, &[]);
    }
}
