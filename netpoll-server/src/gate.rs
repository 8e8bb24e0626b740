//! How many may come in: limits on connections and on the rate of their coming.
//!
//! ```text
//!   room? ── how many the acceptors may take out of the kernel's queue now
//!   enter ── a ticket, for as long as it is no connection ── or a limit
//!   redeem ── the door itself, which the connection tells when its socket has closed
//!   drop of a ticket, or that ── counts one less, and wakes acceptors that had no room
//! ```

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use netpoll_core::{Address, Error, ListenerInfo, Release, Remote, Result, Room};

use crate::proxy::ProxyProtocol;

/// A limit that a connection met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Limit {
    /// [`Builder::max_connections`](crate::Builder::max_connections).
    Connections,
    /// [`Listener::max_connections`](crate::Listener::max_connections).
    Listener,
    /// [`Builder::max_connections_per_source`](crate::Builder::max_connections_per_source).
    Source,
    /// [`Builder::accept_rate`](crate::Builder::accept_rate).
    Rate,
}

/// What happens to those who come when a limit is met.
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum AtLimit {
    /// They wait in the kernel's queue, for as long as they like; the default, since a moment's
    /// crowd is then served late and not refused. Where it is a source that has too many,
    /// they are closed: who else waits behind them must not wait for them.
    #[default]
    Queue,
    /// They are accepted and closed.
    Close,
    /// They are accepted, sent what this callback returns, and closed. It runs on the thread that
    /// accepts and must not block; what the socket doesn't take at once is not sent.
    Tell(Arc<OnRefuse>),
}

/// Says what to send to somebody who is refused.
pub type OnRefuse = dyn Fn(&Refusal<'_>) -> Vec<u8> + Send + Sync;

/// Somebody who is refused, and why.
#[derive(Debug)]
#[non_exhaustive]
pub struct Refusal<'a> {
    /// Who it is.
    pub peer: &'a Address,
    /// By which listener they came.
    pub listener: &'a ListenerInfo,
    /// The limit that they met.
    pub limit: Limit,
}

impl AtLimit {
    /// [`AtLimit::Tell`] with a closure.
    pub fn tell(on_refuse: impl Fn(&Refusal<'_>) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::Tell(Arc::new(on_refuse))
    }
}

impl fmt::Debug for AtLimit {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Queue => "Queue",
            Self::Close => "Close",
            Self::Tell(_) => "Tell",
        })
    }
}

/// The limits of an event loop, as data.
#[derive(Debug, Clone)]
pub(crate) struct GateOptions {
    pub(crate) connections: Option<usize>,
    pub(crate) per_source: Option<usize>,
    /// How many bits of an address make a source, of IPv4 and of IPv6.
    pub(crate) prefixes: (u8, u8),
    /// Connections per second, and how many at once.
    pub(crate) rate: Option<(u32, u32)>,
    pub(crate) at_limit: AtLimit,
}

impl Default for GateOptions {
    fn default() -> Self {
        let (prefixes, at_limit) = ((32, 64), AtLimit::default());
        Self { connections: None, per_source: None, prefixes, rate: None, at_limit }
    }
}

impl GateOptions {
    pub(crate) fn validate(&self) -> Result<()> {
        let zero = |name| Error::config(format!("{name} is 0, so nobody could connect"));
        if self.connections == Some(0) {
            return Err(zero("max_connections"));
        }
        if self.per_source == Some(0) {
            return Err(zero("max_connections_per_source"));
        }
        let (v4, v6) = self.prefixes;
        if !(1..=32).contains(&v4) || !(1..=128).contains(&v6) {
            return Err(Error::config(format!(
                "source_prefixes are {v4} and {v6} bits, but must be 1 to 32 of IPv4 and 1 to 128 \
                 of IPv6"
            )));
        }
        match self.rate {
            Some((0, _) | (_, 0)) => Err(zero("accept_rate")),
            _ => Ok(()),
        }
    }

    /// The source of `address`, where sources are counted: the first address of its network.
    fn source(&self, address: Option<IpAddr>) -> Option<IpAddr> {
        self.per_source?;
        let (v4, v6) = self.prefixes;
        Some(match address? {
            IpAddr::V4(it) => {
                let mask = u32::MAX.unbounded_shl(32_u32.saturating_sub(v4.into()));
                Ipv4Addr::from_bits(it.to_bits() & mask).into()
            }
            IpAddr::V6(it) => {
                let mask = u128::MAX.unbounded_shl(128_u32.saturating_sub(v6.into()));
                Ipv6Addr::from_bits(it.to_bits() & mask).into()
            }
        })
    }
}

