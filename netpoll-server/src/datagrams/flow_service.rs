//! The flows of a socket: which datagrams belong to which, and when a flow ends.
//!
//! ```text
//!     a batch ──► runs of one flow ──► the table ──► on_datagrams(session, run)
//!                                       │ not there: on_flow makes its session, if there is room
//!     a timer for the oldest flow ─────► those that have been idle: on_flow_end
//! ```
//! Each socket has a table, which its owner alone touches; so a flow stays on its loop as long as
//! the kernel gives the socket its datagrams. The bound is that of all tables together. A socket
//! that has found no room, and has less than its share, wakes the others: those above their share
//! give up a flow.

use std::cell::Cell;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use netpoll_core::{
    Datagram, DatagramBatch, DatagramHandle, DatagramService, OncePer, Panicked, PrepareDatagrams,
    Result, clock, guard,
};

use super::flow::{FlowBatch, Wishes};
use super::flow_callbacks::{FlowEnd, OnEnd, OnFlow, OnFlowDatagrams};
use super::flow_options::{AtFlowLimit, FlowOptions};
use super::flow_stats::{FlowCounters, count};
use super::flow_table::{FlowKey, FlowTable, Slot};
use crate::sync::lock;

/// How many flows of one socket end before others have their turn.
const ENDS_AT_ONCE: usize = 256;
/// At most one line in this time says that flows are refused or evicted.
const LOG_PERIOD: Duration = Duration::from_secs(10);

/// What the tables of all loops have in common.
pub(super) struct Flows<F> {
    options: FlowOptions,
    on_flow: Box<dyn OnFlow<F>>,
    on_datagrams: Box<dyn OnFlowDatagrams<F>>,
    on_end: OnEnd<F>,
    counters: Arc<FlowCounters>,
    /// The sockets that have a table.
    sockets: Mutex<Vec<DatagramHandle>>,
    /// How many flows a socket may keep while another one wants room.
    share: AtomicUsize,
    /// Whether a socket with less than its share has found no room; a [`Want`]. Meanwhile one place
    /// is kept for such sockets.
    want: AtomicU8,
    log: OncePer,
}

/// What a socket with less than its share wants of those with more. Confirmed flows make room for
/// the first flow of a socket alone, so that forged peers drive no more of them out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Want {
    Nothing,
    /// The place of a flow that is not confirmed.
    Unconfirmed,
    /// That of any flow: it has none.
    Any,
}

/// The place that a new flow takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Room {
    /// One that was free; it is counted already.
    Free,
    /// That of the flow which makes room for it.
    OfOldest,
}

/// The flows of one socket.
struct FlowsOfSocket<F> {
    flows: Arc<Flows<F>>,
    table: FlowTable<F>,
    socket: DatagramHandle,
    /// When it is woken next.
    alarm: Option<Instant>,
}

impl<F> Flows<F> {
    pub(super) fn new(
        options: FlowOptions,
        on_flow: Box<dyn OnFlow<F>>,
        on_datagrams: Box<dyn OnFlowDatagrams<F>>,
        on_end: OnEnd<F>,
        counters: Arc<FlowCounters>,
    ) -> Self {
        Self {
            options,
            on_flow,
            on_datagrams,
            on_end,
            counters,
            sockets: Mutex::default(),
            share: AtomicUsize::new(options.max_flows),
            want: AtomicU8::new(Want::Nothing as u8),
            log: OncePer::new(LOG_PERIOD),
        }
    }

    /// Changes which sockets have a table.
    fn change(&self, change: impl FnOnce(&mut Vec<DatagramHandle>)) {
        let mut sockets = lock(&self.sockets);
        change(&mut sockets);
        let share = self.options.max_flows / sockets.len().max(1);
        self.share.store(share.max(1), Ordering::Relaxed);
    }

    fn share(&self) -> usize {
        self.share.load(Ordering::Relaxed)
    }

    fn want(&self) -> Want {
        match self.want.load(Ordering::SeqCst) {
            it if it == Want::Unconfirmed as u8 => Want::Unconfirmed,
            it if it == Want::Any as u8 => Want::Any,
            _ => Want::Nothing,
        }
    }

    /// Has sockets that have more than their share give up a flow.
    fn ask_for_room(&self, want: Want) {
        if self.want.fetch_max(want as u8, Ordering::SeqCst) < want as u8 {
            let sockets = lock(&self.sockets).clone();
            sockets.iter().for_each(DatagramHandle::wake);
        }
    }
}

impl<F: Send + 'static> PrepareDatagrams for Flows<F> {
    fn open(self: Arc<Self>, socket: &DatagramHandle) -> Result<Box<dyn DatagramService>> {
        let (table, socket) = (FlowTable::new(), socket.clone());
        self.change(|sockets| sockets.push(socket.clone()));
        Ok(Box::new(FlowsOfSocket { flows: self, table, socket, alarm: None }))
    }
}

