//! The errors, by which side caused them, and the reasons why a connection ended.

use std::{error, fmt, io};

use netpoll_buffer::Shortfall;

use super::filter_error::FilterError;

/// The result of every operation of this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, and on which side: the caller's, the peer's or the system's.
///
/// It converts to and from [`io::Error`] without loss: an `Error` inside an `io::Error` comes out
/// again as itself, and every kind is kept (`TimedOut`, `UnexpectedEof`, `ConnectionRefused`, …).
///
/// A program that returns it from `main` prints one sentence: `Debug` prints what `Display` does,
/// and then the causes that the sentence does not name.
///
/// A callback returns its own errors through [`Error::other`] and [`Error::protocol`], or with `?`
/// if their type converts into `Error`:
///
/// ```
/// use netpoll_core::Error;
///
/// #[derive(Debug, PartialEq)]
/// struct NoSuchUser(u32);
/// # impl std::fmt::Display for NoSuchUser {
/// #     fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
/// #         write!(out, "there is no user {}", self.0)
/// #     }
/// # }
/// # impl std::error::Error for NoSuchUser {}
///
/// impl From<NoSuchUser> for Error {
///     fn from(error: NoSuchUser) -> Self {
///         Self::other(error)
///     }
/// }
///
/// fn look_up(id: u32) -> Result<(), NoSuchUser> {
///     Err(NoSuchUser(id))
/// }
///
/// fn on_request() -> netpoll_core::Result<()> {
///     look_up(7)?;
///     Ok(())
/// }
///
/// let error = on_request().unwrap_err();
/// assert_eq!(format!("{error:?}"), "there is no user 7");
/// assert_eq!(error.downcast_ref(), Some(&NoSuchUser(7)));
/// ```
#[non_exhaustive]
pub enum Error {
    /// The caller gave an option or an address that can't be used; the text says which, and why.
    Config(Box<str>),
    /// Listening on an address, or dialling it, failed.
    Address {
        /// The operation and the address: `dial tcp 127.0.0.1:7000`.
        what: Box<str>,
        /// The system's error.
        source: io::Error,
    },
    /// The connection was closed on this side.
    Closed,
    /// The peer ended its stream before all bytes that were asked for had come. The bytes that came
    /// stay readable.
    EndOfStream,
    /// The peer's stream ended without the message that ends it in order (`close_notify` in TLS),
    /// so bytes may be missing. Those that came stay readable.
    Truncated,
    /// The filter of the connection, for example TLS, failed it.
    Filter(FilterError),
    /// A wait reached its limit. After a read the buffered bytes stay readable; after a flush the
    /// queued bytes stay queued.
    TimedOut(Wait),
    /// The operation would have to wait, and must not. Call it again when more bytes have come.
    WouldBlock,
    /// A queue takes no more: an output queue is above its high-water mark, or as many jobs or
    /// calls wait as may.
    Full,
    /// A read asked for more bytes than the input limit lets a connection buffer.
    InputLimit {
        /// The number of bytes that the read asked for.
        requested: usize,
        /// The number of bytes that may be buffered.
        limit: usize,
    },
    /// The wait would stop an event loop, since the system refuses the thread that would go on with
    /// the loop: raise the system's limit of threads, or lower `max_threads`.
    NoThread,
    /// A read waited for memory: `memory_budget` was used up, and other connections did not give
    /// memory back in time.
    NoMemory,
    /// The system reported an error, or a callback returned its own error.
    Io(io::Error),
}

/// What a wait that timed out had waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Wait {
    /// Bytes from the peer.
    Read,
    /// The peer to take bytes.
    Write,
    /// Any byte, sent or received: the idle timeout.
    Idle,
    /// The first byte of a new connection.
    FirstByte,
    /// The rest of a request, at the minimum receive rate.
    Rate,
    /// The connection's own deadline; see [`Handle::close_at`](crate::Handle::close_at).
    Deadline,
    /// The end of the handshake, for example of TLS.
    Handshake,
    /// The end of a connection that has reached its [`MaxAge`](crate::MaxAge).
    Age,
}

/// The limit that ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LimitReached {
    /// A callback asked for more bytes than the input limit lets a connection buffer.
    Input,
    /// The output queue was full, and a callback returned that error.
    Output,
    /// A callback had to wait, and the system refused a thread for that.
    Threads,
    /// A part of a request waited for memory too long, or a callback returned
    /// [`Error::NoMemory`]: `memory_budget` was used up.
    Memory,
    /// As many handshakes were under way as [`FilterServer::max_handshakes`] allows.
    ///
    /// [`FilterServer::max_handshakes`]: crate::FilterServer::max_handshakes
    Handshakes,
}

