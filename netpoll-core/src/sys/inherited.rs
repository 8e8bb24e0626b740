//! The sockets that this process was started with for it to serve, by systemd's protocol.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use socket2::{SockRef, Type};

use super::listener::is_listener;
use super::raw;
use crate::base::sync::{Mutex, lock};

/// What a socket was opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It listens for streams.
    Listener,
    /// It receives datagrams.
    Datagrams,
}

/// One that was found, and not asked for yet. Until then its flags are as they were.
struct Found {
    kind: Kind,
    name: String,
    fd: OwnedFd,
}

/// Those of a kind, with their names; closed on exec from here on. A second call for the same kind
/// returns none. What is of neither kind is left alone.
pub(crate) fn inherited(kind: Kind) -> io::Result<Vec<(String, OwnedFd)>> {
    // The first call finds all: a number that is closed later may be another descriptor's by the
    // next call.
    static FOUND: OnceLock<Mutex<Vec<Found>>> = OnceLock::new();
    let mut found = lock(FOUND.get_or_init(|| Mutex::new(find())));
    let mut all = Vec::new();
    for it in found.extract_if(.., |it| it.kind == kind) {
        SockRef::from(&it.fd).set_cloexec(true)?;
        all.push((it.name, it.fd));
    }
    Ok(all)
}

fn find() -> Vec<Found> {
    let ours = std::env::var("LISTEN_PID").is_ok_and(|it| it == std::process::id().to_string());
    let count = std::env::var("LISTEN_FDS").ok().and_then(|it| it.parse().ok());
    let (true, Some(count)) = (ours, count) else { return Vec::new() };
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let names: Vec<&str> = names.split(':').collect();
    let all = raw::take_inherited(count, |it| kind_of(it).is_some()).into_iter();
    let described = |(place, fd): (usize, OwnedFd)| {
        let kind = kind_of(fd.as_fd())?;
        let name = names.get(place).copied().unwrap_or_default().to_owned();
        Some(Found { kind, name, fd })
    };
    all.filter_map(described).collect()
}

fn kind_of(fd: BorrowedFd<'_>) -> Option<Kind> {
    if is_listener(fd).unwrap_or(false) {
        return Some(Kind::Listener);
    }
    let is_of_datagrams = SockRef::from(&fd).r#type().is_ok_and(|it| it == Type::DGRAM);
    is_of_datagrams.then_some(Kind::Datagrams)
}
