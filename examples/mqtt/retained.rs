//! The retained messages: the last one of each topic, for clients that subscribe later.

use std::collections::BTreeMap;

use crate::broker::Message;
use crate::topic::matches;

/// How many there may be, and how many bytes they take. Those of one subscription fit into the
/// output of a client, and into the messages that it may leave without an answer.
const MESSAGES_MAX: usize = 1000;
const BYTES_MAX: usize = 1 << 20;

#[derive(Default)]
pub(crate) struct Retained {
    messages: BTreeMap<String, Message>,
    bytes: usize,
}

impl Retained {
    /// Keeps a message in the place of the one before it. An empty one only removes that, and one
    /// for which there is no room as well.
    pub(crate) fn put(&mut self, message: Message) {
        if let Some(before) = self.messages.remove(&message.topic) {
            self.bytes -= size(&before);
        }
        let has_room =
            self.messages.len() < MESSAGES_MAX && self.bytes + size(&message) <= BYTES_MAX;
        if has_room && !message.payload.is_empty() {
            self.bytes += size(&message);
            self.messages.insert(message.topic.clone(), message);
        }
    }

    pub(crate) fn matching(&self, filter: &str) -> impl Iterator<Item = &Message> {
        self.messages.values().filter(move |it| matches(filter, &it.topic))
    }
}

fn size(message: &Message) -> usize {
    message.topic.len() + message.payload.len()
}
