//! What systemd, or another service manager that speaks its protocol, is told of this process:
//! that it serves, that it reloads or stops, and that its loops turn.

pub(crate) mod reporting;
mod watchdog;

use std::env;
use std::fmt::Display;
use std::io;
use std::process;
use std::sync::Arc;
use std::time::Duration;

use netpoll_core::socket::{ManagerSocket, monotonic_micros};
use netpoll_core::{Address, Error, Result};

/// The service manager that has started this process, if one has. Cheap to clone.
///
/// With [`EventLoopBuilder::systemd`](crate::EventLoopBuilder::systemd) an event loop tells it when
/// it serves (`READY=1`), when it stops (`STOPPING=1`), and that it is alive (`WATCHDOG=1`): the
/// last is sent only if every loop has turned since it was sent before, so a loop that is stuck
/// lets the watchdog expire. It needs no library of systemd. A message costs one system call, and a
/// wait of a second at the most where the manager takes none.
///
/// ```
/// use netpoll_core::Connection;
/// use netpoll_server::{EventLoop, Systemd};
///
/// let event_loop = EventLoop::builder()
///     .on_request(|_: &mut (), conn: &mut Connection| conn.reader().skip(1))
///     .systemd(Systemd::from_env()?) // nothing, if systemd has not started this process
///     .build()?;
/// # Ok::<(), netpoll_core::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Systemd {
    socket: Option<Arc<ManagerSocket>>,
    watchdog: Option<Duration>,
    /// The watchdog is meant for another process, the one that this one may take over from.
    is_predecessors: bool,
}

impl Systemd {
    /// The manager that the environment names: `NOTIFY_SOCKET`, and for its watchdog
    /// `WATCHDOG_USEC` and `WATCHDOG_PID`. Without `NOTIFY_SOCKET` there is none, and every method
    /// succeeds and does nothing.
    ///
    /// # Errors
    /// [`Error::Config`] for a variable that can't be used, and the system's, when descriptors have
    /// run out.
    pub fn from_env() -> Result<Self> {
        Self::from_variables(|name| env::var_os(name).map(|it| it.to_string_lossy().into_owned()))
    }

    /// The manager at a Unix socket: a path, or `@name`. It wants to hear each `watchdog` that this
    /// process is alive.
    ///
    /// # Errors
    /// [`Error::Config`] for another address, and for a watchdog under 1 ms; the system's, when
    /// descriptors have run out.
    pub fn at(socket: &str, watchdog: impl Into<Option<Duration>>) -> Result<Self> {
        let watchdog = watchdog.into();
        if !socket.starts_with(['/', '@']) || socket.len() < 2 {
            return Err(wrong("the socket", socket, &"it must be an absolute path or an @name"));
        }
        if watchdog.is_some_and(|it| it < Duration::from_millis(1)) {
            return Err(Error::config("the watchdog is under 1 ms; None is no watchdog"));
        }
        let opened = ManagerSocket::open(&Address::unix(socket)).map_err(|error| {
            if error.kind() == io::ErrorKind::InvalidInput {
                return wrong("the socket", socket, &error);
            }
            Error::Io(error)
        })?;
        Ok(Self { socket: Some(Arc::new(opened)), watchdog, is_predecessors: false })
    }

    fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let Some(socket) = variable("NOTIFY_SOCKET").filter(|it| !it.is_empty()) else {
            return Ok(Self::default());
        };
        let number = |name| match variable(name).filter(|it| !it.is_empty()) {
            Some(text) => match text.parse::<u64>() {
                Ok(number) => Ok(Some(number)),
                Err(error) => Err(wrong(name, &text, &error)),
            },
            None => Ok(None),
        };
        let watchdog = number("WATCHDOG_USEC")?.filter(|it| *it > 0).map(Duration::from_micros);
        let is_predecessors =
            number("WATCHDOG_PID")?.is_some_and(|it| it != u64::from(process::id()));
        Ok(Self { is_predecessors, ..Self::at(&socket, watchdog)? })
    }

    /// Whether there is a manager.
    pub fn is_present(&self) -> bool {
        self.socket.is_some()
    }

    /// How long the manager waits for a sign of life before it ends this process; `None` if it has
    /// no watchdog for it.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog.filter(|_| !self.is_predecessors)
    }

    /// As [`watchdog`](Self::watchdog), for a process that has taken over from the one that the
    /// manager started: it takes the watchdog over, too.
    pub(crate) fn watchdog_of_service(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Says that the service is ready: it has started, or has reloaded. An event loop that knows
    /// this manager says it by itself when it serves; call it after [`reloading`](Self::reloading).
    ///
    /// # Errors
    /// As [`notify`](Self::notify).
    pub fn ready(&self) -> Result<()> {
        self.notify("READY=1")
    }

    /// Says that the service reloads its configuration, until [`ready`](Self::ready); with the time
    /// that `Type=notify-reload` wants.
    ///
    /// # Errors
    /// As [`notify`](Self::notify).
    pub fn reloading(&self) -> Result<()> {
        self.notify(&format!("RELOADING=1\nMONOTONIC_USEC={}", monotonic_micros()?))
    }

    /// Says that the service stops. An event loop that knows this manager says it by itself when
    /// its shutdown begins.
    ///
    /// # Errors
    /// As [`notify`](Self::notify).
    pub fn stopping(&self) -> Result<()> {
        self.notify("STOPPING=1")
    }

    /// Says what the service does, in one line for `systemctl status`; further lines are left out.
    ///
    /// # Errors
    /// As [`notify`](Self::notify).
    pub fn status(&self, line: &str) -> Result<()> {
        self.notify(&format!("STATUS={}", line.lines().next().unwrap_or_default()))
    }

    /// Sends a message of the protocol, as `sd_notify` does: lines of `NAME=value`.
    ///
    /// # Errors
    /// The system's: no process listens at the socket, or it takes nothing for a second.
    pub fn notify(&self, message: &str) -> Result<()> {
        self.socket.as_ref().map_or(Ok(()), |socket| Ok(socket.send(message)?))
    }

    /// As [`notify`](Self::notify); that the manager does not hear it is no reason to end.
    fn tell(&self, message: &str) {
        if let Err(error) = self.notify(message) {
            let what = message.lines().next().unwrap_or_default();
            log::warn!("cannot tell systemd {what}: {error}");
        }
    }
}

fn wrong(name: &str, value: &str, what: &dyn Display) -> Error {
    Error::config(format!("cannot tell systemd, since {name} is '{value}': {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(variables: &[(&str, &str)]) -> Result<Systemd> {
        let variables: Vec<_> = variables.iter().map(|(a, b)| (*a, (*b).to_owned())).collect();
        Systemd::from_variables(|name| {
            variables.iter().find(|(each, _)| *each == name).map(|(_, value)| value.clone())
        })
    }

    #[test]
    fn the_environment_says_whether_there_is_a_manager() {
        for none in [&[][..], &[("NOTIFY_SOCKET", "")], &[("WATCHDOG_USEC", "nonsense")]] {
            let systemd = with(none).unwrap();
            assert!(!systemd.is_present() && systemd.watchdog().is_none());
            systemd.ready().unwrap();
            systemd.reloading().unwrap();
        }
        let (ours, others) = (process::id().to_string(), (process::id() + 1).to_string());
        let at = ("NOTIFY_SOCKET", "@netpoll-nobody");
        for (more, watchdog, of_service) in [
            (vec![], None, None),
            (vec![("WATCHDOG_USEC", "2000000")], Some(2), Some(2)),
            (vec![("WATCHDOG_USEC", "0")], None, None),
            (vec![("WATCHDOG_USEC", "2000000"), ("WATCHDOG_PID", &*ours)], Some(2), Some(2)),
            (vec![("WATCHDOG_USEC", "2000000"), ("WATCHDOG_PID", &*others)], None, Some(2)),
        ] {
            let systemd = with(&[&[at][..], &more].concat()).unwrap();
            assert_eq!(systemd.watchdog(), watchdog.map(Duration::from_secs), "{more:?}");
            assert_eq!(systemd.watchdog_of_service(), of_service.map(Duration::from_secs));
            assert!(systemd.is_present());
        }
    }

    #[test]
    fn variables_that_cannot_be_used_are_refused_by_name() {
        let long = format!("/{}", "x".repeat(200));
        for socket in ["relative", "vsock:2:1234", "@", "/", &long] {
            let refused = with(&[("NOTIFY_SOCKET", socket)]).unwrap_err().to_string();
            assert!(refused.contains(socket), "{refused}");
        }
        let at = ("NOTIFY_SOCKET", "@netpoll-nobody");
        for (name, value) in [("WATCHDOG_USEC", "soon"), ("WATCHDOG_PID", "-1")] {
            let refused = with(&[at, (name, value)]).unwrap_err().to_string();
            assert!(refused.contains(name) && refused.contains(value), "{refused}");
        }
        assert!(with(&[at, ("WATCHDOG_USEC", "999")]).is_err());
        assert!(with(&[at]).unwrap().ready().is_err(), "nobody listens there");
    }
}