/// Why a connection ended, as `on_disconnect` receives it.
#[derive(Debug)]
#[non_exhaustive]
pub enum CloseReason {
    /// The peer ended its stream, and all that it sent was served.
    Peer,
    /// The peer reset the connection, or a write found it gone.
    Reset,
    /// This side closed it: [`Connection::close`](crate::Connection::close), `abort`, or the same
    /// methods of a [`Handle`](crate::Handle).
    Local,
    /// Its socket was given away: [`Connection::detach`](crate::Connection::detach).
    Detached,
    /// The peer was silent, sent too slowly or took no output; or a callback returned the timeout
    /// of its read or flush.
    Timeout(Wait),
    /// A limit was reached: a callback returned that error, or memory ran short for too long.
    Limit(LimitReached),
    /// A callback returned this error.
    Callback(Error),
    /// A callback panicked. The panic ended this connection and nothing else.
    Panic,
    /// The event loop shut down.
    Shutdown,
    /// The peer's stream ended without the message that ends it in order (`close_notify` in TLS),
    /// so bytes may be missing.
    Truncated,
    /// The filter of the connection, for example TLS, failed it: the peer broke the protocol, or
    /// the two did not agree in the handshake.
    Filter(FilterError),
    /// The system failed the connection for another reason.
    Io(io::Error),
}

impl Error {
    /// The kind of this error, as `std::io` names it.
    ///
    /// ```
    /// use netpoll_core::Error;
    /// assert_eq!(Error::EndOfStream.kind(), std::io::ErrorKind::UnexpectedEof);
    /// ```
    pub fn kind(&self) -> io::ErrorKind {
        use io::ErrorKind as Kind;
        match self {
            Self::Config(_) => Kind::InvalidInput,
            Self::Address { source, .. } | Self::Io(source) => source.kind(),
            Self::Closed => Kind::NotConnected,
            Self::EndOfStream | Self::Truncated => Kind::UnexpectedEof,
            Self::TimedOut(_) => Kind::TimedOut,
            Self::WouldBlock | Self::Full => Kind::WouldBlock,
            Self::Filter(_) | Self::InputLimit { .. } => Kind::InvalidData,
            Self::NoThread | Self::NoMemory => Kind::QuotaExceeded,
        }
    }

    /// Makes an error for an option or address that can't be used. The sentence names it and says
    /// which value is valid.
    pub fn config(sentence: impl Into<String>) -> Self {
        Self::Config(sentence.into().into_boxed_str())
    }

    /// Makes an error of the program itself, from any error or from a text. Its kind is `Other`.
    pub fn other(error: impl Into<Box<dyn error::Error + Send + Sync>>) -> Self {
        io::Error::other(error).into()
    }

    /// Makes an error for a peer that broke its protocol, from any error or from a text. Its kind
    /// is `InvalidData`.
    ///
    /// ```
    /// use netpoll_core::Error;
    /// let error = Error::protocol("a frame without a length");
    /// assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
    /// ```
    pub fn protocol(error: impl Into<Box<dyn error::Error + Send + Sync>>) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, error).into()
    }

    /// The error that [`other`](Self::other), [`protocol`](Self::protocol) or an [`io::Error`]
    /// carries; `None` if it has another type.
    pub fn downcast_ref<E: error::Error + 'static>(&self) -> Option<&E> {
        match self {
            Self::Io(carrier) => carrier.get_ref()?.downcast_ref(),
            _ => None,
        }
    }

    /// Makes an error for an operation on an address; `doing` names the operation, such as "dial".
    pub fn address(
        doing: &str,
        network: &str,
        address: impl fmt::Display,
        source: io::Error,
    ) -> Self {
        Self::Address { what: format!("{doing} {network} {address}").into(), source }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(sentence) => out.write_str(sentence),
            Self::Address { what, source } => {
                write!(out, "cannot {what}: {source}")?;
                out.write_str(advice(source.kind(), what))
            }
            Self::Closed => out.write_str("the connection is closed on this side"),
            Self::EndOfStream => {
                out.write_str("the peer ended its stream before the bytes asked for had come")
            }
            Self::Truncated => out.write_str(
                "the peer ended its stream without saying that it is complete: bytes may be \
                 missing",
            ),
            Self::Filter(error) => error.fmt(out),
            Self::TimedOut(wait) => write!(out, "timed out waiting for {wait}"),
            Self::WouldBlock => out.write_str("the operation would have to wait, and must not"),
            Self::Full => out.write_str(
                "the queue is full: an output above its high-water mark, or as many jobs or calls \
                 as may wait",
            ),
            Self::InputLimit { requested, limit } => write!(
                out,
                "{requested} bytes were asked for, but input_limit lets a connection buffer {limit}"
            ),
            Self::NoMemory => out.write_str(
                "memory_budget is used up, and what other connections hold was not given back in \
                 time",
            ),
            Self::NoThread => out.write_str(
                "the wait would stop the event loop, since the system refuses a thread that goes \
                 on with it; raise the limit of threads, or lower max_threads",
            ),
            Self::Io(source) => source.fmt(out),
        }
    }
}

