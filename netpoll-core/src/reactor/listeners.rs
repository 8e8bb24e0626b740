//! The listeners of a reactor, when they accept, and the preambles of what they accepted.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::registry::{FdOperator, ListenerOperator};
use super::timers::Action;
use super::{Core, Ending};
use crate::connection::incoming::{Accept, Preamble, Room};
use crate::io::listener::Listener;
use crate::pure::slab::Token;

impl Core {
    /// Begins to accept on a listener, once its acceptor says that it has room.
    pub(super) fn listen(&mut self, listener: Arc<Listener>, accept: Box<dyn Accept>) {
        match self.end {
            Ending::Never => {}
            Ending::WhenEmpty | Ending::Failed => return accept.retired(),
            Ending::Stopping { .. } => return,
        }
        let exclusive = accept.is_one_of_several();
        let operator = ListenerOperator { listener: listener.clone(), accept, told: false };
        let token = self.operators.insert(FdOperator::Listener(Box::new(operator)));
        self.driver.listen(listener, token, exclusive);
        self.listeners.push(token);
        self.all_unlimited = false;
    }

    pub(super) fn unlisten(&mut self, listener: &Arc<Listener>) {
        let is_it = |token: &Token| match self.operators.find_mut(*token) {
            Some(FdOperator::Listener(it)) => Arc::ptr_eq(&it.listener, listener),
            _ => false,
        };
        if let Some(token) = self.listeners.clone().into_iter().find(is_it) {
            drop(self.remove_listener(token));
        }
    }

    /// Asks the acceptors how much room they have, unless all had room for any number of
    /// connections. Returns when to ask again.
    #[inline]
    pub(super) fn ask_for_room(&mut self) -> Option<Instant> {
        if std::mem::replace(&mut self.all_unlimited, true) { None } else { self.ask_acceptors() }
    }

    #[inline(never)] // so that the common answer, of each turn, is inlined
    fn ask_acceptors(&mut self) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        // From the end, since one that is given up is taken out.
        for place in (0..self.listeners.len()).rev() {
            let Some(&listener) = self.listeners.get(place) else { continue };
            let Some(FdOperator::Listener(it)) = self.operators.find_mut(listener) else {
                continue;
            };
            let room = it.accept.room();
            self.all_unlimited &= room == Room::ANY;
            if let (0, Some(again)) = (room.count, room.again) {
                next = Some(next.map_or(again, |next| next.min(again)));
            }
            match self.driver.set_room(listener, room.count) {
                Err(error) => self.give_up_listener(listener, error),
                Ok(()) if !std::mem::replace(&mut it.told, true) => it.accept.watched(),
                Ok(()) => {}
            }
        }
        next
    }

    /// Stops accepting, and tells the acceptors, which have other loops go on.
    pub(super) fn retire_listeners(&mut self) {
        while let Some(&listener) = self.listeners.last() {
            if let Some(accept) = self.remove_listener(listener) {
                accept.retired();
            }
        }
    }

    /// A listener has failed to accept a connection.
    pub(super) fn not_accepted(&mut self, listener: Token, error: io::Error, skipped: bool) {
        let Some(FdOperator::Listener(it)) = self.operators.find_mut(listener) else {
            return;
        };
        if skipped {
            self.remote.counters.lost.add(1);
            return log::debug!("a connection was gone before it was accepted: {error}");
        }
        self.remote.counters.accept_failures.add(1);
        self.all_unlimited = false;
        if !it.accept.failed(&error) {
            self.give_up_listener(listener, error);
        }
    }

    pub(super) fn await_preamble(&mut self, preamble: Box<dyn Preamble>, late: Instant) {
        let token = self.operators.insert(FdOperator::Preamble(preamble));
        let Some(FdOperator::Preamble(preamble)) = self.operators.find_mut(token) else { return };
        if let Err(error) = self.driver.watch(preamble.stream(), token) {
            log::warn!("cannot watch a new connection: {error}");
            self.operators.remove(token);
            return;
        }
        // The driver also reports what had arrived before. The timer finds the preamble by its
        // token.
        self.timers.arm(late, Action::Late(token));
    }

    /// Ends the preambles that `which` names: no more time is left for them.
    pub(super) fn end_preambles(&mut self, which: impl Fn(&dyn Preamble) -> bool) {
        let these = |it: &FdOperator| match it {
            FdOperator::Preamble(preamble) => which(&**preamble),
            _ => false,
        };
        for token in self.operators.tokens(these) {
            self.end_preamble(token);
        }
    }

    pub(super) fn end_preamble(&mut self, token: Token) {
        if !matches!(self.operators.find_mut(token), Some(FdOperator::Preamble(_))) {
            return;
        }
        let Some(FdOperator::Preamble(preamble)) = self.operators.remove(token) else { return };
        if let Err(error) = self.driver.forget(preamble.stream(), token) {
            log::debug!("cannot stop watching a new connection: {error}");
        }
        preamble.end();
    }

    fn give_up_listener(&mut self, listener: Token, error: io::Error) {
        if let Some(accept) = self.remove_listener(listener) {
            accept.given_up(error);
        }
    }

    fn remove_listener(&mut self, listener: Token) -> Option<Box<dyn Accept>> {
        if let Err(error) = self.driver.unlisten(listener) {
            log::debug!("cannot stop watching a listener: {error}");
        }
        self.listeners.retain(|&it| it != listener);
        match self.operators.remove(listener) {
            Some(FdOperator::Listener(it)) => Some(it.accept),
            _ => None,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;
    use crate::base::limits::Limits;
    use crate::connection::group::ConnectionGroup;
    use crate::io::stream::Stream;
    use crate::pure::spin::Spin;

    /// A preamble with bytes that it has not looked at.
    struct Unseen(Stream, mpsc::Sender<&'static str>);

    impl Preamble for Unseen {
        fn stream(&self) -> &Stream {
            &self.0
        }

        fn is_of(&self, _: &Arc<ConnectionGroup>) -> bool {
            true
        }

        fn is_complete(&mut self) -> bool {
            false
        }

        fn end(self: Box<Self>) {
            let _ = self.1.send("a last look");
        }
    }

    #[test]
    fn preambles_have_a_last_look_before_accepting_ends() {
        let group = ConnectionGroup::dialled(Limits::default()).expect("good limits");
        for asked in [true, false] {
            let mut core = Core::new(0, Spin::Never).expect("a driver");
            let (remote, (sender, told)) = (core.remote().clone(), mpsc::channel());
            let (ours, _peer) = UnixStream::pair().expect("two descriptors");
            let late = Instant::now() + Duration::from_secs(3600);
            remote.await_preamble(Box::new(Unseen(Stream::new(ours.into()), sender)), late);
            if asked {
                remote.end_preambles(&group);
            }
            remote.stop(Duration::ZERO);
            assert!(core.next(|| ()).is_none(), "it was stopped");
            core.end();
            assert_eq!(told.try_recv(), Ok("a last look"));
        }
    }
}
