//! A pass: a loop goes through its members and sends each what it has not got.

use std::sync::Arc;

use super::Inner;
use super::log::Turn;
use crate::base::sync::lock;
use crate::connection::mailbox::{Call, Command, Remote};

/// The pass of one group on one loop. It is in the mailbox of the loop, or in its hands.
struct Pass {
    group: Arc<Inner>,
    reactor: Arc<Remote>,
    is_over: bool,
}

/// Begins a pass on each of these loops, for which the log expects one.
pub(super) fn begin(group: &Arc<Inner>, reactors: Vec<Arc<Remote>>) {
    for reactor in reactors {
        Pass { group: group.clone(), reactor, is_over: false }.post();
    }
}

impl Pass {
    fn post(self) {
        let reactor = self.reactor.clone();
        // A loop that has ended gives the command back, and the drop ends the pass.
        drop(reactor.post(Command::Call(Call::new(move || self.turn()))));
    }

    fn turn(mut self) {
        let turn = lock(&self.group.log).begin_turn(&self.reactor);
        if let Some(turn) = turn {
            self.send(&turn);
        }
        let after = lock(&self.group.log).end_turn(&self.reactor);
        drop(after.sent); // not under the lock: it may hold what is the user's
        self.is_over = !after.again;
        if after.again {
            self.post();
        }
    }

    fn send(&self, Turn { members, messages, first }: &Turn) {
        // One count for all members: loops that send the same message would fight for it.
        let mut sent = vec![0; messages.len()];
        for member in members.iter().rev() {
            member.send(&self.group, *first, messages, |place| sent[place] += 1);
        }
        for (message, count) in messages.iter().zip(sent) {
            message.count_sent(count);
        }
    }
}

/// A loop that has ended takes no further turn: its connections have ended, or will without it.
impl Drop for Pass {
    fn drop(&mut self) {
        if !self.is_over {
            let (members, sent) = lock(&self.group.log).abandon(&self.reactor);
            drop(sent);
            for member in members {
                self.group.forget(&member);
            }
        }
    }
}
