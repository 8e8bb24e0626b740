//! The one error of a bare buffer: it holds fewer bytes than were asked for.

use std::{error, fmt, io};

/// More bytes were asked for than there are.
///
/// The buffer is unchanged, so the same call succeeds once more bytes have arrived. Converts into
/// an [`io::Error`] of kind [`UnexpectedEof`](io::ErrorKind::UnexpectedEof).
///
/// ```
/// use netpoll_buffer::{LinkBuffer, Shortfall};
///
/// let mut buffer = LinkBuffer::from("four");
/// assert_eq!(buffer.next(5), Err(Shortfall { requested: 5, available: 4 }));
/// assert_eq!(buffer.len(), 4);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortfall {
    /// How many bytes the caller asked for.
    pub requested: usize,
    /// How many there are.
    pub available: usize,
}

impl Shortfall {
    /// `Ok` when `available` bytes cover the `requested` ones.
    #[inline]
    pub(crate) fn check(requested: usize, available: usize) -> Result<(), Self> {
        if requested > available {
            return Err(Self { requested, available });
        }
        Ok(())
    }
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes requested, {} available", self.requested, self.available)
    }
}

impl error::Error for Shortfall {}

impl From<Shortfall> for io::Error {
    fn from(shortfall: Shortfall) -> Self {
        Self::new(io::ErrorKind::UnexpectedEof, shortfall)
    }
}
