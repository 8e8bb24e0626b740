#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod frames;

pub use bytes::Bytes;
pub use frames::{Framed, Out, on_frame};
pub use netpoll_buffer::{FromRead, FromWrite, LinkBuffer, Sink, Source};
pub use netpoll_client::{
    Cancel, Client, ClientBuilder, DialConnection, Dialer, DialerBuilder, Keepalive, Pool,
    PoolBuilder, PoolStats, Pooled, Resolve, dial_connection,
};
pub use netpoll_codec as codec;
pub use netpoll_core::{
    Address, Balance, CloseReason, Connection, Dispatch, Error, HandOffOptions, HandOffStats,
    Handle, Limits, ListenerInfo, LoadBalance, LoopLoad, LoopStats, OnConnect, OnDisconnect,
    OnPrepare, OnRequest, OutputLimits, PollManager, PoolOptions, Reader, Result, Wait, Writer,
    block_in_place, default_loops,
};
pub use netpoll_server::{
    AtLimit, Builder, Credentials, EventLoop, Limit, ListenOptions, Listener, Listeners, OnRefuse,
    Refusal, Report,
};
