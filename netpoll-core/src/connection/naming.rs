//! How lines of the log and `Debug` name a connection.

use std::fmt;

use super::shared::Shared;

/// How lines of the log name it: `17 from 192.0.2.1:4711`.
impl fmt::Display for Shared {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {} {}", self.id, self.direction(), self.peer())
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Connection")
            .field("id", &self.id)
            .field(self.direction(), self.peer())
            .field("task", &self.task)
            .field("pending", &self.output.pending())
            .finish_non_exhaustive()
    }
}
