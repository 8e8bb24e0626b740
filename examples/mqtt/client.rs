//! A client as the broker knows it: its filters, and the messages that it has to answer.

use std::collections::HashSet;

use netpoll::{Bytes, Error, Handle};

use crate::broker::Message;
use crate::packet::publish;
use crate::topic::matches;

/// How many filters a client may have.
const FILTERS_MAX: usize = 64;
/// How many messages of `QoS` 1 a client may leave without an answer.
const UNANSWERED_MAX: usize = 10_000;

pub(crate) struct Client {
    pub(crate) number: u64,
    handle: Handle,
    filters: Vec<(String, u8)>,
    unanswered: HashSet<u16>,
    last_packet: u16,
}

impl Client {
    pub(crate) fn new(number: u64, handle: Handle) -> Self {
        let (filters, unanswered) = (Vec::new(), HashSet::new());
        Self { number, handle, filters, unanswered, last_packet: 0 }
    }

    pub(crate) fn close(&self) {
        self.handle.close();
    }

    /// Adds a filter, or gives it another `QoS`. Whether there was room.
    pub(crate) fn subscribe(&mut self, filter: &str, qos: u8) -> bool {
        self.unsubscribe(filter);
        let has_room = self.filters.len() < FILTERS_MAX;
        if has_room {
            self.filters.push((filter.to_owned(), qos));
        }
        has_room
    }

    pub(crate) fn unsubscribe(&mut self, filter: &str) {
        self.filters.retain(|(had, _)| had != filter);
    }

    pub(crate) fn answered(&mut self, packet: u16) {
        self.unanswered.remove(&packet);
    }

    /// The largest `QoS` of the filters that take a topic.
    pub(crate) fn wants(&self, topic: &str) -> Option<u8> {
        let taking = self.filters.iter().filter(|(filter, _)| matches(filter, topic));
        taking.map(|&(_, qos)| qos).max()
    }

    /// Sends a message. `packet` is that of `QoS` 0, which is made once for all clients.
    ///
    /// A client that does not read misses messages of `QoS` 0. Those of `QoS` 1 must not get lost,
    /// so it is cut off: it has to begin anew then, since no session is kept.
    pub(crate) fn deliver(
        &mut self,
        message: &Message,
        qos: u8,
        is_retained: bool,
        packet: &mut Option<Bytes>,
    ) {
        let encode = |id| publish(&message.topic, &message.payload, id, is_retained);
        if qos.min(message.qos) == 0 {
            let _ = self.handle.send(packet.get_or_insert_with(|| encode(None)).clone());
            return;
        }
        if self.unanswered.len() == UNANSWERED_MAX {
            return self.handle.abort();
        }
        let id = self.next_packet();
        if let Err(Error::Full) = self.handle.send(encode(Some(id))) {
            self.handle.abort();
        }
    }

    /// The next id of a packet, which is no 0 and not that of one without an answer.
    fn next_packet(&mut self) -> u16 {
        loop {
            self.last_packet = self.last_packet.wrapping_add(1);
            if self.last_packet != 0 && self.unanswered.insert(self.last_packet) {
                return self.last_packet;
            }
        }
    }
}
