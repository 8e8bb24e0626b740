//! When a connection's time is over: it is idle, silent from the start, slow, or past its deadline.
//!
//! The paths of the bytes measure nothing. The reactor looks now and then at how many bytes have
//! passed, and a [`TimeWatch`] compares one look with the next; the caller passes the time in.

use std::time::{Duration, Instant};

use crate::base::error::Wait;
use crate::base::limits::{Limits, ReceiveRate};

/// The number of looks in one idle timeout: a connection is closed at most one such part late.
const LOOKS: u32 = 4;

/// The shortest time from one look to the next.
const LEAST: Duration = Duration::from_millis(1);

/// What a look sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Progress {
    pub(crate) received: u64,
    pub(crate) sent: u64,
    /// The connection waits for work on this side, not for the peer.
    pub(crate) busy: bool,
    /// Work for the peer is under way elsewhere: silence is not the peer's, but a request that
    /// trickles is.
    pub(crate) held: bool,
    /// A part of a request has come, and the rest is missing.
    pub(crate) partial: bool,
    /// The output stands above its high-water mark.
    pub(crate) congested: bool,
    /// What was received is the handshake's alone.
    pub(crate) handshake_only: bool,
    /// What counts for the rate, if that is not all that was received: behind a filter the plain
    /// bytes, and what has come of the next record. Else a peer could send one byte in each record
    /// and have the seal of each count.
    pub(crate) rated: Option<u64>,
}

/// The time limits of one connection, and what the last look saw.
#[derive(Debug)]
pub(crate) struct TimeWatch {
    idle: Option<Duration>,
    first_byte: Option<Instant>,
    rate: Option<ReceiveRate>,
    deadline: Option<Instant>,
    /// The end of the handshake, while one is under way.
    handshake: Option<Instant>,
    /// Until when the first bytes behind a handshake must have come that a shutdown has met.
    hurry: Option<Instant>,
    /// What the last look saw, and since when no byte has passed.
    seen: Progress,
    quiet_since: Instant,
    /// When the span began over which the rate is measured, and the bytes received by then; `None`
    /// unless a part of a request had come.
    span: Option<(Instant, u64)>,
    /// Set while the output stands above its high-water mark.
    output: Option<OutputWatch>,
    age: Option<AgeWatch>,
}

/// When a connection has reached its age, or has to be gone.
#[derive(Debug, Clone, Copy)]
struct AgeWatch {
    /// `None` when there is nothing more to wait for.
    due: Option<Instant>,
    grace: Option<Duration>,
    has_reached_it: bool,
}

/// Whether the peer takes anything of an output that stands above its high-water mark.
#[derive(Debug, Clone, Copy)]
struct OutputWatch {
    timeout: Duration,
    /// How many bytes the peer had taken, and since when that number has not changed.
    sent: u64,
    since: Instant,
}

impl TimeWatch {
    /// The watch of a connection that has these limits and begins now.
    pub(crate) fn new(limits: &Limits, now: Instant) -> Self {
        Self {
            idle: limits.idle_timeout,
            first_byte: limits.first_byte_timeout.and_then(|time| now.checked_add(time)),
            rate: limits.min_receive_rate,
            deadline: None,
            handshake: None,
            hurry: None,
            seen: Progress::default(),
            quiet_since: now,
            span: None,
            output: None,
            age: limits.max_age.map(|age| AgeWatch {
                due: now.checked_add(age.draw()),
                grace: age.grace,
                has_reached_it: false,
            }),
        }
    }

    /// Whether connections with these limits are watched from their start.
    pub(crate) fn is_needed(limits: &Limits) -> bool {
        limits.idle_timeout.is_some()
            || limits.first_byte_timeout.is_some()
            || limits.min_receive_rate.is_some()
            || limits.max_age.is_some()
    }

    pub(crate) fn set_idle(&mut self, idle: Option<Duration>, now: Instant) {
        self.idle = idle;
        self.quiet_since = now;
    }

    pub(crate) fn set_rate(&mut self, rate: Option<ReceiveRate>) {
        self.rate = rate;
        self.span = None;
    }

    /// Begins to watch an output that went above its high-water mark after `sent` bytes.
    pub(crate) fn set_output(&mut self, timeout: Duration, sent: u64, now: Instant) {
        self.output = Some(OutputWatch { timeout, sent, since: now });
    }

    /// Whether it watches what the next user of the connection does not change: its age, and what
    /// its peer takes.
    pub(crate) fn watches_for_good(&self) -> bool {
        self.output.is_some() || self.age.is_some()
    }

