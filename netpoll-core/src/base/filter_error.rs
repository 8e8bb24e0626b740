//! The error of a filter: a sentence for a person, and the cause.

use std::sync::Arc;
use std::{error, fmt};

/// Why a filter, for example TLS, failed a connection. A clone shares the cause.
#[derive(Debug, Clone)]
pub struct FilterError(Arc<Told>);

#[derive(Debug)]
struct Told {
    sentence: Box<str>,
    cause: Option<Box<dyn error::Error + Send + Sync>>,
}

impl FilterError {
    /// Makes an error from a sentence that says what failed, on what, and what to do.
    pub fn new(sentence: impl Into<String>) -> Self {
        Self(Arc::new(Told { sentence: sentence.into().into(), cause: None }))
    }

    /// As [`new`](Self::new), with the error behind it, for [`source`](error::Error::source).
    pub fn caused_by(
        sentence: impl Into<String>,
        cause: impl Into<Box<dyn error::Error + Send + Sync>>,
    ) -> Self {
        Self(Arc::new(Told { sentence: sentence.into().into(), cause: Some(cause.into()) }))
    }

    /// The error of a filter that panicked, with what the panic said.
    pub(crate) fn panicked(text: &str) -> Self {
        Self::new(format!("the filter panicked: {text}"))
    }
}

impl fmt::Display for FilterError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0.sentence)
    }
}

impl error::Error for FilterError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        self.0.cause.as_deref().map(|cause| cause as &(dyn error::Error + 'static))
    }
}
