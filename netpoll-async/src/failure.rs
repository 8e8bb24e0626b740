//! Why a stream has ended, as an error that each later call can be given.

use std::io;

use netpoll_core::{CloseReason, Error, FilterError, Wait};

/// See the module: an [`Error`] has no copy.
#[derive(Debug, Clone)]
pub(crate) enum Failure {
    Closed,
    Truncated,
    TimedOut(Wait),
    Filter(FilterError),
    /// The errno, if there was one.
    Io(io::ErrorKind, Option<i32>),
}

impl Failure {
    pub(crate) fn of_reason(reason: &CloseReason) -> Self {
        match reason {
            CloseReason::Reset => Self::Io(io::ErrorKind::ConnectionReset, None),
            CloseReason::Timeout(wait) => Self::TimedOut(*wait),
            CloseReason::Truncated => Self::Truncated,
            CloseReason::Filter(error) => Self::Filter(error.clone()),
            CloseReason::Io(error) => Self::of_io(error),
            _ => Self::Closed,
        }
    }

    pub(crate) fn of_error(error: &Error) -> Self {
        match error {
            Error::Truncated => Self::Truncated,
            Error::TimedOut(wait) => Self::TimedOut(*wait),
            Error::Filter(error) => Self::Filter(error.clone()),
            Error::Io(error) => Self::of_io(error),
            _ => Self::Closed,
        }
    }

    fn of_io(error: &io::Error) -> Self {
        Self::Io(error.kind(), error.raw_os_error())
    }

    pub(crate) fn error(&self) -> Error {
        match self {
            Self::Closed => Error::Closed,
            Self::Truncated => Error::Truncated,
            Self::TimedOut(wait) => Error::TimedOut(*wait),
            Self::Filter(error) => Error::Filter(error.clone()),
            Self::Io(_, Some(errno)) => io::Error::from_raw_os_error(*errno).into(),
            Self::Io(kind, None) => io::Error::from(*kind).into(),
        }
    }
}
