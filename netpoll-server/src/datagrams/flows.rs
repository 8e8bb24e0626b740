//! Flows as users set them up: bounds, sessions, callbacks.

use std::fmt;
use std::sync::Arc;

use netpoll_core::Datagram;

use super::bound::Datagrams;
use super::flow_callbacks::{FlowEnd, OnEnd, OnFlow, OnFlowDatagrams};
use super::flow_options::FlowOptions;
use super::flow_service::Flows;
use super::flow_stats::FlowCounters;
use super::served::DatagramServer;

/// A bound socket with sessions for its peers, up to the callback that is given them.
///
/// ```
/// use std::time::Duration;
/// use netpoll_core::Datagram;
/// use netpoll_server::{AtFlowLimit, Datagrams, FlowBatch, FlowEnd, FlowOptions};
///
/// struct Player { datagrams: usize }
///
/// let options = FlowOptions { idle: Duration::from_secs(10), ..FlowOptions::default() };
/// let game = Datagrams::bind("udp", "127.0.0.1:0")?
///     .flows(options)
///     .on_flow(|_: &Datagram<'_>| Ok(Player { datagrams: 0 }))
///     .on_flow_end(|player: Player, why: &FlowEnd| {
///         println!("{} datagrams, then {why}", player.datagrams);
///     })
///     .on_datagrams(|player: &mut Player, batch: &FlowBatch<'_>| {
///         player.datagrams += batch.len();
///         batch.reply(b"seen")
///     });
/// # drop(game);
/// # Ok::<(), netpoll_core::Error>(())
/// ```
#[must_use = "it serves nothing until it has on_datagrams"]
pub struct FlowSessions<F = ()> {
    socket: Datagrams,
    options: FlowOptions,
    on_flow: Box<dyn OnFlow<F>>,
    on_end: OnEnd<F>,
}

impl Datagrams {
    /// Gives each peer a session: what it sends to one address of this machine is a flow.
    pub fn flows(self, options: FlowOptions) -> FlowSessions {
        let on_flow = Box::new(|_: &Datagram<'_>| Ok(()));
        FlowSessions { socket: self, options, on_flow, on_end: Box::new(|(), _| {}) }
    }
}

impl FlowSessions {
    /// Makes the session of each flow; without it the session is `()`. It comes before
    /// [`on_flow_end`](FlowSessions::on_flow_end), which is given the session.
    pub fn on_flow<F: 'static>(self, callback: impl OnFlow<F>) -> FlowSessions<F> {
        let Self { socket, options, .. } = self;
        let on_end = Box::new(|session, _: &FlowEnd| drop(session));
        FlowSessions { socket, options, on_flow: Box::new(callback), on_end }
    }
}

impl<F: Send + 'static> FlowSessions<F> {
    /// Called with the session of each flow that has ended, once.
    pub fn on_flow_end(mut self, callback: impl Fn(F, &FlowEnd) + Send + Sync + 'static) -> Self {
        self.on_end = Box::new(callback);
        self
    }

    /// Serves it with this callback, which gets the datagrams of one flow at a time. It runs where
    /// [`OnDatagrams`](netpoll_core::OnDatagrams) does, and may block where that may.
    pub fn on_datagrams(self, callback: impl OnFlowDatagrams<F>) -> DatagramServer {
        let Self { socket, options, on_flow, on_end } = self;
        let (on_datagrams, counters) = (Box::new(callback), Arc::<FlowCounters>::default());
        let flows = Some((options, counters.clone()));
        let shared = Flows::new(options, on_flow, on_datagrams, on_end, counters);
        DatagramServer { flows, ..DatagramServer::new(socket, Arc::new(shared)) }
    }
}

impl<F> fmt::Debug for FlowSessions<F> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("FlowSessions")
            .field("socket", &self.socket)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
