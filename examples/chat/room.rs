//! The room: the names of its members, and the group that gets what they say.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use netpoll::{Group, Handle, Result, SlowMembers};

/// The longest name, in bytes. Each line of a member begins with it, so a long name would make
/// short lines long.
const NAME_MAX: usize = 16;

/// A line goes to all members by one `broadcast`: the loops send it, all queues share its memory,
/// and all members get the same order. A member that does not read is dropped, and its
/// `on_disconnect` takes its name out of the room.
pub(crate) struct Room {
    names: Mutex<HashSet<String>>,
    members: Group,
}

impl Room {
    pub(crate) fn new() -> Result<Self> {
        let members = Group::builder().slow_members(SlowMembers::Drop).build()?;
        Ok(Self { names: Mutex::default(), members })
    }

    /// Adds a member and welcomes it, if no other member has its name. The others are told.
    pub(crate) fn join(&self, name: &str, client: &Handle) -> bool {
        let mut names = self.names();
        let fits = (1..=NAME_MAX).contains(&name.len());
        if !fits || !name.bytes().all(is_in_name) || names.contains(name) {
            return false;
        }
        // Before any line of another member.
        if client.send("* welcome\n").is_err() {
            return false;
        }
        self.say(format!("* {name} is here\n"));
        self.members.add(client);
        names.insert(name.to_owned())
    }

    /// The connection has left the group by its end; its name is free again.
    pub(crate) fn leave(&self, name: &str) {
        let mut names = self.names();
        names.remove(name);
        self.say(format!("* {name} leaves\n"));
    }

    /// Sends a line to all. If members say more than the loops can send, the line is lost.
    pub(crate) fn say(&self, line: String) {
        if self.members.broadcast(line).is_err() {
            eprintln!("a line was lost: more is said than can be sent");
        }
    }

    fn names(&self) -> MutexGuard<'_, HashSet<String>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_in_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_".contains(&byte)
}
