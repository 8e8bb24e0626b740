//! The sockets of datagrams that an event loop serves, until its shutdown, or until another process
//! goes on with them.

use std::sync::{Arc, Mutex};

use netpoll_core::socket::DatagramFeatures;
use netpoll_core::{
    ConnectionGroup, DatagramHandle, DatagramSocket, DatagramStart, DatagramStats, OnWatched,
    Remote, Result, serve_datagrams_from,
};

use super::bound::Parts;
use super::flow_stats::{FlowCounters, FlowStats};
use super::served::DatagramServer;
use crate::handover::manifest::Entry;
use crate::handover::succession::{Share, Succession};
use crate::service::Service;
use crate::socket_file::SocketFile;
use crate::sync::lock;

/// See the module.
#[derive(Default)]
pub(crate) struct OpenDatagrams {
    servers: Mutex<Vec<OpenServer>>,
}

struct OpenServer {
    sockets: Vec<DatagramHandle>,
    name: Option<String>,
    features: DatagramFeatures,
    flows: Option<Arc<FlowCounters>>,
    file: Option<SocketFile>,
    share: Option<Share>,
}

impl OpenDatagrams {
    /// Serves one on the first of these loops, or on each of them with a socket of its own. Sockets
    /// that were taken over are served as they are, so that no peer moves, and receive nothing
    /// until [`receive`](Self::receive). What `on_watched` makes is told of each socket when its
    /// loop watches it.
    pub(crate) fn serve(
        &self,
        server: DatagramServer,
        group: &Arc<ConnectionGroup>,
        loops: &[Arc<Remote>],
        on_watched: impl Fn() -> OnWatched,
    ) -> Result<()> {
        let DatagramServer { socket: bound, callbacks, limits, flows } = server;
        let (address, flows) = (bound.name_or_address(), flows.map(|(_, counters)| counters));
        let Parts { mut sockets, name, features, mut file, further, share } = bound.take();
        if let Some(further) = further.filter(|_| loops.len() > 1) {
            // All are bound before the first of them is served, so that the kernel spreads peers
            // over all of them from the first on.
            sockets[0].share_port()?;
            for _ in 1..loops.len() {
                sockets.push(further.open()?);
            }
        }
        log::info!("serving datagrams at {address}");
        if let Some(file) = &mut file {
            file.serve();
        }
        let is_paused = share.is_some();
        let mut open = OpenServer { sockets: Vec::new(), name, features, flows, file, share };
        let mut served = Ok(());
        for (socket, reactor) in sockets.into_iter().zip(loops.iter().cycle()) {
            let start = DatagramStart { is_paused, on_watched: Some(on_watched()) };
            let callbacks = callbacks.clone();
            let handle = serve_datagrams_from(start, socket, callbacks, limits, group, reactor);
            served = served.and(handle.map(|it| open.sockets.push(it)));
        }
        lock(&self.servers).push(open);
        served
    }

    /// What all sockets have done so far.
    pub(crate) fn stats(&self) -> DatagramStats {
        let servers = lock(&self.servers);
        let all = servers.iter().flat_map(|it| &it.sockets);
        all.map(DatagramHandle::stats).fold(DatagramStats::default(), |sum, it| sum + it)
    }

    /// What all flows have done so far.
    pub(crate) fn flow_stats(&self) -> FlowStats {
        let mut stats = FlowStats::default();
        for flows in lock(&self.servers).iter().filter_map(|it| it.flows.as_ref()) {
            flows.add_to(&mut stats);
        }
        stats
    }

    /// Removes the files of Unix sockets, so that a send from here on fails at once; or leaves them
    /// to another process, with what comes. A hand-over by which this process has not got them yet
    /// has failed.
    pub(crate) fn leave(&self, are_left_open: bool) {
        if are_left_open {
            self.stop_receiving();
        }
        let take = |it: &mut OpenServer| (it.file.take(), it.share.take());
        let taken: Vec<_> = lock(&self.servers).iter_mut().map(take).collect();
        // Not under the lock: a file that can't be removed is logged.
        for (mut file, share) in taken {
            if let Some(file) = &mut file
                && are_left_open
            {
                file.keep();
            }
            drop((file, share));
        }
    }

    /// What is given to another process: each address that has open sockets, with these.
    pub(crate) fn offered(&self) -> Vec<(Entry, Vec<Arc<DatagramSocket>>)> {
        let servers = lock(&self.servers);
        let offered = servers.iter().map(|it| {
            let sockets: Vec<_> = it.sockets.iter().filter_map(DatagramHandle::socket).collect();
            let entry = Entry {
                sockets: sockets.len(),
                datagrams: Some(it.features),
                service: Service { name: it.name.clone(), ..Service::default() },
                file: it.file.as_ref().map(SocketFile::identified),
                again: None,
            };
            (entry, sockets)
        });
        offered.filter(|(_, sockets)| !sockets.is_empty()).collect()
    }

    /// Leaves what comes from here on to another process.
    pub(crate) fn stop_receiving(&self) {
        self.handles(|_| true).iter().for_each(DatagramHandle::pause_receiving);
    }

    /// Receives after all.
    pub(crate) fn go_on_receiving(&self) {
        self.handles(|_| true).iter().for_each(DatagramHandle::resume_receiving);
    }

    /// Receives what came by this succession from here on.
    pub(crate) fn receive(&self, of: &Arc<Succession>) {
        self.handles(|it| it.is_of(of)).iter().for_each(DatagramHandle::resume_receiving);
    }

    /// From here on this process owns the paths of what came by this succession.
    pub(crate) fn own_paths(&self, of: &Arc<Succession>) {
        for server in lock(&self.servers).iter_mut().filter(|it| it.is_of(of)) {
            if let Some(file) = &mut server.file {
                file.own();
            }
        }
    }

    fn handles(&self, which: impl Fn(&OpenServer) -> bool) -> Vec<DatagramHandle> {
        let servers = lock(&self.servers);
        servers.iter().filter(|it| which(it)).flat_map(|it| it.sockets.clone()).collect()
    }
}

impl OpenServer {
    fn is_of(&self, succession: &Arc<Succession>) -> bool {
        self.share.as_ref().is_some_and(|it| it.is_of(succession))
    }
}
