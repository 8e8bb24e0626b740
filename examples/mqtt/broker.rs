//! The broker: the clients by their ids, and the retained messages.
//!
//! One lock guards all of it, also while a message is sent to its subscribers. So all of them get
//! messages in the same order. No send waits. Each message is compared with every filter; a broker
//! of many thousands would keep them in a tree.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use netpoll::{Bytes, Handle};

use crate::client::Client;
use crate::retained::Retained;

/// A message as a client published it.
#[derive(Clone)]
pub(crate) struct Message {
    pub(crate) topic: String,
    pub(crate) payload: Bytes,
    pub(crate) qos: u8,
    pub(crate) is_retained: bool,
}

/// The id of a client, and a number that tells it from the one that had the id before.
#[derive(Clone)]
pub(crate) struct Member {
    pub(crate) id: String,
    pub(crate) number: u64,
}

#[derive(Default)]
pub(crate) struct Broker(Mutex<State>);

#[derive(Default)]
struct State {
    clients: HashMap<String, Client>,
    retained: Retained,
    /// How many clients have joined.
    joined: u64,
}

impl Broker {
    /// Adds a client, in the place of the one that has its id, if any. The empty id is any that is
    /// free.
    pub(crate) fn join(&self, id: &str, handle: Handle) -> Member {
        let mut state = self.state();
        state.joined += 1;
        let number = state.joined;
        // No client can have chosen this one: ids have 64 bytes at most.
        let id = if id.is_empty() { format!("{number:0>65}") } else { id.to_owned() };
        if let Some(before) = state.clients.insert(id.clone(), Client::new(number, handle)) {
            before.close();
        }
        Member { id, number }
    }

    pub(crate) fn leave(&self, member: &Member) {
        let mut state = self.state();
        if find(&mut state.clients, member).is_some() {
            state.clients.remove(&member.id);
        }
    }

    /// Subscribes, and sends the retained messages. Whether the client may have one more filter.
    pub(crate) fn subscribe(&self, member: &Member, filter: &str, qos: u8) -> bool {
        let state = &mut *self.state();
        let Some(client) = find(&mut state.clients, member) else { return false };
        if !client.subscribe(filter, qos) {
            return false;
        }
        for message in state.retained.matching(filter) {
            client.deliver(message, qos, true, &mut None);
        }
        true
    }

    pub(crate) fn unsubscribe(&self, member: &Member, filter: &str) {
        if let Some(client) = find(&mut self.state().clients, member) {
            client.unsubscribe(filter);
        }
    }

    /// The client has answered the message of that packet.
    pub(crate) fn answered(&self, member: &Member, packet: u16) {
        if let Some(client) = find(&mut self.state().clients, member) {
            client.answered(packet);
        }
    }

    /// Sends a message to all that want it, and keeps it where it is to be retained.
    pub(crate) fn publish(&self, message: Message) {
        let mut state = self.state();
        let mut packet = None; // of QoS 0: one block for all
        for client in state.clients.values_mut() {
            if let Some(qos) = client.wants(&message.topic) {
                client.deliver(&message, qos, false, &mut packet);
            }
        }
        if message.is_retained {
            state.retained.put(message);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client, unless another one has taken its id over.
fn find<'a>(clients: &'a mut HashMap<String, Client>, member: &Member) -> Option<&'a mut Client> {
    clients.get_mut(&member.id).filter(|it| it.number == member.number)
}
