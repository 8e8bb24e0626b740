//! What has happened in memory and a driver has not handed out, and the wake-up.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::base::sync::{Condvar, Mutex, lock};
use crate::io::readiness::{Readiness, StreamEvent};
use crate::pure::slab::Token;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    pub(super) state: Mutex<State>,
    pub(super) arrived: Condvar,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) streams: VecDeque<StreamEvent>,
    pub(super) connected: VecDeque<Token>,
    /// The queue of a listener may have a connection, and the listener may have room.
    pub(super) accepting: bool,
    pub(super) woken: bool,
}

/// What ends the wait of a driver.
#[derive(Debug)]
pub(crate) struct Signal(pub(super) Arc<Reports>);

impl State {
    pub(super) fn has_any(&self) -> bool {
        let has_events = !self.streams.is_empty() || !self.connected.is_empty();
        has_events || self.accepting || self.woken
    }
}

impl Reports {
    /// Something has happened to a stream.
    pub(super) fn stream(&self, token: Token, readiness: Readiness) {
        lock(&self.state).streams.push_back(StreamEvent { token, readiness });
        self.arrived.notify_all();
    }

    /// A listener may have something to accept.
    pub(super) fn accepting(&self) {
        lock(&self.state).accepting = true;
        self.arrived.notify_all();
    }
}

impl Signal {
    pub(crate) fn send(&self) {
        lock(&self.0.state).woken = true;
        self.0.arrived.notify_all();
    }
}
