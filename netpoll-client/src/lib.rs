//! Dialling for netpoll.
