//! All addresses of a pool, and whether the pool is closed.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex};

use super::address::{AddressPool, PoolLimits};
use super::stats::{Counters, PoolStats};
use crate::sync::lock;

/// See the module.
pub(super) struct Addresses {
    pub(super) limits: PoolLimits,
    pools: Mutex<ByAddress>,
    counters: Arc<Counters>,
    pub(super) life: Mutex<Life>,
    /// Notified when the pool closes.
    pub(super) closing: Condvar,
}

/// By network, then by address.
type ByAddress = HashMap<Box<str>, HashMap<Box<str>, Arc<AddressPool>>>;

/// What the pool and its reaper tell each other.
#[derive(Default)]
pub(super) struct Life {
    /// The reaper's thread runs.
    pub(super) is_reaped: bool,
    /// The last clone of the pool is gone.
    pub(super) is_closed: bool,
}

impl Addresses {
    pub(super) fn new(limits: PoolLimits) -> Self {
        Self {
            limits,
            pools: Mutex::default(),
            counters: Arc::default(),
            life: Mutex::default(),
            closing: Condvar::new(),
        }
    }

    /// The pool of one address. It allocates only for an address that is new.
    pub(super) fn of(&self, network: &str, address: &str) -> Arc<AddressPool> {
        let mut networks = lock(&self.pools);
        let found = networks.get(network).and_then(|addresses| addresses.get(address));
        if let Some(pool) = found {
            return pool.clone();
        }
        let pool = Arc::new(AddressPool::new(self.limits, self.counters.clone()));
        networks.entry(network.into()).or_default().insert(address.into(), pool.clone());
        pool
    }

    /// Every address. It forgets addresses without a connection to which no thread has a reference.
    pub(super) fn sweep(&self) -> Vec<Arc<AddressPool>> {
        let mut networks = lock(&self.pools);
        for addresses in networks.values_mut() {
            addresses.retain(|_, pool| Arc::strong_count(pool) > 1 || pool.has_open());
        }
        networks.retain(|_, addresses| !addresses.is_empty());
        networks.values().flat_map(HashMap::values).cloned().collect()
    }

    /// Closes idle connections. A connection that is handed out closes when it comes back.
    pub(super) fn close(&self) {
        lock(&self.life).is_closed = true;
        self.closing.notify_all();
        for pool in self.sweep() {
            pool.close();
        }
    }

    pub(super) fn stats(&self) -> PoolStats {
        let mut stats = self.counters.read();
        for pool in self.sweep() {
            pool.add_to(&mut stats);
        }
        stats
    }
}
