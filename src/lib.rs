#![cfg_attr(not(doctest), doc = include_str!("guide/links"))]
#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod frames;
#[cfg(feature = "async")]
pub mod futures;
#[cfg(any(doc, doctest))]
pub mod guide;
#[cfg(feature = "tls")]
pub mod tls;

pub use bytes::Bytes;
pub use frames::{Framed, OnFrame, Out, Reply, on_frame};

/// What stands between the socket of a connection and its buffers, such as TLS: the traits to
/// implement for one's own.
pub mod filter {
    pub use netpoll_core::{Filter, FilterClient, FilterError, FilterServer, FilterState, Opened};
}

pub use netpoll_buffer::{FromRead, FromWrite, LinkBuffer, Sink, Source};
pub use netpoll_client::{
    Backoff, Cancel, Client, ClientBuilder, DialConnection, DialThen, Dialer, DialerBuilder,
    Keepalive, Mux, MuxBuilder, MuxProtocol, MuxStats, Pool, PoolBuilder, PoolStats, Pooled,
    Resolve, connect_datagrams, dial_connection,
};
pub use netpoll_codec as codec;
pub use netpoll_core::broadcast::{Broadcast, Group, GroupBuilder, GroupStats, SlowMembers};
pub use netpoll_core::{
    Address, Balance, CloseReason, Connection, Datagram, DatagramBatch, DatagramClient,
    DatagramHandle, DatagramLimits, DatagramStats, Delivery, Detached, Dispatch, Error, Exchange,
    FilterError, Gather, GoneWatch, HandOffOptions, HandOffStats, Handle, Handler, Hold,
    LimitReached, LimitRow, Limits, ListenerInfo, LoadBalance, LoopLoad, LoopStats, MaxAge,
    MemoryStats, NonBlocking, OnConnect, OnDatagrams, OnDisconnect, OnDrain, OnHighWater, OnOpen,
    OnPrepare, OnRequest, OnShutdown, OutputLimits, Payloads, PollManager, PoolOptions, ReadHalf,
    Reader, ReceiveRate, Relay, RelayEnd, Relayed, Result, Spin, TcpInfo, Ticks, Timer, TurnLimits,
    Undelivered, Wait, WhenFull, WorkerStats, WriteHalf, Writer, block_in_place, default_loops,
    relay,
};
pub use netpoll_server::{
    AcceptLimit, AtFlowLimit, AtLimit, Credentials, DatagramOptions, DatagramServer,
    DatagramSessions, Datagrams, EventLoop, EventLoopBuilder, EventLoopStats, FlowBatch, FlowEnd,
    FlowHandle, FlowOptions, FlowSessions, FlowStats, HandOverOptions, Incoming, ListenOptions,
    Listener, Listeners, OnAccept, OnFlow, OnFlowDatagrams, OnRefuse, ProxyProtocol, Refusal,
    Report, Running, Systemd, TakenOver, TrustedProxies, Verdict, proxy, take_over, take_over_with,
};