/// The limits at work. Connections hold it, through their doors.
pub(crate) struct Gate {
    options: GateOptions,
    inside: AtomicUsize,
    sources: Mutex<HashMap<IpAddr, usize>>,
    bucket: Mutex<Bucket>,
    /// An acceptor had no room, and is to be woken when there is some.
    waiting: AtomicBool,
    acceptors: Mutex<Vec<Weak<Remote>>>,
    /// Places that came free again: descriptors that came free.
    returned: AtomicU64,
}

/// What the limits know of one listener.
#[derive(Debug)]
pub(crate) struct Door {
    gate: Arc<Gate>,
    listener: Arc<ListenerInfo>,
    pub(crate) limit: Option<usize>,
    pub(crate) proxy: Option<ProxyProtocol>,
    inside: AtomicUsize,
}

/// What somebody holds who was let in and is no connection yet.
#[derive(Debug)]
pub(crate) struct Ticket {
    door: Arc<Door>,
    redeemed: bool,
    /// The source that it is counted for, where sources are counted. By the time that the ticket is
    /// redeemed it is the peer's address, by which the connection is counted out again.
    source: Option<IpAddr>,
}

/// A whole token.
const TOKEN: u64 = 1_000_000_000;

/// Tokens for the rate: they come at a steady pace, up to `burst`, and each connection takes one.
#[derive(Debug)]
struct Bucket {
    /// In billionths, so that a pace of any number of tokens a second loses nothing.
    tokens: u64,
    filled: Instant,
}

impl Door {
    pub(crate) fn new(
        gate: &Arc<Gate>,
        listener: &Arc<ListenerInfo>,
        limit: Option<usize>,
        proxy: Option<ProxyProtocol>,
    ) -> Arc<Self> {
        let (gate, listener, inside) = (gate.clone(), listener.clone(), AtomicUsize::new(0));
        Arc::new(Self { gate, listener, limit, proxy, inside })
    }

    /// Counts out one that was counted in for `source`, or for none.
    fn leave(&self, source: Option<IpAddr>) {
        if let Some(source) = source {
            let mut sources = lock(&self.gate.sources);
            if let Some(inside) = sources.get_mut(&source) {
                *inside -= 1;
                if *inside == 0 {
                    sources.remove(&source);
                }
            }
        }
        self.inside.fetch_sub(1, Ordering::SeqCst);
        self.gate.inside.fetch_sub(1, Ordering::SeqCst);
        self.gate.returned.fetch_add(1, Ordering::SeqCst);
        self.gate.wake_who_waits();
    }
}

impl Release for Door {
    fn info(&self) -> &ListenerInfo {
        &self.listener
    }

    fn release(&self, peer: &Address) {
        self.leave(self.gate.options.source(peer.ip()));
    }
}

impl Gate {
    pub(crate) fn new(options: GateOptions) -> Arc<Self> {
        let tokens = options.rate.map_or(0, |(_, burst)| u64::from(burst) * TOKEN);
        Arc::new(Self {
            options,
            inside: AtomicUsize::new(0),
            sources: Mutex::default(),
            bucket: Mutex::new(Bucket { tokens, filled: Instant::now() }),
            waiting: AtomicBool::new(false),
            acceptors: Mutex::default(),
            returned: AtomicU64::new(0),
        })
    }

    pub(crate) fn at_limit(&self) -> &AtLimit {
        &self.options.at_limit
    }

    /// Wakes this loop when there is room again.
    pub(crate) fn add_acceptor(&self, remote: &Arc<Remote>) {
        let (mut acceptors, remote) = (lock(&self.acceptors), Arc::downgrade(remote));
        acceptors.retain(|it| it.strong_count() > 0 && !it.ptr_eq(&remote));
        acceptors.push(remote);
    }

    /// How many places have come free again so far.
    pub(crate) fn returned(&self) -> u64 {
        self.returned.load(Ordering::SeqCst)
    }

    /// How many may be taken out of the kernel's queue now.
    pub(crate) fn room(&self, door: &Door, now: impl FnOnce() -> Instant) -> Room {
        if !matches!(self.options.at_limit, AtLimit::Queue) {
            return Room::ANY;
        }
        let left = self.left(door);
        // Before the last look, so that a place which comes free after it finds the mark.
        let left = if left == 0 {
            self.waiting.store(true, Ordering::SeqCst);
            self.left(door)
        } else {
            left
        };
        if left == 0 {
            return Room { count: 0, again: None };
        }
        match self.options.rate {
            None => Room { count: left, again: None },
            Some(rate) => {
                let (mut bucket, now) = (lock(&self.bucket), now());
                let tokens = bucket.fill(rate, now);
                let again = (tokens == 0).then(|| now + bucket.next(rate));
                Room { count: tokens.min(left), again }
            }
        }
    }

