//! A listening socket that is served, with the streams that it accepted too early.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use netpoll_core::socket::{Handshake, Listener};
use netpoll_core::{Address, ListenerInfo, Stream};

use super::context::AcceptContext;
use crate::admission::ListenerCount;
use crate::proxy::ProxyProtocol;
use crate::service::Service;
use crate::sync::lock;

/// What an assignment and its acceptor know of their socket.
pub(crate) struct ListeningSocket {
    pub(super) context: Arc<AcceptContext>,
    pub(super) info: Arc<ListenerInfo>,
    pub(super) count: Arc<ListenerCount>,
    pub(super) proxy: Option<ProxyProtocol>,
    pub(super) listener: Arc<Listener>,
    pub(super) idle_loop_accepts: bool,
    overflow: Mutex<Overflow>,
    /// Another process, or the user, may have a descriptor of the socket.
    shared: AtomicBool,
    /// A loop has watched it.
    watched: AtomicBool,
}

/// Streams that were accepted when the last place had just been taken on another loop. They wait
/// for a place here and not in an acceptor, so that the socket's next acceptor finds them.
pub(super) type Overflow = VecDeque<(Stream, Address)>;

impl ListeningSocket {
    pub(crate) fn new(
        context: &Arc<AcceptContext>,
        info: &Arc<ListenerInfo>,
        count: &Arc<ListenerCount>,
        service: &Service,
        listener: Arc<Listener>,
    ) -> Arc<Self> {
        let (context, info, count) = (context.clone(), info.clone(), count.clone());
        context.opening.expect_one();
        Arc::new(Self {
            context,
            info,
            count,
            proxy: service.proxy.clone(),
            listener,
            idle_loop_accepts: service.idle_loop_accepts,
            overflow: Mutex::default(),
            shared: false.into(),
            watched: false.into(),
        })
    }

    pub(super) fn overflow(&self) -> MutexGuard<'_, Overflow> {
        lock(&self.overflow)
    }

    /// The socket, for a process that may go on with the socket whatever happens here.
    pub(crate) fn share(&self) -> &Arc<Listener> {
        self.shared.store(true, Ordering::SeqCst);
        &self.listener
    }

    /// Whether another process may have a descriptor of the socket, and go on with it.
    pub(crate) fn is_shared(&self) -> bool {
        self.shared.load(Ordering::SeqCst)
    }

    /// A loop watches it.
    pub(super) fn watched(&self) {
        if !self.watched.swap(true, Ordering::SeqCst) {
            self.context.opening.watched();
        }
    }

    /// From here on no further client can begin to connect. Returns the handshakes that have begun
    /// and are not in the queue yet. Best effort: Unix sockets have no handshakes, and no filter.
    pub(crate) fn turn_away_newcomers(&self) -> Vec<Handshake> {
        if self.info.address.is_unix() {
            return Vec::new();
        }
        if let Err(error) = self.listener.turn_away_newcomers() {
            log::debug!("cannot filter newcomers at a closing listener: {error}");
        }
        self.handshakes()
    }

    /// Whether one of these handshakes is still under way.
    pub(crate) fn awaits(&self, begun: &[Handshake]) -> bool {
        !begun.is_empty() && self.handshakes().iter().any(|it| begun.contains(it))
    }

    /// None where the system does not tell.
    fn handshakes(&self) -> Vec<Handshake> {
        self.listener.handshakes().unwrap_or_else(|error| {
            log::debug!("cannot ask for handshakes on {}: {error}", self.info.address);
            Vec::new()
        })
    }

    /// Closes the port, even if a loop that is inside a callback releases the socket late.
    pub(crate) fn stop_listening(&self) {
        if let Err(error) = self.listener.stop_listening() {
            log::debug!("cannot close the port before the loop does: {error}");
        }
    }
}
