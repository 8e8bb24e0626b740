//! What can go wrong, by who is at fault, and why a connection ended.

use std::{error, fmt, io};

use netpoll_buffer::Shortfall;

/// What every fallible operation of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, by who is at fault.
///
/// It converts to and from [`io::Error`] without loss: an `Error` that travelled inside an
/// `io::Error` comes out again as itself, and every kind survives (`TimedOut`, `UnexpectedEof`,
/// `ConnectionRefused`, …).
///
/// A program that returns it from `main` prints its sentence: `Debug` is `Display`, with the causes
/// that the sentence does not name.
///
/// A callback returns errors of its own by [`Error::other`] and [`Error::protocol`], or by `?`
/// where the type says once how it converts:
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
        /// What was being done, to which address: `dial tcp 127.0.0.1:7000`.
        what: Box<str>,
        /// What the system answered.
        source: io::Error,
    },
    /// The connection was closed on this side.
    Closed,
    /// The peer ended its stream before the bytes that were asked for had come; those that did come
    /// stay readable.
    EndOfStream,
    /// A wait reached its limit. Reading: the buffered bytes stay readable. Writing: the queued
    /// bytes stay queued.
    TimedOut(Wait),
    /// The operation would have to wait, and must not: call again when there is more.
    WouldBlock,
    /// The output queue stands above its high-water mark and takes no more.
    Full,
    /// More bytes were asked for than the input limit lets a connection buffer.
    InputLimit {
        /// How many bytes were asked for.
        requested: usize,
        /// How many may be buffered.
        limit: usize,
    },
    /// The wait would stop an event loop, since the system refuses the thread that would go on with
    /// it: raise its limit of threads, or lower `max_threads`.
    NoThread,
    /// A read waited for memory: `memory_budget` was used up, and what others hold was not given
    /// back in time.
    NoMemory,
    /// The system said no, or a callback returned an error of its own.
    Io(io::Error),
}

/// What a wait that timed out was waiting for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Wait {
    /// Bytes from the peer.
    Read,
    /// The peer to take bytes.
    Write,
    /// Any byte, either way: the idle timeout.
    Idle,
    /// The first byte of a new connection.
    FirstByte,
    /// The rest of a request, at the minimum receive rate.
    Rate,
    /// The end of the connection's own deadline, see
    /// [`Handle::close_at`](crate::Handle::close_at).
    Deadline,
}

/// What a connection went beyond.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LimitReached {
    /// A callback asked for more bytes than the input limit lets a connection buffer.
    Input,
    /// The output queue was full, and a callback gave up on that.
    Output,
    /// A callback had to wait, and the system refused a thread for that.
    Threads,
    /// A callback waited for bytes, and `memory_budget` was used up.
    Memory,
}

/// Why a connection ended, as `on_disconnect` is told.
#[derive(Debug)]
#[non_exhaustive]
pub enum CloseReason {
    /// The peer ended its stream, and all that it sent was served.
    Peer,
    /// The peer reset the connection, or a write found it gone.
    Reset,
    /// We closed it: [`Connection::close`](crate::Connection::close), `abort`, or the same by a
    /// [`Handle`](crate::Handle).
    Local,
    /// Its socket was given away: [`Connection::detach`](crate::Connection::detach).
    Detached,
    /// The peer was too slow, or silent; or a callback passed on that its read or flush timed out.
    Timeout(Wait),
    /// A callback passed on that a limit was reached.
    Limit(LimitReached),
    /// A callback returned this error.
    Callback(Error),
    /// A callback panicked. The panic ended this connection and nothing else.
    Panic,
    /// The event loop shut down.
    Shutdown,
    /// The system failed the connection for another reason.
    Io(io::Error),
}

impl Error {
    /// The kind of this error in `std::io`'s terms.
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
            Self::EndOfStream => Kind::UnexpectedEof,
            Self::TimedOut(_) => Kind::TimedOut,
            Self::WouldBlock | Self::Full => Kind::WouldBlock,
            Self::InputLimit { .. } => Kind::InvalidData,
            Self::NoThread | Self::NoMemory => Kind::QuotaExceeded,
        }
    }

    /// An unusable option or address: one sentence that names it and says what would do.
    pub fn config(sentence: impl Into<String>) -> Self {
        Self::Config(sentence.into().into_boxed_str())
    }

    /// A failure of the program's own, from any error or from a text. Its kind is `Other`.
    pub fn other(error: impl Into<Box<dyn error::Error + Send + Sync>>) -> Self {
        io::Error::other(error).into()
    }

    /// The peer sent what its protocol forbids, told by any error or by a text. Its kind is
    /// `InvalidData`.
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
    /// carries, if it is of that type.
    pub fn downcast_ref<E: error::Error + 'static>(&self) -> Option<&E> {
        match self {
            Self::Io(carrier) => carrier.get_ref()?.downcast_ref(),
            _ => None,
        }
    }

    /// A failure to do something, as in "dial", with an address.
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
            Self::TimedOut(wait) => write!(out, "timed out waiting for {wait}"),
            Self::WouldBlock => out.write_str("the operation would have to wait, and must not"),
            Self::Full => out.write_str("the output queue is above its high-water mark"),
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

/// The sentence, and the causes that it does not name: what `fn main() -> netpoll::Result<()>`
/// prints.
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
        })
    }
}

/// What the reader of an address error can do about it.
fn advice(kind: io::ErrorKind, what: &str) -> &'static str {
    use io::ErrorKind as Kind;
    if what.starts_with("listen on unix") {
        return match kind {
            Kind::AddrInUse => {
                "; a process listens there, or the file is no socket: stop it, or choose another \
                 path"
            }
            Kind::PermissionDenied => "; this process may not write to that directory",
            _ => "",
        };
    }
    match (kind, what.starts_with("listen")) {
        (Kind::AddrInUse, true) => "; choose another port, or stop who holds it",
        (Kind::AddrNotAvailable, true) => "; this machine doesn't have that address",
        (Kind::PermissionDenied, true) => "; ports below 1024 need privileges",
        (Kind::AddrNotAvailable, false) => "; are all local ports in use?",
        (Kind::ConnectionRefused, false) => "; nobody listens there",
        _ => "",
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Address { source, .. } => Some(source),
            Self::Io(source) => source.source(),
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
            // Checked above; nothing else can be inside.
            Some(Err(inner)) => Self::Io(io::Error::other(inner)),
            None => Self::Io(io::ErrorKind::Other.into()),
        }
    }
}

/// As [`Error::other`]; one of ours inside comes out as itself.
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
            _ => Self::Io(error),
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
                out.write_str("its callback waited for bytes, and memory_budget was used up")
            }
            Self::Callback(error) => write!(out, "a callback returned an error: {error}"),
            Self::Panic => out.write_str("a callback panicked"),
            Self::Shutdown => out.write_str("the event loop shut down"),
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
        assert_eq!(text, "cannot dial tcp 127.0.0.1:1: connection refused; nobody listens there");
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
