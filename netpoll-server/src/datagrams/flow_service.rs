//! The flows of a socket: which datagrams belong to which, and when a flow ends.
//!
//! ```text
//!     a batch ──► runs of one flow ──► the table ──► on_datagrams(session, run)
//!                                       │ not there: on_flow makes its session, if there is room
//!     a timer for the oldest flow ─────► those that have been idle: on_flow_end
//! ```
//! Each socket has a table, which its owner alone touches; so a flow stays on its loop as long as
//! the kernel gives the socket its datagrams.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering;
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
    log: OncePer,
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
        let log = OncePer::new(LOG_PERIOD);
        Self { options, on_flow, on_datagrams, on_end, counters, log }
    }
}

impl<F: Send + 'static> PrepareDatagrams for Flows<F> {
    fn open(self: Arc<Self>, socket: &DatagramHandle) -> Result<Box<dyn DatagramService>> {
        let (table, socket) = (FlowTable::new(), socket.clone());
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
        self.expect_expiry();
        Ok(())
    }

    fn closed(mut self: Box<Self>) {
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
        let is_full = self.table.len() >= self.flows.options.max_flows;
        if is_full && self.flows.options.at_limit == AtFlowLimit::RefuseNew {
            count(&self.flows.counters.refused_at_limit);
            self.log_limit("new ones are refused");
            return None;
        }
        let session = match guard("on_flow", || self.flows.on_flow.on_flow(first)) {
            Ok(Ok(session)) => session,
            refused => {
                count(&self.flows.counters.refused);
                if let Ok(Err(error)) = refused {
                    log::debug!("a flow of {} is refused: {error}", key.peer);
                }
                return None;
            }
        };
        if is_full && let Some(victim) = self.table.victim() {
            count(&self.flows.counters.evicted);
            self.log_limit("the oldest ones end");
            self.end(victim, &FlowEnd::Evicted);
        }
        count(&self.flows.counters.begun);
        self.flows.counters.open.fetch_add(1, Ordering::Relaxed);
        Some(self.table.insert(key.clone(), session, now))
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

    fn end(&mut self, slot: Slot, why: &FlowEnd) {
        let Some((_, session)) = self.table.remove(slot) else { return };
        self.flows.counters.open.fetch_sub(1, Ordering::Relaxed);
        guard("on_flow_end", || (self.flows.on_end)(session, why)).ok();
    }

    fn log_limit(&self, what: &str) {
        if let Some(unlogged) = self.flows.log.pass(clock::now(), 1) {
            let most = self.flows.options.max_flows;
            log::warn!("a socket has {most} flows, its max_flows: {what} (and {unlogged} before)");
        }
    }
}
