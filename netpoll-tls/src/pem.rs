//! Certificates and keys in PEM, from files or from memory, with errors that say which.

use std::path::{Path, PathBuf};
use std::{error, fmt, fs};

use netpoll_core::{Error, Result};
use rustls::pki_types::pem::{Error as Fault, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Text in PEM: a file, by its path, or bytes that are at hand.
///
/// A `&str`, a `&Path` and a `PathBuf` convert into a path; a `&[u8]` and a `Vec<u8>` into bytes.
#[derive(Clone)]
#[non_exhaustive]
pub enum Pem {
    /// A file, read when a configuration is built, and again when it is reloaded.
    File(PathBuf),
    /// The text itself.
    Bytes(Vec<u8>),
}

impl Pem {
    /// All certificates in it, at least one.
    pub(crate) fn certificates(&self) -> Result<Vec<CertificateDer<'static>>> {
        let text = self.read()?;
        let all = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
        let all = all.map_err(|error| self.refuse("certificates", &error))?;
        if all.is_empty() {
            return Err(Error::config(format!(
                "{self} has no certificate; a part that begins with -----BEGIN CERTIFICATE----- is \
                 needed"
            )));
        }
        Ok(all)
    }

    /// The first private key in it.
    pub(crate) fn key(&self) -> Result<PrivateKeyDer<'static>> {
        match PrivateKeyDer::from_pem_slice(&self.read()?) {
            Ok(key) => Ok(key),
            Err(Fault::NoItemsFound) => Err(Error::config(format!(
                "{self} has no private key that is not encrypted; a part that begins with \
                 -----BEGIN PRIVATE KEY-----, RSA PRIVATE KEY or EC PRIVATE KEY is needed"
            ))),
            Err(error) => Err(self.refuse("a private key", &error)),
        }
    }

    /// Where it stands; `None` if it is at hand.
    pub(crate) fn file(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Bytes(_) => None,
        }
    }

    fn read(&self) -> Result<Vec<u8>> {
        match self {
            Self::Bytes(bytes) => Ok(bytes.clone()),
            Self::File(path) if holds_pem(path) => Err(Error::config(
                "a path was expected, and PEM itself was given; pass it as bytes: text.as_bytes()",
            )),
            Self::File(path) => fs::read(path).map_err(|source| {
                let what = format!("cannot read {}", path.display());
                Error::from(std::io::Error::new(source.kind(), Unread { what, source }))
            }),
        }
    }

    fn refuse(&self, what: &str, error: &Fault) -> Error {
        Error::config(format!("{self} can't be read as {what} in PEM: {error}"))
    }
}

fn holds_pem(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().starts_with(b"-----BEGIN ")
}

/// A file that can't be read.
#[derive(Debug)]
struct Unread {
    what: String,
    source: std::io::Error,
}

impl fmt::Display for Unread {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.what, self.source)
    }
}

impl error::Error for Unread {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        Some(&self.source)
    }
}

/// The path, or how many bytes there are: they may be a key.
impl fmt::Display for Pem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(out),
            Self::Bytes(bytes) => write!(out, "the PEM text of {} bytes", bytes.len()),
        }
    }
}

/// As `Display`, so that no key reaches a log.
impl fmt::Debug for Pem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

impl From<&str> for Pem {
    fn from(path: &str) -> Self {
        Self::File(path.into())
    }
}

impl From<String> for Pem {
    fn from(path: String) -> Self {
        Self::File(path.into())
    }
}

impl From<&Path> for Pem {
    fn from(path: &Path) -> Self {
        Self::File(path.into())
    }
}

impl From<PathBuf> for Pem {
    fn from(path: PathBuf) -> Self {
        Self::File(path)
    }
}

impl From<&[u8]> for Pem {
    fn from(bytes: &[u8]) -> Self {
        Self::Bytes(bytes.into())
    }
}

impl From<Vec<u8>> for Pem {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes)
    }
}
