//! A connection of a web server: what its callback does, and what it leaves for the next one.

use std::fs::File;
use std::io::Read;
use std::time::{Duration, Instant};

use netpoll::{Connection, Result};

use crate::files::Files;
use crate::{answer, request};

/// How much one callback writes, in bytes. The next one comes when the client has read.
const PIECE: usize = 256 << 10;
/// How long a client may go on sending behind its last request. A socket that is closed earlier
/// resets, and the client may lose the answer that it has not read yet.
const FAREWELL: Duration = Duration::from_secs(2);

/// A connection, between two callbacks.
#[derive(Default)]
pub(crate) struct Session {
    /// A file on its way, and how many bytes of it are still to come.
    sending: Option<(File, u64)>,
    /// No further request is answered.
    last: bool,
}

impl Session {
    /// Answers what can be answered now.
    pub(crate) fn serve(&mut self, files: &Files, conn: &mut Connection) -> Result<()> {
        let (mut reader, mut writer) = conn.split();
        if self.is_over() {
            return reader.try_skip(reader.len());
        }
        while !self.is_over() && writer.malloc_len() < PIECE {
            if let Some((file, left)) = &mut self.sending {
                let piece = usize::try_from(*left).map_or(PIECE, |left| left.min(PIECE));
                // Its length is promised, so a file that has shrunk ends the connection.
                file.read_exact(writer.malloc(piece))?;
                *left -= piece as u64;
                self.sending.take_if(|(_, left)| *left == 0);
                continue;
            }
            let window = reader.len().min(2 * request::HEAD_MAX);
            let answered = answer::all(reader.try_peek(window)?, files, writer.buf());
            reader.try_skip(answered.used)?;
            (self.sending, self.last) = (answered.file, answered.last);
            if answered.used == 0 && !self.last {
                return Ok(());
            }
        }
        if self.is_over() {
            conn.shutdown_write();
            conn.close_at(Some(Instant::now() + FAREWELL));
        } else {
            // There is more to do, once this is sent, and perhaps no event follows.
            conn.handle().wake();
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.last && self.sending.is_none()
    }
}
