//! The reactors, connections, callbacks and workers of netpoll.
