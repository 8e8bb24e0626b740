//! netpoll.
