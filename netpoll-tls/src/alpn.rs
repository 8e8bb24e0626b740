//! Names of application protocols, as the handshake carries them.

use netpoll_core::{Error, Result};

/// A name is carried behind one byte for its length.
const LONGEST: usize = 255;

/// Refuses what the handshake could not carry.
pub(crate) fn check(protocols: &[Vec<u8>]) -> Result<()> {
    match protocols.iter().find(|name| !(1..=LONGEST).contains(&name.len())) {
        None => Ok(()),
        Some(name) => Err(Error::config(format!(
            "alpn: the name of a protocol has 1 to {LONGEST} bytes, this one has {}",
            name.len()
        ))),
    }
}