impl<F: Send + 'static> DatagramService for FlowsOfSocket<F> {
    fn received(&mut self, batch: &DatagramBatch<'_>) -> Result<()> {
        let now = clock::now();
        let mut rest = batch.iter();
        while let Some(first) = rest.clone().next() {
            let key = FlowKey { peer: first.peer().clone(), local: first.local() };
            let is_of_it = |it: &Datagram<'_>| *it.peer() == key.peer && it.local() == key.local;
            let length = rest.clone().take_while(is_of_it).count();
            let datagrams = rest.clone().take(length);
            for _ in 0..length {
                rest.next();
            }
            if let Some(slot) = self.find_or_begin(&key, &first, now) {
                let wishes = Cell::default();
                self.call(slot, &FlowBatch { key: &key, batch, datagrams, wishes }, now);
            }
        }
        self.expect_expiry();
        Ok(())
    }

    fn woken(&mut self, _: &DatagramBatch<'_>) -> Result<()> {
        self.alarm = None;
        let now = clock::now();
        for _ in 0..ENDS_AT_ONCE {
            let Some(slot) = self.table.expired(self.flows.options.idle, now) else { break };
            count(&self.flows.counters.expired);
            self.end(slot, &FlowEnd::Idle);
        }
        self.give_room();
        self.expect_expiry();
        Ok(())
    }

    fn closed(mut self: Box<Self>) {
        self.flows.change(|sockets| sockets.retain(|it| *it != self.socket));
        while let Some(slot) = self.table.victim() {
            self.end(slot, &FlowEnd::Closed);
        }
    }
}

impl<F: 'static> FlowsOfSocket<F> {
    /// Has the socket woken when the oldest flow expires. Later activity moves no timer: the flow
    /// that is oldest by then is waited for next.
    fn expect_expiry(&mut self) {
        let Some(at) = self.table.next_expiry(self.flows.options.idle) else { return };
        if self.alarm.is_none_or(|alarm| at < alarm) {
            self.alarm = Some(at);
            self.socket.wake_at(at);
        }
    }

    fn find_or_begin(&mut self, key: &FlowKey, first: &Datagram<'_>, now: Instant) -> Option<Slot> {
        if let Some(slot) = self.table.find(key) {
            self.table.touch(slot, now);
            return Some(slot);
        }
        let room = self.room()?;
        let session = match guard("on_flow", || self.flows.on_flow.on_flow(first)) {
            Ok(Ok(session)) => session,
            refused => {
                if room == Room::Free {
                    self.flows.counters.leave();
                }
                count(&self.flows.counters.refused);
                if let Ok(Err(error)) = refused {
                    log::debug!("a flow of {} is refused: {error}", key.peer);
                }
                return None;
            }
        };
        if room == Room::OfOldest
            && let Some(victim) = self.table.victim()
        {
            self.evict(victim);
        }
        count(&self.flows.counters.begun);
        Some(self.table.insert(key.clone(), session, now))
    }

    /// Finds room for one more flow.
    fn room(&self) -> Option<Room> {
        let FlowOptions { max_flows, at_limit, .. } = self.flows.options;
        let is_below = self.table.len() < self.flows.share();
        let is_wanted = self.flows.want() != Want::Nothing;
        let most = if is_wanted && !is_below { max_flows - 1 } else { max_flows };
        if self.flows.counters.enter(most) {
            if is_wanted && is_below {
                self.flows.want.store(Want::Nothing as u8, Ordering::SeqCst);
            }
            return Some(Room::Free);
        }
        if at_limit == AtFlowLimit::DropOldest && is_below {
            let is_empty = self.table.len() == 0;
            self.flows.ask_for_room(if is_empty { Want::Any } else { Want::Unconfirmed });
        }
        if at_limit == AtFlowLimit::DropOldest && self.table.len() > 0 {
            return Some(Room::OfOldest);
        }
        count(&self.flows.counters.refused_at_limit);
        self.log_limit("new ones are refused");
        None
    }

    /// Gives up a flow where another socket wants room, and this one has more than its share.
    fn give_room(&mut self) {
        let flows = &*self.flows;
        let is_full = flows.counters.is_full(flows.options.max_flows);
        if !is_full || self.table.len() <= flows.share() {
            return;
        }
        let victim = match flows.want() {
            Want::Nothing => None,
            Want::Unconfirmed => self.table.unconfirmed_victim(),
            Want::Any => self.table.victim(),
        };
        if let Some(victim) = victim {
            self.evict(victim);
            self.flows.counters.leave();
        }
    }

    /// Ends a flow that makes room for another one, whose place stays taken.
    fn evict(&mut self, victim: Slot) {
        count(&self.flows.counters.evicted);
        self.log_limit("the oldest ones end");
        self.finish(victim, &FlowEnd::Evicted);
    }

    fn call(&mut self, slot: Slot, batch: &FlowBatch<'_>, now: Instant) {
        let Some(session) = self.table.session(slot) else { return };
        let outcome =
            guard("on_datagrams", || self.flows.on_datagrams.on_datagrams(session, batch));
        let Wishes { confirm, end } = batch.wishes.get();
        match outcome {
            Ok(Ok(())) if end => self.end(slot, &FlowEnd::Local),
            Ok(Ok(())) if confirm => self.table.confirm(slot, now),
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                log::debug!("the flow of {} ends: {error}", batch.key.peer);
                self.end(slot, &FlowEnd::Callback(error));
            }
            Err(Panicked) => self.end(slot, &FlowEnd::Panic),
        }
    }

    /// Ends a flow, and gives its place back.
    fn end(&mut self, slot: Slot, why: &FlowEnd) {
        if self.finish(slot, why) {
            self.flows.counters.leave();
        }
    }

    /// Ends a flow, whose place stays taken; says whether there was one.
    fn finish(&mut self, slot: Slot, why: &FlowEnd) -> bool {
        let Some((_, session)) = self.table.remove(slot) else { return false };
        guard("on_flow_end", || (self.flows.on_end)(session, why)).ok();
        true
    }

    fn log_limit(&self, what: &str) {
        if let Some(unlogged) = self.flows.log.pass(clock::now(), 1) {
            let most = self.flows.options.max_flows;
            log::warn!("there are {most} flows, the max_flows: {what} (and {unlogged} before)");
        }
    }
}