    /// Lets one in.
    pub(crate) fn enter(
        &self,
        door: &Arc<Door>,
        source: Option<IpAddr>,
        now: impl FnOnce() -> Instant,
    ) -> Result<Ticket, Limit> {
        if !count_up(&self.inside, self.options.connections) {
            return Err(Limit::Connections);
        }
        if !count_up(&door.inside, door.limit) {
            self.inside.fetch_sub(1, Ordering::SeqCst);
            // Somebody may have seen no room just because of it.
            self.wake_who_waits();
            return Err(Limit::Listener);
        }
        // From here on a drop counts down what was counted up.
        let mut ticket = Ticket { door: door.clone(), redeemed: false, source: None };
        ticket.source = self.count_source(source)?;
        if let Some(rate) = self.options.rate
            && !lock(&self.bucket).take(rate, now())
        {
            return Err(Limit::Rate);
        }
        Ok(ticket)
    }

    /// Counts one more from the source of this address; says for which it was counted.
    fn count_source(&self, source: Option<IpAddr>) -> Result<Option<IpAddr>, Limit> {
        let source = self.options.source(source);
        let (Some(limit), Some(source)) = (self.options.per_source, source) else {
            return Ok(None);
        };
        let mut sources = lock(&self.sources);
        let inside = sources.entry(source).or_insert(0);
        if *inside >= limit {
            return Err(Limit::Source);
        }
        *inside += 1;
        Ok(Some(source))
    }

    fn left(&self, door: &Door) -> usize {
        let left = |limit: Option<usize>, inside: &AtomicUsize| {
            limit.map_or(usize::MAX, |it| it.saturating_sub(inside.load(Ordering::SeqCst)))
        };
        left(self.options.connections, &self.inside).min(left(door.limit, &door.inside))
    }

    /// Has acceptors look again, if one had no room.
    fn wake_who_waits(&self) {
        if self.waiting.swap(false, Ordering::SeqCst) {
            self.wake();
        }
    }

    /// Has the acceptors look again whether there is room.
    pub(crate) fn wake(&self) {
        lock(&self.acceptors).iter().filter_map(Weak::upgrade).for_each(|it| {
            it.tell_of_accept_room();
        });
    }

    /// Marks that an acceptor waits for a place to come free.
    pub(crate) fn wait(&self) {
        self.waiting.store(true, Ordering::SeqCst);
    }
}

impl Ticket {
    /// Counts it among those from `source`, once that is known.
    pub(crate) fn count_source(&mut self, source: Option<IpAddr>) -> Result<(), Limit> {
        self.source = self.door.gate.count_source(source)?;
        Ok(())
    }

    /// Gives the place that it is for to a connection, which leaves it by [`Release::release`].
    pub(crate) fn redeem(mut self) -> Arc<dyn Release> {
        self.redeemed = true;
        self.door.clone()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.redeemed {
            self.door.leave(self.source);
        }
    }
}

impl Bucket {
    /// Whole tokens that there are by now.
    fn fill(&mut self, (per_second, burst): (u32, u32), now: Instant) -> usize {
        let passed = now.saturating_duration_since(self.filled).as_nanos();
        // A token a second is a billionth a nanosecond.
        let fresh = u64::try_from(passed * u128::from(per_second)).unwrap_or(u64::MAX);
        self.tokens = self.tokens.saturating_add(fresh).min(u64::from(burst) * TOKEN);
        self.filled = now.max(self.filled);
        (self.tokens / TOKEN) as usize
    }

    fn take(&mut self, rate: (u32, u32), now: Instant) -> bool {
        let there = self.fill(rate, now) > 0;
        if there {
            self.tokens -= TOKEN;
        }
        there
    }

    /// How long until the next one is whole.
    fn next(&self, (per_second, _): (u32, u32)) -> Duration {
        Duration::from_nanos(TOKEN.saturating_sub(self.tokens).div_ceil(per_second.into()))
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Gate")
            .field("options", &self.options)
            .field("inside", &self.inside)
            .finish_non_exhaustive()
    }
}