    /// The same watch, except that it watches the age and the output as `before` does.
    pub(crate) fn that_follows(self, before: &Self) -> Self {
        Self { output: before.output, age: before.age, ..self }
    }

    /// Whether the connection has reached its age since the last call. From then on the watch waits
    /// for its end.
    pub(crate) fn reaches_age(&mut self, now: Instant) -> bool {
        let Some(AgeWatch { due, grace, has_reached_it }) = &mut self.age else { return false };
        if *has_reached_it || due.is_none_or(|at| at > now) {
            return false;
        }
        *has_reached_it = true;
        *due = grace.and_then(|grace| now.checked_add(grace));
        true
    }

    pub(crate) fn set_deadline(&mut self, at: Option<Instant>) {
        self.deadline = at;
    }

    /// Begins to wait for the end of a handshake, or stops that.
    pub(crate) fn set_handshake(&mut self, at: Option<Instant>) {
        self.handshake = at;
    }

    /// The handshake must be over and the first bytes behind it have come by then, unless the
    /// connection has something else to do.
    pub(crate) fn hurry(&mut self, at: Instant) {
        self.hurry = Some(at);
    }

    /// Compares with the last look; an error says which time is over.
    pub(crate) fn look(&mut self, progress: Progress, now: Instant) -> Result<(), Wait> {
        if self.deadline.is_some_and(|at| at <= now) {
            return Err(Wait::Deadline);
        }
        let over = self.age.filter(|age| age.has_reached_it).and_then(|age| age.due);
        if over.is_some_and(|at| at <= now) {
            return Err(Wait::Age);
        }
        if self.handshake.is_some_and(|at| at <= now) {
            return Err(Wait::Handshake);
        }
        if progress.received > 0 && !progress.handshake_only {
            (self.first_byte, self.hurry) = (None, None);
        }
        let is_idle = !progress.busy && !progress.held;
        if is_idle && self.hurry.is_some_and(|at| at <= now) {
            return Err(Wait::Handshake);
        }
        if self.first_byte.is_some_and(|at| at <= now) {
            return Err(Wait::FirstByte);
        }
        self.look_at_rate(progress, now)?;
        self.look_at_output(progress, now)?;
        let passed = (progress.received, progress.sent) != (self.seen.received, self.seen.sent);
        if passed || progress.busy || progress.held {
            self.quiet_since = now;
        }
        self.seen = progress;
        if self.idle.is_some_and(|idle| now.saturating_duration_since(self.quiet_since) >= idle) {
            return Err(Wait::Idle);
        }
        Ok(())
    }

    /// When to look next; `None` for never.
    pub(crate) fn next(&self, now: Instant) -> Option<Instant> {
        let idle = self.idle.and_then(|idle| {
            let over = self.quiet_since.checked_add(idle)?;
            Some(over.min(now.checked_add(idle / LOOKS)?))
        });
        let rate = self.rate.and_then(|rate| {
            let begun = self.span.map_or(now, |(begun, _)| begun);
            begun.checked_add(rate.per)
        });
        let output = self.output.and_then(|output| output.since.checked_add(output.timeout));
        let age = self.age.and_then(|age| age.due);
        let all = [idle, rate, output, age, self.first_byte, self.deadline, self.handshake];
        let next = all.into_iter().chain([self.hurry]).flatten().min();
        // If the next look were always due at once, the watch would keep its reactor busy for ever.
        next.map(|at| at.max(now + LEAST))
    }

    fn look_at_output(&mut self, progress: Progress, now: Instant) -> Result<(), Wait> {
        let Some(output) = &mut self.output else { return Ok(()) };
        if !progress.congested {
            self.output = None;
        } else if progress.sent != output.sent {
            (output.sent, output.since) = (progress.sent, now);
        } else if now.saturating_duration_since(output.since) >= output.timeout {
            return Err(Wait::Write);
        }
        Ok(())
    }