/// The sentence, and the causes that it does not name. A program prints this if its `main` returns
/// `netpoll::Result<()>`.
impl fmt::Debug for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut told = self.to_string();
        let mut cause = error::Error::source(self);
        while let Some(error) = cause {
            let text = error.to_string();
            if !told.contains(&text) {
                told = format!("{told}: {text}");
            }
            cause = error.source();
        }
        out.write_str(&told)
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Read => "bytes from the peer",
            Self::Write => "the peer to take bytes",
            Self::Idle => "any byte either way",
            Self::FirstByte => "the first byte",
            Self::Rate => "a request that comes more slowly than min_receive_rate",
            Self::Deadline => "the connection to be done by its deadline",
            Self::Handshake => "the end of the handshake",
            Self::Age => "the connection to end at its max_age",
        })
    }
}

/// What the reader of an address error can do.
fn advice(kind: io::ErrorKind, what: &str) -> &'static str {
    use io::ErrorKind as Kind;
    if what.starts_with("listen on unix") || what.starts_with("bind unix") {
        return match kind {
            Kind::AddrInUse => {
                "; a process serves it, or the file is no socket: stop it, or choose another path"
            }
            Kind::PermissionDenied => "; this process may not write to that directory",
            _ => "",
        };
    }
    match (kind, what.starts_with("listen") || what.starts_with("bind")) {
        (Kind::AddrInUse, true) => "; choose another port, or stop the process that holds it",
        (Kind::AddrNotAvailable, true) => {
            "; this machine doesn't have that address; if it comes later, set `freebind`"
        }
        (Kind::PermissionDenied, true) => "; ports below 1024 need privileges",
        (Kind::AddrNotAvailable, false) => "; are all local ports in use?",
        (Kind::ConnectionRefused, false) => "; no process listens there",
        _ => "",
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Address { source, .. } => Some(source),
            Self::Io(source) => source.source(),
            Self::Filter(error) => error.source(),
            _ => None,
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        if !error.get_ref().is_some_and(|inner| inner.is::<Self>()) {
            return Self::Io(error);
        }
        match error.into_inner().map(|inner| inner.downcast::<Self>()) {
            Some(Ok(ours)) => *ours,
            // The check above excludes this.
            Some(Err(inner)) => Self::Io(io::Error::other(inner)),
            None => Self::Io(io::ErrorKind::Other.into()),
        }
    }
}

/// As [`Error::other`]; an `Error` inside comes out as itself.
impl From<Box<dyn error::Error + Send + Sync>> for Error {
    fn from(error: Box<dyn error::Error + Send + Sync>) -> Self {
        match error.downcast::<Self>() {
            Ok(ours) => *ours,
            Err(error) => match error.downcast::<io::Error>() {
                Ok(error) => Self::from(*error),
                Err(error) => Self::other(error),
            },
        }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Io(source) => source,
            ours => Self::new(ours.kind(), ours),
        }
    }
}

impl From<FilterError> for Error {
    fn from(error: FilterError) -> Self {
        Self::Filter(error)
    }
}

impl From<Shortfall> for Error {
    fn from(_: Shortfall) -> Self {
        Self::EndOfStream
    }
}

