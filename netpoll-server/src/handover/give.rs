//! The old process's part of a hand-over, up to its last word.

use std::io::{self, ErrorKind};
use std::net::Shutdown;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use netpoll_core::clock;
use netpoll_core::socket;

use super::{MAGIC, REVOKED, SERVING, YOURS, describe, manifest};

/// How long a peer may take to say that it is a successor.
const MAGIC_AT_MOST: Duration = Duration::from_secs(5);

/// Gives the sockets to the process at the other end, and waits until that process serves. Then
/// `stop` ends what must not go on in both.
pub(crate) fn give(
    to: &UnixStream,
    entries: &[manifest::Entry],
    sockets: &[BorrowedFd<'_>],
    deadline: Instant,
    stop: impl FnOnce(),
) -> io::Result<()> {
    let mut magic = [0; MAGIC.len()];
    // A client that says nothing is given nothing, and does not hold up a real successor.
    let soon = deadline.min(clock::now() + MAGIC_AT_MOST);
    socket::receive_within(to, &mut magic, soon)
        .map_err(|it| describe(&it, "the peer does not begin a hand-over"))?;
    if magic != *MAGIC {
        return Err(io::Error::new(
            ErrorKind::InvalidData,
            "the peer is no successor of netpoll's",
        ));
    }
    let manifest = manifest::encode(entries);
    let length = (manifest.len() as u32).to_le_bytes();
    socket::send_within(to, &[&MAGIC[..], &length, &manifest].concat(), deadline)?;
    socket::send_descriptors(to, sockets, deadline)?;
    let mut answer = [0];
    let serving = socket::receive_within(to, &mut answer, deadline);
    serving.map_err(|it| describe(&it, "the successor does not serve"))?;
    if answer != [SERVING] {
        return Err(io::Error::new(ErrorKind::InvalidData, "the successor said something else"));
    }
    stop();
    // A successor that is gone by now does not receive it; then the old process goes on.
    socket::send_within(to, &[YOURS], clock::now() + MAGIC_AT_MOST)
}

/// Tells the other process, after a failure, that it is not the server, even if it would serve a
/// moment later.
pub(crate) fn revoke(to: &UnixStream) {
    let _ = socket::send_within(to, &[REVOKED], clock::now());
    let _ = to.shutdown(Shutdown::Both);
}
