//! The file of a listening Unix socket, and which process removes it.

use std::io;
use std::path::{Path, PathBuf};
use std::process;

use netpoll_core::socket;

/// Removes the file when it is dropped, if the file is still the one that was made, and this the
/// process that serves it: a fork has a copy of this value, and is not the server. The file of a
/// socket that was never served stays if another process has the socket, as the child of a daemon
/// has.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: Box<Path>,
    /// Device and inode.
    identity: (u64, u64),
    /// The process that serves the socket.
    served: Option<u32>,
    kept: bool,
}

impl SocketFile {
    /// The file of a socket that this process has just bound to `path`.
    pub(crate) fn new(path: &Path) -> io::Result<Self> {
        // The process may change its directory before the drop.
        let path = std::path::absolute(path)?;
        let identity = socket::identity(&path)?;
        Ok(Self { path: path.into(), identity, served: None, kept: false })
    }

    /// A file that another process made and removes.
    pub(crate) fn of_another(path: PathBuf, identity: (u64, u64)) -> Self {
        Self { path: path.into(), identity, served: None, kept: true }
    }

    /// The path, with device and inode.
    pub(crate) fn identified(&self) -> (PathBuf, (u64, u64)) {
        (self.path.to_path_buf(), self.identity)
    }

    /// From here on this process serves the socket.
    pub(crate) fn serve(&mut self) {
        self.served = Some(process::id());
    }

    /// From here on this process removes the file, even if others have the socket.
    pub(crate) fn own(&mut self) {
        (self.kept, self.served) = (false, Some(process::id()));
    }

    /// From here on the drop leaves the file where it is.
    pub(crate) fn keep(&mut self) {
        self.kept = true;
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // The listener's own socket is closed by now.
        let ours = match self.served {
            Some(server) => server == process::id(),
            None => socket::is_dead(&self.path),
        };
        if self.kept || !ours {
            return;
        }
        if let Err(error) = socket::remove(&self.path, self.identity) {
            log::warn!("cannot remove the socket {}: {error}", self.path.display());
        }
    }
}
