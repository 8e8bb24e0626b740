//! What a process used: CPU time from its clock, memory from /proc.

use std::fs;
use std::io;
use std::time::Duration;

use nix::time::ClockId;
use nix::unistd::Pid;

/// A process that is being watched.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Process {
    pid: i32,
    clock: ClockId,
}

/// The server's use of the machine.
#[derive(Debug)]
pub(crate) struct Usage {
    /// Within the window.
    pub(crate) cpu: Duration,
    /// Bytes, before the first connection.
    pub(crate) rss_before: u64,
    /// Bytes, at the end of the window.
    pub(crate) rss_after: u64,
}

impl Process {
    pub(crate) fn open(pid: i32) -> io::Result<Self> {
        let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(pid));
        let clock = clock.map_err(|errno| no_process(pid, &errno.into()))?;
        Ok(Self { pid, clock })
    }

    /// Ourselves.
    pub(crate) fn own() -> io::Result<Self> {
        Self::open(Pid::this().as_raw())
    }

    /// User and system time of all threads that it has and had. To the nanosecond, where
    /// `/proc/PID/stat` counts in hundredths of a second.
    pub(crate) fn cpu(self) -> io::Result<Duration> {
        let now = self.clock.now().map_err(|errno| no_process(self.pid, &errno.into()))?;
        Ok(now.into())
    }

    /// Bytes of memory that are in use.
    pub(crate) fn rss(self) -> io::Result<u64> {
        let path = format!("/proc/{}/status", self.pid);
        let status = fs::read_to_string(path).map_err(|error| no_process(self.pid, &error))?;
        rss(&status).ok_or_else(|| no_process(self.pid, &io::ErrorKind::InvalidData.into()))
    }
}

fn no_process(pid: i32, error: &io::Error) -> io::Error {
    io::Error::other(format!("cannot watch process {pid}: {error}"))
}

fn rss(status: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = value.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_the_status() {
        assert_eq!(rss("Name:\tx\nVmRSS:\t    2048 kB\nRssAnon:\t 1 kB\n"), Some(2 << 20));
        assert_eq!(rss("Name:\tzombie\n"), None);
    }

    #[test]
    fn we_use_something_ourselves() {
        let own = Process::own().unwrap();
        assert!(own.rss().unwrap() > 100_000);
        let before = own.cpu().unwrap();
        while own.cpu().unwrap() <= before {}
    }

    #[test]
    fn a_process_that_is_gone_is_named() {
        let error = Process::open(4_194_304).unwrap_err().to_string();
        assert!(error.starts_with("cannot watch process 4194304: "), "{error}");
    }
}
