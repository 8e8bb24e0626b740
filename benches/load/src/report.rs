//! What a run found out, for people and for programs.

use std::fmt::Write;
use std::iter;
use std::time::Duration;

use crate::idle::Memory;
use crate::json::{Object, list, quoted};
use crate::options::{Mode, Options};
use crate::process::Usage;
use crate::tally::Tally;

const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];
/// Points of the curve between one half of the rest and the next: 0, 0.25, 0.5, 0.625, 0.75, ...
const TICKS_PER_HALF: u32 = 2;

#[derive(Debug)]
pub(crate) struct Report<'a> {
    pub(crate) options: &'a Options,
    pub(crate) tally: Tally,
    /// CPU time that this process took within the window.
    pub(crate) own_cpu: Duration,
    pub(crate) server: Option<Usage>,
    pub(crate) idle: Option<Memory>,
}

impl Report<'_> {
    /// A few lines for a person.
    pub(crate) fn table(&self) -> String {
        let mut rows = Vec::new();
        if self.idle.is_none() {
            rows.push(("requests", self.throughput()));
        }
        if !self.tally.latencies.is_empty() {
            rows.push(("latency", self.latency()));
        }
        if self.tally.unanswered > 0 {
            let (count, oldest) = (self.tally.unanswered, self.tally.oldest);
            let oldest = duration(oldest.as_nanos() as u64);
            rows.push(("unanswered", format!("{count} at the end, the oldest after {oldest}")));
        }
        if let Some(text) = self.datagrams() {
            rows.push(("datagrams", text));
        }
        if self.ended_early() {
            let measured = self.tally.measured.as_secs_f64();
            rows.push(("ended early", format!("after {measured:.3} s of measurement")));
        }
        let threads = self.options.threads;
        let own = self.own_cpu.as_secs_f64();
        rows.push(("load", format!("{own:.3} s of CPU time, {threads} thread(s)")));
        if let Some(server) = &self.server {
            rows.push(("server", self.server_use(server)));
            rows.extend(self.idle.iter().map(|idle| ("memory", self.memory(idle))));
        }
        rows.push(("errors", self.tally.errors().to_string()));
        rows.extend(self.tally.named.iter().map(|name| ("", name.clone())));
        let rows = rows.iter().map(|(name, text)| format!("{name:<12}{text}"));
        let lines: Vec<String> = iter::once(self.headline()).chain(rows).collect();
        lines.join("\n")
    }

    /// One object, on one line.
    pub(crate) fn json(&self) -> String {
        let (options, tally) = (self.options, &self.tally);
        let mut object = Object::default();
        object
            .text("mode", &options.mode.to_string())
            .text("address", &options.address.to_string())
            .raw("connections", options.connections)
            .raw("size", options.size)
            .raw("depth", options.depth)
            .raw("threads", options.threads)
            .maybe("rate", options.rate)
            .float("warmup_seconds", options.warmup.as_secs_f64())
            .float("seconds", tally.measured.as_secs_f64())
            .raw("requests", tally.requests)
            .float("requests_per_second", self.per_second(tally.requests))
            .raw("bytes", tally.bytes)
            .float("megabytes_per_second", self.per_second(tally.bytes) / 1e6)
            .maybe("latency_ns", self.latency_json())
            .raw("unanswered", tally.unanswered)
            .raw("oldest_unanswered_ns", tally.oldest.as_nanos())
            .raw("lost", tally.lost)
            .raw("reordered", tally.reordered)
            .maybe("sent", tally.sent)
            .raw("errors", tally.errors())
            .raw("first_errors", list(tally.named.iter().map(|name| quoted(name))))
            .float("load_cpu_seconds", self.own_cpu.as_secs_f64())
            .maybe("server", self.server.as_ref().map(|server| self.server_json(server)));
        object.end()
    }

    fn headline(&self) -> String {
        let Options { address, mode, connections, size, depth, seconds, warmup, .. } = self.options;
        let mut line = format!("{mode} at {address}: {connections} connections, {size} bytes");
        let (seconds, warmup) = (seconds.as_secs_f64(), warmup.as_secs_f64());
        let end = match (mode, self.options.rate) {
            (Mode::Idle, _) => format!(", one message each, {seconds} s of silence"),
            (_, Some(rate)) => format!(", open loop at {rate}/s, {seconds} s after {warmup} s"),
            (Mode::Echo | Mode::Rpc | Mode::WebSocket | Mode::Udp, None) => {
                format!(", closed loop of depth {depth}, {seconds} s after {warmup} s")
            }
            (Mode::Churn | Mode::Stream | Mode::Up | Mode::Down | Mode::UdpFlood, None) => {
                format!(", {seconds} s after {warmup} s")
            }
        };
        line.push_str(&end);
        line
    }

    /// What only datagrams do: they get lost, and overtake each other.
    fn datagrams(&self) -> Option<String> {
        let Tally { lost, reordered, sent, .. } = self.tally;
        match (self.options.mode, sent) {
            (Mode::Udp, _) => Some(format!("{lost} lost, {reordered} reordered")),
            (Mode::UdpFlood, Some(sent)) => {
                let share = 100.0 * lost as f64 / sent.max(1) as f64;
                Some(format!("{sent} sent, {lost} lost ({share:.1} %)"))
            }
            _ => None,
        }
    }

    fn throughput(&self) -> String {
        let Tally { requests, bytes, .. } = self.tally;
        if self.tally.measured.is_zero() {
            return "none: the run ended before the measurement began".into();
        }
        let (rate, megabytes) = (self.per_second(requests), self.per_second(bytes) / 1e6);
        let direction = match self.options.mode {
            Mode::Up | Mode::Down | Mode::UdpFlood => "in one direction",
            _ => "in each direction",
        };
        format!("{requests}, {rate:.0}/s, {megabytes:.2} MB/s {direction}")
    }

    fn latency(&self) -> String {
        let latencies = &self.tally.latencies;
        let mut line = String::new();
        for (name, quantile) in QUANTILES {
            let value = duration(latencies.value_at_quantile(quantile));
            write!(line, "{name} {value}  ").expect("a string takes everything");
        }
        line + "max " + &duration(latencies.max())
    }

    fn server_use(&self, server: &Usage) -> String {
        let (before, after) = (server.rss_before >> 10, server.rss_after >> 10);
        let cpu = server.cpu.as_secs_f64();
        let each = self.cpu_per_million(server);
        let each = each.map_or(String::new(), |each| format!(", {each:.3} s per million requests"));
        format!("{cpu:.3} s of CPU time{each}; {before} KiB before, {after} KiB after")
    }

    fn memory(&self, idle: &Memory) -> String {
        let each = |rss| idle.each(rss, self.options.connections);
        format!(
            "{:.0} bytes per connection open, {:.0} after one message, {:.0} after the silence",
            each(idle.connected),
            each(idle.answered),
            each(idle.silent)
        )
    }

    /// Quantiles, and the curve as pairs of a quantile and its value; none if nothing was timed.
    fn latency_json(&self) -> Option<String> {
        let latencies = &self.tally.latencies;
        if latencies.is_empty() {
            return None;
        }
        let mut object = Object::default();
        for (name, quantile) in QUANTILES {
            object.raw(name, latencies.value_at_quantile(quantile));
        }
        let points = latencies.iter_quantiles(TICKS_PER_HALF).map(|point| {
            format!("[{:.7}, {}]", point.quantile_iterated_to(), point.value_iterated_to())
        });
        object.raw("max", latencies.max()).float("mean", latencies.mean());
        Some(object.raw("curve", list(points)).end())
    }

    fn server_json(&self, server: &Usage) -> String {
        let mut object = Object::default();
        object
            .float("cpu_seconds", server.cpu.as_secs_f64())
            .maybe("cpu_seconds_per_million", self.cpu_per_million(server))
            .raw("rss_before", server.rss_before)
            .raw("rss_after", server.rss_after);
        if let Some(idle) = &self.idle {
            let each = |rss| idle.each(rss, self.options.connections);
            object
                .raw("rss_connected", idle.connected)
                .raw("rss_answered", idle.answered)
                .float("rss_each_connected", each(idle.connected))
                .float("rss_each_answered", each(idle.answered))
                .float("rss_each_silent", each(idle.silent));
        }
        object.end()
    }

    /// CPU seconds; none without requests to divide by.
    fn cpu_per_million(&self, server: &Usage) -> Option<f64> {
        let requests = self.tally.requests;
        (requests > 0).then(|| server.cpu.as_secs_f64() * 1e6 / requests as f64)
    }

    /// Every connection failed, or connecting did too often.
    fn ended_early(&self) -> bool {
        self.idle.is_none() && self.tally.measured < self.options.seconds
    }

    /// Not a number in a run that has no rate: one message each, or one that ended at once.
    fn per_second(&self, count: u64) -> f64 {
        let timed = self.idle.is_none() && !self.tally.measured.is_zero();
        if timed { count as f64 / self.tally.measured.as_secs_f64() } else { f64::NAN }
    }
}

