//! Any bytes that a peer of the example `dns` sends, as a query and as another server's answer: no
//! panic, no answer beyond the client's size, and what is answered can be read again.

#![no_main]

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

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use cache::Cache;
use forwarded::Forwarded;
use libfuzzer_sys::fuzz_target;
use message::{Bad, Query, Rcode};
use reply::{Reply, refusal};
use zone::Zone;

static ZONE: LazyLock<Zone> = LazyLock::new(|| {
    let text = "$ORIGIN a.\n@ 9 SOA @ @ 1 2 3 4 5\nb 9 A 1.2.3.4\nc 9 CNAME b\nd 9 TXT \"e\"";
    Zone::parse(text).expect("a zone")
});

fuzz_target!(|input: (&[u8], &[u8])| {
    let (asked, said) = input;
    let query = match Query::read(asked) {
        Ok(query) => query,
        Err(Bad::Silent) => return,
        Err(Bad::Refused(rcode)) => return assert!(refusal(asked, rcode).len() <= 23),
    };
    assert!(query.name.to_string().ends_with('.') && query.name.wire().len() <= 255);
    let reply =
        if ZONE.has(&query.name) { ZONE.answer(&query) } else { Reply::refused(Rcode::Refused) };
    let answer = reply.write(&query, query.limit());
    assert!(answer.len() <= query.limit());
    let read = Forwarded::read(&answer, query.question).expect("an answer that we wrote");
    let _ = read.write(&query, Duration::ZERO, query.limit());
    forward(&query, said);
});

/// What another server said reaches the client within its size, and again from the cache.
fn forward(query: &Query<'_>, said: &[u8]) {
    // A header and a question that fit, so that records are reached.
    let said = [
        &[0, 0, 0x80, 0, 0, 1][..],
        said.get(..6).unwrap_or(&[0; 6]),
        query.question,
        said.get(6..).unwrap_or(&[]),
    ]
    .concat();
    let Some(forwarded) = Forwarded::read(&said, query.question) else { return };
    let answer = forwarded.write(query, Duration::from_secs(7), query.limit());
    assert!(answer.len() <= query.limit());
    assert!(Forwarded::read(&answer, query.question).is_some());
    let (mut cache, now) = (Cache::default(), Instant::now());
    let is_kept = forwarded.keep.is_some_and(|keep| !keep.is_zero());
    cache.put(query.key(), forwarded, now);
    assert_eq!(cache.find(query, query.limit(), now).is_some(), is_kept);
}
