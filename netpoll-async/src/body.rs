//! The future of a connection, whose type is forgotten.

use std::error;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use netpoll_core::{Error, Result};

/// A future of a connection, pinned for as long as it lives: it takes one allocation.
pub(crate) type BoxedBody = Pin<Box<dyn Body>>;

/// What the callbacks of a connection poll.
pub(crate) trait Body: Send {
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>>;
}

impl<F, E> Body for F
where
    F: Future<Output = Result<(), E>> + Send,
    E: Into<Box<dyn error::Error + Send + Sync>>,
{
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Future::poll(self, context).map_err(|error| error_of(error.into()))
    }
}

/// An error of this library, or one of the system, comes out as itself.
fn error_of(error: Box<dyn error::Error + Send + Sync>) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => *error,
        Err(error) => match error.downcast::<io::Error>() {
            Ok(error) => (*error).into(),
            Err(error) => io::Error::other(error).into(),
        },
    }
}