impl CloseReason {
    /// The reason behind an error of the socket.
    pub(crate) fn of_socket(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe => Self::Reset,
            _ => match Error::from(error) {
                Error::Filter(error) => Self::Filter(error),
                error => Self::Io(error.into()),
            },
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Peer => out.write_str("closed by the peer"),
            Self::Reset => out.write_str("reset by the peer"),
            Self::Local => out.write_str("closed on this side"),
            Self::Detached => out.write_str("detached: its socket was given away"),
            Self::Timeout(wait) => write!(out, "timed out waiting for {wait}"),
            Self::Limit(LimitReached::Input) => {
                out.write_str("more was asked for than input_limit lets it buffer")
            }
            Self::Limit(LimitReached::Output) => {
                out.write_str("its output queue was above the high-water mark")
            }
            Self::Limit(LimitReached::Threads) => {
                out.write_str("its callback had to wait, and the system refused a thread")
            }
            Self::Limit(LimitReached::Memory) => {
                out.write_str("it waited for bytes, and memory_budget was used up")
            }
            Self::Limit(LimitReached::Handshakes) => {
                out.write_str("as many handshakes were under way as max_handshakes allows")
            }
            Self::Callback(error) => write!(out, "a callback returned an error: {error}"),
            Self::Panic => out.write_str("a callback panicked"),
            Self::Shutdown => out.write_str("the event loop shut down"),
            Self::Truncated => {
                out.write_str("the peer ended its stream without saying that it is complete")
            }
            Self::Filter(error) => error.fmt(out),
            Self::Io(error) => write!(out, "the system failed it: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_survives_the_way_through_io_error() {
        let there: io::Error = Error::TimedOut(Wait::Read).into();
        assert_eq!(there.kind(), io::ErrorKind::TimedOut);
        assert!(matches!(Error::from(there), Error::TimedOut(Wait::Read)));
    }

    #[test]
    fn an_io_error_survives_the_way_through_error() {
        let there = Error::from(io::Error::from_raw_os_error(104));
        assert_eq!(there.kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(io::Error::from(there).raw_os_error(), Some(104));
    }

    #[test]
    fn an_address_error_is_one_sentence_with_advice() {
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        let text = Error::address("dial", "tcp", "127.0.0.1:1", refused).to_string();
        let advised = "cannot dial tcp 127.0.0.1:1: connection refused; no process listens there";
        assert_eq!(text, advised);
    }

    #[test]
    fn a_program_that_ends_with_an_error_prints_its_sentence_and_its_causes() {
        #[derive(Debug)]
        struct Outer(io::Error);
        impl fmt::Display for Outer {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("the store is closed")
            }
        }
        impl error::Error for Outer {
            fn source(&self) -> Option<&(dyn error::Error + 'static)> {
                Some(&self.0)
            }
        }
        let taken = io::Error::from(io::ErrorKind::AddrInUse);
        let error = Error::address("listen on", "tcp", "127.0.0.1:80", taken);
        assert_eq!(format!("{error:?}"), error.to_string());

        let error = Error::other(Outer(io::Error::other("the disk is full")));
        assert_eq!(format!("{error:?}"), "the store is closed: the disk is full");
        assert_eq!(error.to_string(), "the store is closed");
    }

    #[test]
    fn an_error_of_ones_own_comes_out_as_itself() {
        #[derive(Debug)]
        struct Own;
        impl fmt::Display for Own {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("own")
            }
        }
        impl error::Error for Own {}
        for error in [Error::other(Own), Error::protocol(Own)] {
            assert!(error.downcast_ref::<Own>().is_some(), "{error}");
            assert!(Error::from(io::Error::from(error)).downcast_ref::<Own>().is_some());
        }
        assert!(Error::Closed.downcast_ref::<Own>().is_none());
    }

    #[test]
    fn an_error_that_travelled_in_a_box_comes_out_as_itself() {
        let boxed = |error: Error| -> Box<dyn error::Error + Send + Sync> { Box::new(error) };
        assert!(matches!(Error::from(boxed(Error::WouldBlock)), Error::WouldBlock));
        let reset = Error::Io(io::Error::from_raw_os_error(104));
        assert_eq!(Error::from(boxed(reset)).kind(), io::ErrorKind::ConnectionReset);
        let boxed: Box<dyn error::Error + Send + Sync> = "a text".into();
        assert_eq!(Error::from(boxed).to_string(), "a text");
    }

    #[test]
    fn an_error_is_small() {
        assert!(size_of::<Error>() <= 32, "{} bytes", size_of::<Error>());
    }
}