/// Counts one more, unless that would be above the limit.
fn count_up(counter: &AtomicUsize, limit: Option<usize>) -> bool {
    let more = |count: usize| (count < limit.unwrap_or(usize::MAX)).then_some(count + 1);
    counter.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_ok()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn gate(options: GateOptions) -> (Arc<Gate>, Arc<Door>) {
        let gate = Gate::new(options);
        let door = door(&gate, None);
        (gate, door)
    }

    fn door(gate: &Arc<Gate>, limit: Option<usize>) -> Arc<Door> {
        let address = Address::Unnamed;
        let listener = ListenerInfo { index: 0, name: "a listener".into(), address };
        Door::new(gate, &Arc::new(listener), limit, None)
    }

    #[test]
    fn tickets_count_until_they_are_dropped() {
        let (gate, wide) = gate(GateOptions { connections: Some(2), ..GateOptions::default() });
        let narrow = door(&gate, Some(1));
        let now = Instant::now();
        let first = gate.enter(&narrow, None, || now).unwrap();
        assert_eq!(gate.enter(&narrow, None, || now).unwrap_err(), Limit::Listener);
        assert_eq!(gate.room(&narrow, || now).count, 0);
        assert_eq!(gate.room(&wide, || now).count, 1, "a refusal must count nothing");
        let second = gate.enter(&wide, None, || now).unwrap();
        assert_eq!(gate.enter(&wide, None, || now).unwrap_err(), Limit::Connections);
        drop(first);
        assert_eq!((gate.room(&narrow, || now).count, gate.returned()), (1, 1));
        drop(second);
        assert_eq!(gate.room(&wide, || now).count, 2);
    }

    #[test]
    fn a_source_has_its_own_limit_and_leaves_no_trace() {
        let (gate, door) = gate(GateOptions { per_source: Some(1), ..GateOptions::default() });
        let [one, other] = ["192.0.2.1", "192.0.2.2"].map(|it| Some(it.parse().unwrap()));
        let now = Instant::now();
        let ticket = gate.enter(&door, one, || now).unwrap();
        assert_eq!(gate.enter(&door, one, || now).unwrap_err(), Limit::Source);
        let unnamed =
            [gate.enter(&door, None, || now).unwrap(), gate.enter(&door, None, || now).unwrap()];
        drop((ticket, unnamed, gate.enter(&door, other, || now).unwrap()));
        assert!(lock(&gate.sources).is_empty());
        assert_eq!(gate.inside.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn a_source_is_a_network_and_its_size_an_option() {
        let addresses = |of: [&str; 4]| of.map(|it| Some(it.parse::<IpAddr>().unwrap()));
        let [one, near, far, mapped] =
            addresses(["2001:db8::1", "2001:db8::ffff:1", "2001:db8:0:1::1", "192.0.2.1"]);
        for (prefixes, same) in
            [((32, 64), [true, false]), ((1, 128), [false; 2]), ((32, 1), [true; 2])]
        {
            let options = GateOptions { per_source: Some(1), prefixes, ..GateOptions::default() };
            options.validate().unwrap();
            let (gate, door) = gate(options);
            let enter = |it| gate.enter(&door, it, Instant::now);
            let first = enter(one).unwrap();
            assert_eq!([near, far].map(|it| enter(it).is_err()), same, "{prefixes:?}");
            drop((enter(mapped).unwrap(), first));
            assert!(lock(&gate.sources).is_empty());
        }
        for prefixes in [(0, 64), (33, 64), (32, 0), (32, 129)] {
            let wrong = GateOptions { prefixes, ..GateOptions::default() }.validate();
            assert!(wrong.unwrap_err().to_string().starts_with("source_prefixes"));
        }
    }

    #[test]
    fn a_connection_leaves_the_place_that_its_ticket_was_for() {
        let (gate, door) = gate(GateOptions { per_source: Some(1), ..GateOptions::default() });
        let peer = Address::from(SocketAddr::from(([192, 0, 2, 1], 80)));
        let enter = || gate.enter(&door, peer.ip(), Instant::now);
        let entrance = enter().unwrap().redeem();
        assert_eq!((enter().unwrap_err(), gate.returned()), (Limit::Source, 1));
        entrance.release(&peer);
        assert_eq!(gate.inside.load(Ordering::SeqCst), 0);
        drop(enter().unwrap());
        assert!(lock(&gate.sources).is_empty());
    }

    #[test]
    fn the_rate_allows_a_burst_and_then_a_pace() {
        let (gate, door) = gate(GateOptions { rate: Some((10, 3)), ..GateOptions::default() });
        let start = Instant::now();
        let after = |millis| start + Duration::from_millis(millis);
        let come = |at| (0..9).take_while(|_| gate.enter(&door, None, || at).is_ok()).count();
        assert_eq!(come(start), 3);
        let room = gate.room(&door, || after(50));
        let again = room.again.expect("a time");
        assert_eq!(room.count, 0);
        assert!(again > after(99) && again < after(110), "{:?}", again - start);
        assert_eq!((come(after(101)), come(after(250)), come(after(60_000))), (1, 1, 3));
    }
}
