//! What procfs says of a thread: whether it sleeps.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;

/// The open file in which procfs describes a thread of this process: a look costs one system call,
/// and no descriptor.
#[derive(Debug)]
pub(crate) struct StateFile {
    number: i32,
    file: File,
}

impl StateFile {
    /// Opens that of the thread with this number.
    ///
    /// # Errors
    /// The system's: procfs is not there, or of another namespace, or descriptors have run out.
    pub(crate) fn open(number: i32) -> io::Result<Self> {
        let file = File::open(format!("/proc/self/task/{number}/stat"))?;
        Ok(Self { number, file })
    }

    /// Which thread it describes.
    pub(crate) fn number(&self) -> i32 {
        self.number
    }

    /// Whether the thread sleeps: it neither runs nor waits for a core.
    ///
    /// # Errors
    /// The system's: the thread has ended.
    pub(crate) fn is_asleep(&self) -> io::Result<bool> {
        let mut stat = [0; 64]; // longer than what comes up to the state
        let read = super::repeat(|| self.file.read_at(&mut stat, 0))?;
        is_asleep(&stat[..read]).ok_or_else(|| ErrorKind::InvalidData.into())
    }
}

/// The line begins with "number (name) state", and the name may hold anything.
fn is_asleep(stat: &[u8]) -> Option<bool> {
    let end_of_name = stat.iter().rposition(|&byte| byte == b')')?;
    let state = stat.get(end_of_name + 2)?;
    Some(matches!(state, b'S' | b'D'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_stands_behind_the_name_whatever_that_is() {
        for (stat, asleep) in [
            ("1 (sleeper) S 0 1", Some(true)),
            ("1 (disk) D 0 1", Some(true)),
            ("1 (busy) R 0 1", Some(false)),
            ("1 (a) S) R 0 1", Some(false)),
            ("1 () S 0", Some(true)),
            ("1 (cut", None),
            ("1 (cut)", None),
            ("", None),
        ] {
            assert_eq!(is_asleep(stat.as_bytes()), asleep, "{stat:?}");
        }
    }

    #[test]
    fn a_look_at_this_thread_finds_it_awake() {
        let file = StateFile::open(crate::sys::thread_number()).unwrap();
        assert!(!file.is_asleep().unwrap() && !file.is_asleep().unwrap());
        assert!(StateFile::open(i32::MAX).is_err());
    }
}
