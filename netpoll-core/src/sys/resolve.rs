//! The system's resolver, and its names of network devices.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};

/// The addresses behind `host:port`, by `getaddrinfo`. The calling thread waits for the answer.
pub(crate) fn resolve(address: &str) -> io::Result<Vec<SocketAddr>> {
    Ok(address.to_socket_addrs()?.collect())
}

/// The same, of a host and a port.
pub(crate) fn look_up(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    Ok((host, port).to_socket_addrs()?.collect())
}

/// The number of a network device, by its name.
pub(crate) fn device_number(name: &str) -> io::Result<u32> {
    Ok(nix::net::if_::if_nametoindex(name)?)
}
