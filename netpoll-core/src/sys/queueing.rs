//! What procfs says of a thread: for how long it has waited for a processor.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::time::Duration;

/// The open file in which procfs counts how long a thread of this process could run and had no
/// processor. A look costs one system call.
#[derive(Debug)]
pub(crate) struct QueueFile(File);

impl QueueFile {
    /// Opens that of the thread with this number.
    ///
    /// # Errors
    /// The system's: procfs is not there, or of another namespace, or does not count this, or
    /// descriptors have run out.
    pub(crate) fn open(number: i32) -> io::Result<Self> {
        File::open(format!("/proc/self/task/{number}/schedstat")).map(Self)
    }

    /// For how long the thread has waited for a processor so far.
    ///
    /// # Errors
    /// The system's: the thread has ended.
    pub(crate) fn waited(&self) -> io::Result<Duration> {
        let mut line = [0; 96]; // three numbers of 64 bits
        let read = super::repeat(|| self.0.read_at(&mut line, 0))?;
        waited(&line[..read]).ok_or_else(|| ErrorKind::InvalidData.into())
    }
}

/// The line is "computed waited slices", the times in nanoseconds.
fn waited(line: &[u8]) -> Option<Duration> {
    let line = std::str::from_utf8(line).ok()?;
    line.split_ascii_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_is_the_second_number() {
        for (line, nanoseconds) in [
            ("5 7 3\n", Some(7)),
            ("5 18446744073709551615 3", Some(u64::MAX)),
            ("5", None),
            ("5 x 3", None),
            ("", None),
        ] {
            let expected = nanoseconds.map(Duration::from_nanos);
            assert_eq!(waited(line.as_bytes()), expected, "{line:?}");
        }
    }
}
