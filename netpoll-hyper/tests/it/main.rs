//! Servers and clients of HTTP on the loops, from outside.

mod attacks;
mod clients;
mod frames;
mod http1;
mod http2;
mod idle;
mod limits;
mod services;
mod shutdown;
mod upgrades;
mod util;
