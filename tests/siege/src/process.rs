//! A child process that serves: its output, and the system's figures of it.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::confine::{Confine, MISSING};
use crate::report::Problem;

/// How long a server may take until it prints that it listens.
const START: Duration = Duration::from_secs(10);
/// How many lines of a child's output are kept.
const LINES: usize = 40;

/// A child process. It is killed when this is dropped.
pub(crate) struct Process {
    child: Child,
    said: Arc<Said>,
    pub(crate) started: Instant,
}

/// A child process that serves.
pub(crate) struct Server {
    pub(crate) process: Process,
    pub(crate) address: SocketAddr,
}

#[derive(Default)]
struct Said {
    lines: Mutex<VecDeque<String>>,
    changed: Condvar,
}

/// Waits for so long, while the attack goes on on other threads.
pub(crate) fn pause(time: Duration) {
    thread::sleep(time); // sleep: an attack lasts as long as it is meant to
}

/// Polls until the condition is true, or `patience` is over. Returns how long that took.
pub(crate) fn until(patience: Duration, mut is_so: impl FnMut() -> bool) -> Option<Duration> {
    let begun = Instant::now();
    loop {
        if is_so() {
            return Some(begun.elapsed());
        }
        if begun.elapsed() > patience {
            return None;
        }
        pause(Duration::from_millis(10));
    }
}

/// The command that starts an example.
pub(crate) fn example(name: &str, args: &[&str]) -> Result<Vec<String>, Problem> {
    let program = this_program()?.with_file_name("examples").join(name);
    if !program.exists() {
        let missing = format!("the example {name}: cargo build --release --examples");
        return Err(Problem::Missing(missing));
    }
    Ok(command(&program.display().to_string(), args))
}

/// The command that starts this program in another role.
pub(crate) fn role(name: &str, args: &[&str]) -> Result<Vec<String>, Problem> {
    let mut words = vec![name];
    words.extend_from_slice(args);
    Ok(command(&this_program()?.display().to_string(), &words))
}

pub(crate) fn command(program: &str, args: &[&str]) -> Vec<String> {
    [program].iter().chain(args).map(|&word| word.to_owned()).collect()
}

fn this_program() -> Result<PathBuf, Problem> {
    Ok(std::env::current_exe()?)
}

impl Process {
    pub(crate) fn start(command: &[String], confine: &Confine) -> Result<Self, Problem> {
        let mut child = Command::new(this_program()?)
            .args(confine.args(command))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let said = Arc::new(Said::default());
        listen(child.stdout.take(), &said);
        listen(child.stderr.take(), &said);
        Ok(Self { child, said, started: Instant::now() })
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().unwrap_or(i32::MAX))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        // A child that has ended already is noticed by `ended`.
        let _ = kill(self.pid(), signal);
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits for a line that begins so; returns what follows. `None` if it has not come in time, or
    /// the child has ended without.
    pub(crate) fn says(&mut self, prefix: &str, patience: Duration) -> Option<String> {
        let begun = Instant::now();
        loop {
            let ended = self.ended().is_some();
            let lines = self.said.lines.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(rest) = lines.iter().find_map(|line| line.strip_prefix(prefix)) {
                return Some(rest.to_owned());
            }
            if ended || begun.elapsed() > patience {
                return None;
            }
            drop(self.said.changed.wait_timeout(lines, Duration::from_millis(20)));
        }
    }

    /// The last lines of its output.
    pub(crate) fn last_words(&self) -> String {
        let lines = self.said.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let last: Vec<&str> = lines.iter().rev().take(3).rev().map(String::as_str).collect();
        last.join(" | ")
    }

    /// The memory that it has, in MiB.
    pub(crate) fn resident(&self) -> u64 {
        self.status("VmRSS:") >> 10
    }

    /// The most memory that it has had, in MiB.
    pub(crate) fn peak(&self) -> u64 {
        self.status("VmHWM:") >> 10
    }

    pub(crate) fn threads(&self) -> u64 {
        self.status("Threads:")
    }

    /// Sockets that it has open. Its other descriptors come and go with its threads.
    pub(crate) fn sockets(&self) -> usize {
        let Ok(all) = fs::read_dir(format!("/proc/{}/fd", self.pid())) else { return 0 };
        let targets = all.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
        targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count()
    }

    /// Processor time that it has used.
    pub(crate) fn processor(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        // The second field is a name in brackets, which may contain any bytes.
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
        let ticks = fields.split_whitespace().skip(11).take(2);
        let ticks: u64 = ticks.filter_map(|field| field.parse::<u64>().ok()).sum();
        Duration::from_millis(ticks * 10) // USER_HZ is 100
    }

    fn status(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()));
        let status = status.unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        number.unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Kills its children, too: a program does not end with the `strace` that runs it.
        let _ = killpg(self.pid(), Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

impl Server {
    /// Starts it, and waits until it prints its address.
    pub(crate) fn start(command: &[String], confine: &Confine) -> Result<Self, Problem> {
        let mut process = Process::start(command, confine)?;
        let Some(address) = process.says("listening on ", START) else {
            let said = process.last_words();
            return Err(match process.ended() {
                Some(status) if status.code() == Some(MISSING) => Problem::Missing(said),
                Some(status) => Problem::Broken(format!("it ended by {status}: {said}")),
                None => Problem::Broken(format!("it does not listen: {said}")),
            });
        };
        let address = address.split([',', ' ']).next().unwrap_or_default();
        let address = address.parse().map_err(|_| Problem::Broken(format!("at {address:?}?")))?;
        Ok(Self { process, address })
    }

    /// This program's own server.
    pub(crate) fn own(args: &[&str], confine: &Confine) -> Result<Self, Problem> {
        Self::start(&role("serve", args)?, confine)
    }

    /// An example, on a free port.
    pub(crate) fn example(name: &str, args: &[&str], confine: &Confine) -> Result<Self, Problem> {
        Self::start(&example(name, args)?, confine)
    }

    /// Returns an error if it does not run any more.
    pub(crate) fn is_alive(&mut self) -> Result<(), Problem> {
        match self.process.ended() {
            None => Ok(()),
            Some(status) => {
                let said = self.process.last_words();
                Err(Problem::Broken(format!("the server ended by {status}: {said}")))
            }
        }
    }
}

/// Keeps the last lines of a stream, from a thread of its own.
fn listen(stream: Option<impl Read + Send + 'static>, said: &Arc<Said>) {
    let (Some(stream), said) = (stream, said.clone()) else { return };
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let mut lines = said.lines.lock().unwrap_or_else(PoisonError::into_inner);
            if lines.len() == LINES {
                // The first lines stay: its address is among them.
                lines.remove(LINES / 2);
            }
            lines.push_back(line);
            said.changed.notify_all();
        }
    });
}
