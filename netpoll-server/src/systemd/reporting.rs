//! What an event loop tells the service manager in the course of one `serve`.

use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use netpoll_core::{PollManager, Remote, Result};

use super::Systemd;
use super::watchdog::Watchdog;

/// The reports of one `serve`; its drop ends the signs of life.
pub(crate) struct Reporting {
    systemd: Systemd,
    reported: Arc<AtomicBool>,
    watchdog: Option<Watchdog>,
}

impl Reporting {
    /// Begins. `took_over`: another process served before, and this one is the service now. The
    /// watchdog, if there is one, starts a thread, which waits for [`ready`](Self::ready).
    ///
    /// # Errors
    /// The system's, if it refuses the thread: without it the manager would end this process.
    pub(crate) fn begin(
        systemd: &Systemd,
        took_over: bool,
        main: &Arc<Remote>,
        manager: &Weak<PollManager>,
        has_left: impl Fn() -> bool + Send + 'static,
    ) -> Result<Self> {
        let period = if took_over { systemd.watchdog_of_service() } else { systemd.watchdog() };
        let period = period.filter(|_| systemd.is_present());
        let watchdog = period.map(|period| {
            Watchdog::start(systemd.clone(), period, main.clone(), manager.clone(), has_left)
        });
        let watchdog = watchdog.transpose()?;
        Ok(Self { systemd: systemd.clone(), reported: Arc::default(), watchdog })
    }

    /// What is to be called when the event loop serves.
    pub(crate) fn ready(&self, took_over: bool) -> impl FnOnce() + Send + use<> {
        let (systemd, reported) = (self.systemd.clone(), self.reported.clone());
        let begin = self.watchdog.as_ref().map(Watchdog::beginning);
        move || {
            // The manager takes this process for the service from here on.
            let main = took_over.then(|| format!("\nMAINPID={}", process::id()));
            systemd.tell(&format!("READY=1{}", main.unwrap_or_default()));
            reported.store(true, Ordering::SeqCst);
            if let Some(begin) = begin {
                begin();
            }
        }
    }

    /// The event loop stops; `has_left`: another process has its sockets, and is the service now.
    pub(crate) fn stopping(&self, has_left: bool) {
        if self.reported.load(Ordering::SeqCst) && !has_left {
            self.systemd.tell("STOPPING=1");
        }
    }
}