    fn look_at_rate(&mut self, progress: Progress, now: Instant) -> Result<(), Wait> {
        let Some(rate) = self.rate else { return Ok(()) };
        if !progress.partial || progress.busy {
            self.span = None;
            return Ok(());
        }
        let received = progress.rated.unwrap_or(progress.received);
        let (begun, before) = *self.span.get_or_insert((now, received));
        if now.saturating_duration_since(begun) < rate.per {
            return Ok(());
        }
        // A record that was opened counts less than its parts did.
        if received.saturating_sub(before) < u64::from(rate.bytes) {
            return Err(Wait::Rate);
        }
        self.span = Some((now, received));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::limits::MaxAge;

    const SECOND: Duration = Duration::from_secs(1);

    #[expect(clippy::cast_sign_loss, reason = "seconds since the start")]
    fn whole(seconds: f64) -> u64 {
        seconds as u64
    }

    fn quiet(received: u64) -> Progress {
        Progress { received, ..Progress::default() }
    }

    /// Looks whenever the watch asks for it, for `seconds`: which time was over, and when.
    fn follow(
        watch: &mut TimeWatch,
        start: Instant,
        seconds: u64,
        progress: impl Fn(f64) -> Progress,
    ) -> Option<(Wait, f64)> {
        let mut now = start;
        while now <= start + SECOND * seconds as u32 {
            let after = now.duration_since(start).as_secs_f64();
            if let Err(wait) = watch.look(progress(after), now) {
                return Some((wait, after));
            }
            let next = watch.next(now)?;
            assert!(next > now, "a look that asks for itself again");
            now = next;
        }
        None
    }

    #[test]
    fn idle_means_no_byte_either_way_and_ends_at_most_a_quarter_late() {
        let start = Instant::now();
        let limits = Limits { idle_timeout: Some(4 * SECOND), ..Limits::default() };
        let mut watch = TimeWatch::new(&limits, start);
        assert_eq!(follow(&mut watch, start, 60, |_| quiet(0)), Some((Wait::Idle, 4.0)));

        // A byte received after 2.5 s, one sent after 5.5 s, nothing after that.
        let mut watch = TimeWatch::new(&limits, start);
        let passing = |after: f64| Progress {
            received: u64::from(after > 2.5),
            sent: u64::from(after > 5.5),
            ..Progress::default()
        };
        let (wait, after) = follow(&mut watch, start, 60, passing).expect("it ends");
        assert_eq!(wait, Wait::Idle);
        assert!((9.5..=10.5).contains(&after), "ended after {after} s");
    }

    #[test]
    fn a_peer_that_takes_nothing_of_much_output_is_given_up_and_a_slow_one_is_not() {
        let start = Instant::now();
        let stuck = |_| Progress { congested: true, busy: true, ..Progress::default() };
        let slow =
            |after: f64| Progress { congested: true, sent: whole(after), ..Progress::default() };
        let drained = |after: f64| Progress { congested: after < 1.0, ..Progress::default() };
        for (progress, expected) in [
            (&stuck as &dyn Fn(f64) -> Progress, Some((Wait::Write, 3.0))),
            (&slow, None),
            (&drained, None),
        ] {
            let mut watch = TimeWatch::new(&Limits::default(), start);
            watch.set_output(3 * SECOND, 0, start);
            assert_eq!(follow(&mut watch, start, 60, progress), expected);
        }
    }

    #[test]
    fn a_connection_that_we_work_for_is_not_idle() {
        let start = Instant::now();
        let limits = Limits { idle_timeout: Some(SECOND), ..Limits::default() };
        let mut watch = TimeWatch::new(&limits, start);
        let busy = Progress { busy: true, ..Progress::default() };
        assert_eq!(follow(&mut watch, start, 60, |_| busy), None);
    }

    #[test]
    fn work_elsewhere_is_not_idle_and_excuses_no_trickle() {
        let start = Instant::now();
        let rate = ReceiveRate { bytes: 100, per: 5 * SECOND };
        let idle_timeout = Some(SECOND);
        let limits = Limits { idle_timeout, ..Limits::default() };
        let held = |_| Progress { held: true, ..Progress::default() };
        assert_eq!(follow(&mut TimeWatch::new(&limits, start), start, 60, held), None);
        let limits = Limits { idle_timeout, min_receive_rate: Some(rate), ..Limits::default() };
        let trickle = |after: f64| Progress {
            received: whole(after),
            partial: true,
            held: true,
            ..Default::default()
        };
        let ended = follow(&mut TimeWatch::new(&limits, start), start, 60, trickle);
        assert_eq!(ended, Some((Wait::Rate, 5.0)));
    }

    #[test]
    fn a_first_byte_ends_the_wait_for_it() {
        let start = Instant::now();
        let limits = Limits { first_byte_timeout: Some(3 * SECOND), ..Limits::default() };
        let mut watch = TimeWatch::new(&limits, start);
        assert_eq!(follow(&mut watch, start, 60, |_| quiet(0)), Some((Wait::FirstByte, 3.0)));
        let mut watch = TimeWatch::new(&limits, start);
        assert_eq!(follow(&mut watch, start, 60, |after| quiet(u64::from(after > 2.0))), None);
    }

    #[test]
    fn a_hurry_ends_with_the_first_bytes_and_excuses_work() {
        let start = Instant::now();
        let ended = |progress: &dyn Fn(f64) -> Progress| {
            let mut watch = TimeWatch::new(&Limits::default(), start);
            watch.hurry(start + 2 * SECOND);
            follow(&mut watch, start, 10, progress)
        };
        let handshake = |after: f64| Progress { handshake_only: true, ..quiet(whole(after)) };
        assert_eq!(ended(&handshake), Some((Wait::Handshake, 2.0)));
        assert_eq!(ended(&|after| quiet(u64::from(after > 1.0))), None, "the first bytes came");
        let held = |after: f64| Progress { held: after < 5.0, ..quiet(0) };
        let (wait, after) = ended(&held).expect("it ends when nothing is held any more");
        assert!(wait == Wait::Handshake && (5.0..5.1).contains(&after), "{wait:?} after {after}");
    }

    #[test]
    fn a_trickle_is_cut_and_silence_between_requests_is_not() {
        let start = Instant::now();
        let rate = ReceiveRate { bytes: 100, per: 5 * SECOND };
        let limits = Limits { min_receive_rate: Some(rate), ..Limits::default() };
        let trickle =
            |after: f64| Progress { received: whole(after), partial: true, ..Default::default() };
        let mut watch = TimeWatch::new(&limits, start);
        let (wait, after) = follow(&mut watch, start, 60, trickle).expect("it is cut");
        assert_eq!((wait, after), (Wait::Rate, 5.0));

        let fast = |after: f64| Progress {
            received: whole(after * 21.0),
            partial: true,
            ..Default::default()
        };
        assert_eq!(follow(&mut TimeWatch::new(&limits, start), start, 60, fast), None);
        assert_eq!(follow(&mut TimeWatch::new(&limits, start), start, 60, |_| quiet(7)), None);
        let served = |_| Progress { busy: true, partial: true, ..Default::default() };
        assert_eq!(follow(&mut TimeWatch::new(&limits, start), start, 60, served), None);
    }

    #[test]
    fn an_age_is_reached_once_and_then_the_end_is_waited_for() {
        let start = Instant::now();
        let after = |seconds| start + SECOND * seconds;
        let age = MaxAge { age: 3 * SECOND, jitter: Duration::ZERO, grace: Some(2 * SECOND) };
        let limits = Limits { max_age: Some(age), ..Limits::default() };
        assert!(TimeWatch::is_needed(&limits));
        let mut watch = TimeWatch::new(&limits, start);
        assert_eq!(watch.next(start), Some(after(3)));
        assert!(!watch.reaches_age(after(2)) && watch.look(quiet(0), after(2)).is_ok());
        assert!(watch.reaches_age(after(3)) && !watch.reaches_age(after(4)));
        let mut watch = TimeWatch::new(&limits, after(4)).that_follows(&watch);
        assert_eq!(
            (watch.look(quiet(0), after(4)), watch.next(after(4))),
            (Ok(()), Some(after(5)))
        );
        assert_eq!(watch.look(quiet(0), after(5)), Err(Wait::Age));
        let limits = Limits { max_age: Some(MaxAge { grace: None, ..age }), ..limits };
        let mut watch = TimeWatch::new(&limits, start);
        assert!(watch.reaches_age(after(9)));
        assert_eq!((watch.look(quiet(0), after(99)), watch.next(after(99))), (Ok(()), None));
        let never = Some(MaxAge { jitter: Duration::ZERO, ..MaxAge::new(Duration::MAX) });
        let limits = Limits { max_age: never, ..limits };
        assert_eq!(TimeWatch::new(&limits, start).next(start), None);
    }

    #[test]
    fn nonsense_does_not_make_a_watch_look_without_end() {
        let start = Instant::now();
        let rate = ReceiveRate { bytes: 0, per: Duration::ZERO };
        let busy = Progress { busy: true, ..Progress::default() };
        let mut watch = TimeWatch::new(&Limits::default(), start);
        watch.set_rate(Some(rate));
        watch.set_idle(Some(Duration::from_nanos(1)), start);
        assert_eq!(follow(&mut watch, start, 1, |_| busy), None);
        watch.set_deadline(Some(start));
        assert!(watch.next(start) > Some(start));
    }

    #[test]
    fn a_deadline_comes_whatever_passes_and_can_be_taken_back() {
        let start = Instant::now();
        let mut watch = TimeWatch::new(&Limits::default(), start);
        watch.set_deadline(Some(start + SECOND));
        let lively = |after: f64| quiet(whole(after * 1000.0));
        assert_eq!(follow(&mut watch, start, 9, lively), Some((Wait::Deadline, 1.0)));
        watch.set_deadline(None);
        assert_eq!(watch.next(start), None);
    }
}
