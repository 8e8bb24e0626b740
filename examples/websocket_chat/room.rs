//! The room: its members, and the messages to all of them.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use netpoll::{Bytes, Error, Handle, Result};
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{Data, OpCode};

/// Names a member for good. Its address does not: the next connection may come from the same one
/// before the end of this one was noticed.
pub(crate) type Id = u64;

#[derive(Default)]
pub(crate) struct Room {
    members: Mutex<HashMap<Id, Handle>>,
    next: AtomicU64,
}

impl Room {
    pub(crate) fn join(&self, client: Handle) -> Id {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.members().insert(id, client);
        id
    }

    pub(crate) fn leave(&self, id: Id) {
        self.members().remove(&id);
    }

    /// Sends a message to all, in the same order to each. It is one frame, and all queues share its
    /// bytes.
    pub(crate) fn say(&self, text: Bytes) -> Result<()> {
        let mut frame = Vec::new();
        let message = Frame::message(text, OpCode::Data(Data::Text), true);
        message.format(&mut frame).map_err(io::Error::other)?;
        let frame = Bytes::from(frame);
        for client in self.members().values() {
            if let Err(Error::Full) = client.send(frame.clone()) {
                client.abort(); // it does not read
            }
        }
        Ok(())
    }

    fn members(&self) -> MutexGuard<'_, HashMap<Id, Handle>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
