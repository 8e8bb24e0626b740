//! How fast a client of `chat` or `websocket_chat` may send. All members get each message, so a
//! client that floods would cause every member to be dropped that reads more slowly.

use std::time::{Duration, Instant};

use netpoll::{Connection, Result};

/// How many messages a client may send in each `SPAN`.
pub(crate) const MESSAGES: u32 = 10;
const SPAN: Duration = Duration::from_secs(1);

pub(crate) struct Pace {
    /// When the span began.
    since: Instant,
    /// How many messages came in it.
    count: u32,
}

impl Pace {
    pub(crate) fn new() -> Self {
        Self { since: Instant::now(), count: 0 }
    }

    /// Whether the next message may be read now. If not, `on_request` runs again when it may; until
    /// then nothing is received, so the client's window closes.
    pub(crate) fn allows_more(&mut self, conn: &mut Connection) -> Result<bool> {
        let now = Instant::now();
        let next = self.since + SPAN;
        if now >= next {
            *self = Self { since: now, count: 0 };
        }
        if self.count < MESSAGES {
            return Ok(true);
        }
        conn.pause_reading();
        conn.handle().run_after(next - now, |conn: &mut Connection| {
            conn.resume_reading();
            conn.wake(); // for what was received before
            Ok(())
        })?;
        Ok(false)
    }

    pub(crate) fn count(&mut self) {
        self.count += 1;
    }
}
