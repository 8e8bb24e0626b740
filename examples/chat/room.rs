//! The room: its members by name, and the lines that all of them get.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use netpoll::{Bytes, Error, Handle};

/// The longest name, in bytes. Each line of a member begins with it, so a long name would make
/// short lines long.
const NAME_MAX: usize = 16;

/// The members. The key is no address: the next connection may come from the same address before
/// the end of this one was noticed.
#[derive(Default)]
pub(crate) struct Room(Mutex<HashMap<String, Handle>>);

impl Room {
    /// Adds a member and welcomes it, if no other member has its name. The others are told.
    pub(crate) fn join(&self, name: &str, client: &Handle) -> bool {
        let mut members = self.members();
        let fits = (1..=NAME_MAX).contains(&name.len());
        if !fits || !name.bytes().all(is_in_name) || members.contains_key(name) {
            return false;
        }
        // Before any line of another member.
        if client.send("* welcome\n").is_err() {
            return false;
        }
        tell(&members, format!("* {name} is here\n"));
        members.insert(name.to_owned(), client.clone());
        true
    }

    pub(crate) fn leave(&self, name: &str) {
        let mut members = self.members();
        members.remove(name);
        tell(&members, format!("* {name} leaves\n"));
    }

    pub(crate) fn say(&self, line: String) {
        tell(&self.members(), line);
    }

    fn members(&self) -> MutexGuard<'_, HashMap<String, Handle>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends a line to all; under the lock, so that all get the same order. No send waits, and all
/// queues share the one block of the line.
fn tell(members: &HashMap<String, Handle>, line: String) {
    let line = Bytes::from(line);
    for member in members.values() {
        if let Err(Error::Full) = member.send(line.clone()) {
            member.abort(); // it does not read; `on_disconnect` takes it out of the room
        }
    }
}

fn is_in_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_".contains(&byte)
}
