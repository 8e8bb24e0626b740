//! Datagrams: sockets that are bound, and what serves them.
//!
//! ```text
//!   options ──► bound: Datagrams ──┬─ on_datagrams ──► served: DatagramServer ──► open: on loops
//!                                  └─ flows ──► flow_service, flow_table: sessions of peers
//! ```

mod bound;
mod flow;
mod flow_callbacks;
mod flow_options;
mod flow_service;
mod flow_stats;
mod flow_table;
mod flows;
pub(crate) mod open;
mod options;
mod served;

pub use bound::Datagrams;
pub use flow::{FlowBatch, FlowHandle};
pub use flow_callbacks::{FlowEnd, OnFlow, OnFlowDatagrams};
pub use flow_options::{AtFlowLimit, FlowOptions};
pub use flow_stats::FlowStats;
pub use flows::FlowSessions;
pub use options::DatagramOptions;
pub use served::{DatagramServer, DatagramSessions};
