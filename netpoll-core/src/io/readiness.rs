//! What a driver says of a stream, and what a pull and a push have done.

use crate::pure::slab::Token;

/// Something changed about a stream.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StreamEvent {
    /// Which stream.
    pub(crate) token: Token,
    /// What may be tried now.
    pub(crate) readiness: Readiness,
}

/// What has become possible on a stream, or is known of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Readiness {
    /// A pull may find something: bytes, the end, or an error.
    pub(crate) receivable: bool,
    /// A push may find room.
    pub(crate) sendable: bool,
    /// The peer has ended its stream.
    pub(crate) peer_closed: bool,
    /// The stream has failed, or both directions have ended.
    pub(crate) failed: bool,
    /// From now on a pull may end before the stream is drained, though it says that it is.
    pub(crate) in_pieces: bool,
}

impl Readiness {
    /// Of any stream at any time: bytes may have arrived, and their report may still be on its way.
    pub(crate) const PERHAPS: Self = Self {
        receivable: true,
        sendable: false,
        peer_closed: false,
        failed: false,
        in_pieces: false,
    };
}

/// What a pull did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pulled {
    /// How many bytes came. 0: the stream has ended.
    pub(crate) read: usize,
    /// No byte is left behind, unless the stream is known to
    /// [arrive in pieces](Readiness::in_pieces).
    pub(crate) drained: bool,
}

/// What a push did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pushed {
    /// How many bytes went.
    pub(crate) taken: usize,
    /// The stream took all that this push offered it, and so may take more.
    pub(crate) wants: bool,
}
