//! The room: its members by name, and what is said to all of them.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use netpoll::{Bytes, Error, Handle};

/// The longest name, in bytes. All that a member says begins with it, so a long one would make much
/// of little.
const NAME_MAX: usize = 16;

/// Who is in the room. A name is no address: the next connection may come from the same address
/// before this one's end was noticed.
#[derive(Default)]
pub(crate) struct Room(Mutex<HashMap<String, Handle>>);

impl Room {
    /// Lets a guest in and welcomes it, if its name is one that nobody has. The others are told.
    pub(crate) fn join(&self, name: &str, guest: &Handle) -> bool {
        let mut members = self.members();
        let fits = (1..=NAME_MAX).contains(&name.len());
        if !fits || !name.bytes().all(is_in_name) || members.contains_key(name) {
            return false;
        }
        // Before anything that others say.
        if guest.send("* welcome\n").is_err() {
            return false;
        }
        tell(&members, format!("* {name} is here\n"));
        members.insert(name.to_owned(), guest.clone());
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

/// Sends a line to all; under the lock, so that all hear the same order. No send waits, and the one
/// block of the line is shared by all queues.
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
