//! The progress line: one line on standard error that is written over, if a person sees it.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// How often the line changes.
pub(crate) const INTERVAL: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub(crate) struct Progress {
    terminal: bool,
    shown: Option<Instant>,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { terminal: io::stderr().is_terminal(), shown: None }
    }

    /// Shows a line, unless one was shown just now.
    pub(crate) fn show(&mut self, line: impl FnOnce() -> String) {
        let recent = self.shown.is_some_and(|shown| shown.elapsed() < INTERVAL / 2);
        if self.terminal && !recent {
            // A terminal that has gone away is no reason to end a measurement.
            let _ = write!(io::stderr(), "\r\x1b[K{}", line());
            self.shown = Some(Instant::now());
        }
    }
}

/// The report begins on an empty line.
impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown.is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
