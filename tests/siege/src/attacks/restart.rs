//! A successor that fails while it takes over: after each fault one of the processes serves. The
//! example `hot_restart`.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use crate::confine::Confine;
use crate::process::{Process, Server, command, example, until};
use crate::report::{Outcome, Problem, Row};
use crate::run::Siege;

/// How long a successor may take until it serves, or gives up.
const TAKES: Duration = Duration::from_secs(4);

/// The faults of a successor: a system call, and how it fails. The first error is always tried, the
/// others with `--long`.
const FAULTS: &[(&str, &[&str])] = &[
    ("socket", &["EMFILE", "ENFILE", "ENOMEM"]),
    ("connect", &["EAGAIN", "EACCES", "EINTR"]),
    ("sendmsg", &["EPIPE", "EAGAIN", "ENOMEM", "EINTR", "EIO"]),
    ("recvmsg", &["ECONNRESET", "EAGAIN", "ENOMEM", "EINTR", "EIO"]),
    ("sendto", &["EPIPE", "EAGAIN", "EINTR", "ENOMEM"]),
    ("recvfrom", &["ECONNRESET", "EAGAIN", "EINTR", "ENOMEM"]),
    ("read", &["EIO", "EINTR"]),
    ("write", &["EIO", "EAGAIN", "EINTR"]),
    ("poll", &["ENOMEM", "EINTR"]),
    ("bind", &["EACCES", "EADDRINUSE"]),
    ("listen", &["EADDRINUSE"]),
    ("getsockname", &["ENOBUFS", "EIO"]),
    ("getsockopt", &["ENOBUFS", "EIO"]),
    ("setsockopt", &["ENOBUFS", "EIO"]),
    ("fcntl", &["EIO", "EMFILE"]),
    ("rename", &["EACCES", "ENOSPC"]),
    ("epoll_create1", &["EMFILE", "ENOMEM"]),
    ("eventfd2", &["EMFILE", "ENFILE", "ENOMEM"]),
    ("epoll_ctl", &["ENOSPC", "ENOMEM"]),
    ("epoll_wait", &["EINTR"]),
    ("accept4", &["EMFILE", "ENOMEM", "ECONNABORTED", "EINTR"]),
    ("clone3", &["EAGAIN", "ENOMEM", "EPERM"]),
    ("mmap", &["ENOMEM", "EAGAIN"]),
    ("mprotect", &["ENOMEM"]),
    ("openat", &["EMFILE", "ENOENT", "EACCES"]),
    ("close", &["EIO"]),
    ("shutdown", &["ENOTCONN"]),
    ("unlink", &["EACCES"]),
];

struct Scene {
    directory: PathBuf,
    control: String,
    server: Option<Server>,
    runs: usize,
    unserved: Vec<String>,
}

impl Scene {
    fn new() -> Result<Self, Problem> {
        let directory = std::env::temp_dir().join(format!("siege-{}", std::process::id()));
        std::fs::create_dir_all(&directory)?;
        let control = directory.join("control").display().to_string();
        Ok(Self { directory, control, server: None, runs: 0, unserved: Vec::new() })
    }

    /// Starts a successor by `words` and its own command, and looks whether the address is served
    /// when it has taken over or failed.
    fn run(&mut self, name: &str, words: &[String], confine: &Confine) -> Outcome {
        let control = self.control.clone();
        let predecessor = self.predecessor()?;
        let address = predecessor.address;
        let mut words = words.to_vec();
        words.extend(example("hot_restart", &[&address.to_string(), &control])?);
        let mut successor = Process::start(&words, confine)?;
        let took = successor.says("listening on ", TAKES).is_some();
        let mut served = is_served(address);
        if took {
            // One of the two ends.
            let over = || predecessor.process.ended().is_some() || successor.ended().is_some();
            until(Duration::from_millis(1_500), over);
        }
        // Often enough that each loop gets a request.
        served &= (0..4).all(|_| is_served(address));
        self.runs += 1;
        if !served {
            self.unserved.push(name.to_owned());
        }
        if took || !served {
            self.server = None;
        }
        Ok(())
    }

    /// The process that serves, started anew if the last one was replaced.
    fn predecessor(&mut self) -> Result<&mut Server, Problem> {
        if self.server.as_mut().is_none_or(|server| server.is_alive().is_err()) {
            let _ = std::fs::remove_file(&self.control);
            let args = ["127.0.0.1:0", self.control.as_str()];
            self.server = Some(Server::example("hot_restart", &args, &Confine::default())?);
            // It prints its address before its control socket exists.
            let there = || std::fs::exists(&self.control).unwrap_or(false);
            until(Duration::from_secs(3), there);
        }
        self.server.as_mut().ok_or_else(|| Problem::broken("no predecessor"))
    }

    fn report(&self, row: &mut Row) {
        row.note("runs", self.runs);
        row.equal("without service", self.unserved.len(), 0);
        if !self.unserved.is_empty() {
            row.note("at", self.unserved.join(" "));
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// One fault may hit the answer to one client; the next client is served.
fn is_served(address: SocketAddr) -> bool {
    let line = || -> std::io::Result<String> {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        Ok(line)
    };
    (0..3).any(|_| line().is_ok_and(|line| line.starts_with("process ")))
}

/// From three descriptors on, until it has enough.
pub(crate) fn few_descriptors(siege: &Siege, row: &mut Row) -> Outcome {
    let mut scene = Scene::new()?;
    let step = if siege.long { 1 } else { 2 };
    for descriptors in (4..24).step_by(step) {
        let confine = Confine { descriptors: Some(descriptors), ..Confine::default() };
        scene.run(&format!("{descriptors}"), &[], &confine)?;
    }
    scene.report(row);
    Ok(())
}

/// One call fails once, through `strace`: each of the kinds above, the first time and later.
pub(crate) fn one_errno(siege: &Siege, row: &mut Row) -> Outcome {
    let mut scene = Scene::new()?;
    let log = scene.directory.join("strace").display().to_string();
    strace_works(&log)?;
    let most = if siege.long { 6 } else { 2 };
    let mut injected = 0;
    let errors =
        |errors: &'static [&'static str]| &errors[..if siege.long { errors.len() } else { 1 }];
    let faults = FAULTS.iter().flat_map(|(call, all)| errors(all).iter().map(move |it| (call, it)));
    for (call, error) in faults {
        for nth in 1..=most {
            let inject = format!("inject={call}:error={error}:when={nth}");
            let trace = format!("trace={call}");
            let options = ["-f", "-qq", "-o", &log, "-e", &trace, "-e", &inject];
            let words = command("strace", &options);
            scene.run(&format!("{call}:{error}:{nth}"), &words, &Confine::default())?;
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let _ = std::fs::remove_file(&log);
            if !text.contains("INJECTED") {
                break; // it does not make that call so often
            }
            injected += 1;
        }
    }
    row.note("with a fault", injected);
    scene.report(row);
    if injected < 10 {
        return Err(Problem::broken("next to no fault was injected"));
    }
    Ok(())
}

/// Whether `strace` is installed, and may trace.
pub(super) fn strace_works(log: &str) -> Outcome {
    let tried = std::process::Command::new("strace")
        .args(["-f", "-qq", "-o", log, "-e", "trace=none", "true"])
        .output();
    match tried {
        Ok(output) if output.status.success() => Ok(()),
        _ => Err(Problem::Missing("strace, or the right to trace".to_owned())),
    }
}