/// Nanoseconds, in a unit that gives three or four digits.
fn duration(nanos: u64) -> String {
    let value = nanos as f64;
    match nanos {
        0..10_000 => format!("{nanos} ns"),
        10_000..10_000_000 => format!("{:.1} µs", value / 1e3),
        10_000_000..10_000_000_000 => format!("{:.1} ms", value / 1e6),
        _ => format!("{:.1} s", value / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::schedule::Window;

    fn options(line: &str) -> Options {
        Options::parse(line.split(' ').map(str::to_owned)).unwrap()
    }

    fn report(options: &Options) -> Report<'_> {
        let mut tally = Tally::new();
        let start = Instant::now();
        let window = Window::new(start, Duration::ZERO, Duration::from_secs(2));
        (tally.requests, tally.bytes) = (4, 256);
        tally.measured = Duration::from_secs(2);
        tally.answered(&window, start, start + Duration::from_micros(100));
        tally.error("bad \"luck\"".into());
        let server = Usage { cpu: Duration::from_millis(8), rss_before: 1024, rss_after: 4096 };
        Report { options, tally, own_cpu: Duration::ZERO, server: Some(server), idle: None }
    }

    #[test]
    fn a_person_reads_rates_latencies_and_errors() {
        let options = options("127.0.0.1:1 --size 64");
        let table = report(&options).table();
        for part in [
            "echo at 127.0.0.1:1: 64 connections, 64 bytes, closed loop of depth 1, 5 s after 1 s",
            "requests    4, 2/s, 0.00 MB/s in each direction",
            "p99 100.0 µs",
            "0.008 s of CPU time, 2000.000 s per million requests; 1 KiB before, 4 KiB after",
            "errors      1\n            bad \"luck\"",
        ] {
            assert!(table.contains(part), "{part}\n\n{table}");
        }
    }

    #[test]
    fn a_program_reads_the_same() {
        let options = options("127.0.0.1:1 --rate 7");
        let json = report(&options).json();
        for part in [
            "{\"mode\": \"echo\", \"address\": \"127.0.0.1:1\", \"connections\": 64, ",
            "\"rate\": 7, ",
            "\"requests_per_second\": 2.000, ",
            "\"latency_ns\": {\"p50\": 100",
            "\"first_errors\": [\"bad \\\"luck\\\"\"]",
            "\"cpu_seconds_per_million\": 2000",
        ] {
            assert!(json.contains(part), "{part}\n\n{json}");
        }
    }

    #[test]
    fn an_idle_run_has_memory_and_no_rate() {
        let options = options("127.0.0.1:1 --mode idle");
        let mut report = report(&options);
        report.idle = Some(Memory { before: 640, connected: 1280, answered: 1920, silent: 0 });
        let (json, table) = (report.json(), report.table());
        assert!(json.contains("\"requests_per_second\": null, "), "{json}");
        assert!(
            json.contains("\"rss_each_answered\": 20.000, \"rss_each_silent\": -10.0"),
            "{json}"
        );
        let memory = "10 bytes per connection open, 20 after one message, -10 after the silence";
        assert!(table.contains(memory), "{table}");
    }

    #[test]
    fn durations_have_units() {
        let texts = [9_999, 10_000, 12_345_678, 12_345_678_901].map(duration);
        assert_eq!(texts, ["9999 ns", "10.0 µs", "12.3 ms", "12.3 s"]);
    }
}
