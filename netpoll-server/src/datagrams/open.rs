//! The sockets of datagrams that an event loop serves, until its shutdown.

use std::sync::{Arc, Mutex};

use netpoll_core::{
    ConnectionGroup, DatagramHandle, DatagramStats, Error, Remote, Result, serve_datagrams,
};

use super::flow_stats::{FlowCounters, FlowStats};
use super::served::DatagramServer;
use crate::socket_file::SocketFile;
use crate::sync::lock;

/// See the module.
#[derive(Default)]
pub(crate) struct OpenDatagrams {
    servers: Mutex<Vec<OpenServer>>,
}

struct OpenServer {
    name: String,
    sockets: Vec<DatagramHandle>,
    flows: Option<Arc<FlowCounters>>,
    file: Option<SocketFile>,
}

impl OpenDatagrams {
    /// Serves one on the first of these loops, or on each of them with a socket of its own, as a
    /// part of `group`.
    pub(crate) fn serve(
        &self,
        server: DatagramServer,
        group: &Arc<ConnectionGroup>,
        loops: &[Arc<Remote>],
    ) -> Result<()> {
        let DatagramServer { socket: bound, callbacks, limits, flows } = server;
        let (name, flows) = (bound.name_or_address(), flows.map(|(_, counters)| counters));
        let (first, file, further) = bound.take();
        let mut sockets = vec![first];
        if let Some(further) = further.filter(|_| loops.len() > 1) {
            // All are bound before the first of them is served, so that the kernel spreads peers
            // over all of them from the first on.
            sockets[0].share_port()?;
            for _ in 1..loops.len() {
                sockets.push(further.open()?);
            }
        }
        log::info!("serving datagrams at {name}");
        let mut open = OpenServer { name, sockets: Vec::new(), flows, file };
        if let Some(file) = &mut open.file {
            file.serve();
        }
        let mut served = Ok(());
        for (socket, reactor) in sockets.into_iter().zip(loops) {
            let handle = serve_datagrams(socket, callbacks.clone(), limits, group, reactor);
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

    /// Removes the files of Unix sockets: a send from here on fails at once.
    pub(crate) fn remove_files(&self) {
        let files: Vec<_> = lock(&self.servers).iter_mut().map(|it| it.file.take()).collect();
        drop(files); // not under the lock: what can't be removed is logged
    }

    /// # Errors
    /// [`Error::Config`] if there is one, which can't be given to another process.
    pub(crate) fn check_hand_over(&self) -> Result<()> {
        match lock(&self.servers).first() {
            None => Ok(()),
            Some(OpenServer { name, .. }) => Err(Error::config(format!(
                "hand_over was called, but datagrams at {name} are served, too, and can't be \
                 handed over: open them with reuse_port(true) in both processes, in an event loop \
                 of their own"
            ))),
        }
    }
}
