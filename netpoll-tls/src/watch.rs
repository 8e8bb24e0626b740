//! Certificates that are renewed on disk: a thread looks at the files, and reloads what has
//! changed.
//!
//! A look is a system call that may wait for the file system, so it has no place on a loop.

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use netpoll_core::{Error, Result, guard, start_thread};

use crate::server::TlsConfig;

/// A watch of the files of a [`TlsConfig`], which [`TlsConfig::watch`] has begun. Dropping it ends
/// the watch, after a reload that is under way.
#[must_use = "dropping it ends the watch"]
pub struct TlsWatch {
    ended: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl TlsConfig {
    /// Looks at the files of this configuration so often, and reloads it when one of them has
    /// changed. `told` is called after each reload, with its outcome: after an error all stays as
    /// it was, until the files change again.
    ///
    /// A thread `netpoll-certs` does that, and calls `told`; it may wait for the file system, and
    /// no handshake waits for it. A look costs one system call for each file. What counts is the
    /// file that a symbolic link leads to, so the links of certbot are followed. If `told` panics,
    /// that is logged, and the watch goes on.
    ///
    /// ```no_run
    /// use std::time::Duration;
    /// use netpoll_tls::TlsConfig;
    ///
    /// let config = TlsConfig::from_pem("chain.pem", "key.pem")?;
    /// let _watch = config.watch(Duration::from_secs(60), |outcome| match outcome {
    ///     Ok(()) => println!("the certificate was renewed"),
    ///     Err(error) => eprintln!("the certificate is still the old one: {error}"),
    /// })?;
    /// # Ok::<(), netpoll_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Config`] if it has no file, or `every` is 0; the system's error if it refuses the
    /// thread.
    pub fn watch(
        &self,
        every: Duration,
        told: impl Fn(Result<()>) + Send + 'static,
    ) -> Result<TlsWatch> {
        let files = self.files();
        if files.is_empty() {
            return Err(Error::config("watch: this configuration has no file that could change"));
        }
        if every.is_zero() {
            return Err(Error::config("watch: looking every 0 s never ends; 1 s or more"));
        }
        let ended = Arc::new((Mutex::new(false), Condvar::new()));
        let (config, until) = (self.clone(), ended.clone());
        // Before the thread begins: a change after this call counts.
        let mut seen = stamps(&files);
        let watching = move || {
            while !ends_within(&until, every) {
                // Before the reload: a change while it reads counts the next time.
                let now = stamps(&files);
                if now != seen {
                    seen = now;
                    let outcome = config.reload();
                    guard("the closure of a watch of certificates", || told(outcome)).ok();
                }
            }
        };
        let thread = start_thread("netpoll-certs", watching)?;
        Ok(TlsWatch { ended, thread: Some(thread) })
    }
}

/// Whether the watch ends in that time.
fn ends_within(ended: &(Mutex<bool>, Condvar), time: Duration) -> bool {
    let flag = ended.0.lock().unwrap_or_else(PoisonError::into_inner);
    let waited = ended.1.wait_timeout_while(flag, time, |ended| !*ended);
    *waited.unwrap_or_else(PoisonError::into_inner).0
}

/// By what a file is known to have changed. `None`: it is not there.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    inode: (u64, u64),
    length: u64,
    /// Each write, rename and change of rights sets it; no program can set it back.
    changed: (i64, i64),
}

fn stamps(files: &[PathBuf]) -> Vec<Option<Stamp>> {
    files.iter().map(|file| Stamp::of(file)).collect()
}

impl Stamp {
    fn of(file: &Path) -> Option<Self> {
        let found = file.metadata().ok()?;
        Some(Self {
            inode: (found.dev(), found.ino()),
            length: found.len(),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }
}

impl Drop for TlsWatch {
    fn drop(&mut self) {
        *self.ended.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.ended.1.notify_all();
        // The closure itself may drop it.
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != thread::current().id()
            && thread.join().is_err()
        {
            log::error!("the thread of a watch of certificates panicked");
        }
    }
}

impl fmt::Debug for TlsWatch {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("TlsWatch").finish_non_exhaustive()
    }
}
