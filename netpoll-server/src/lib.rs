//! Listeners, EventLoop, accepting and shutting down for netpoll.
