//! The files of a directory, and nothing outside of it.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

const NOT_FOUND: &str = "404 Not Found";
const UNAVAILABLE: &str = "503 Service Unavailable";
/// The system's errors when it is short of something.
const SHORTAGES: [Errno; 4] = [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM, Errno::EIO];

/// The files that clients may ask for; none without a directory.
pub(crate) struct Files {
    root: Option<PathBuf>,
}

/// A file to send.
pub(crate) struct Found {
    pub(crate) file: File,
    /// In bytes.
    pub(crate) length: u64,
    /// Its media type.
    pub(crate) kind: &'static str,
}

impl Files {
    /// The files below `directory`.
    pub(crate) fn below(directory: Option<String>) -> io::Result<Self> {
        Ok(Self { root: directory.map(|path| Path::new(&path).canonicalize()).transpose()? })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.root.is_none()
    }

    /// Opens the file that a path of a URL names; of a directory, its `index.html`. Without one it
    /// returns the status to answer with.
    pub(crate) fn open(&self, path: &str) -> Result<Found, &'static str> {
        let (Some(root), Some(path)) = (&self.root, decoded(path)) else { return Err(NOT_FOUND) };
        found(root, path.trim_start_matches('/')).map_err(|error| match error.raw_os_error() {
            // The file may be there, but can't be opened now.
            Some(code) if SHORTAGES.contains(&Errno::from_raw(code)) => UNAVAILABLE,
            _ => NOT_FOUND,
        })
    }
}

fn found(root: &Path, path: &str) -> io::Result<Found> {
    // Neither `..` nor a symbolic link is left in a canonical path, so it shows where it leads.
    let mut found = root.join(path).canonicalize()?;
    if found.is_dir() {
        found = found.join("index.html").canonicalize()?;
    }
    // Opening a pipe or a device could take for ever.
    if !found.starts_with(root) || !found.is_file() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let file = File::open(&found)?;
    let length = file.metadata()?.len();
    Ok(Found { file, length, kind: kind(&found) })
}

/// With `%20` and the like replaced by the bytes that they encode.
fn decoded(path: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => digit(rest.next()?)? << 4 | digit(rest.next()?)?,
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

fn digit(hex: u8) -> Option<u8> {
    char::from(hex).to_digit(16).and_then(|digit| digit.try_into().ok())
}

fn kind(path: &Path) -> &'static str {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("json") => "application/json",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("jpg" | "jpeg") => "image/jpeg",
        Some("txt" | "md") => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}
