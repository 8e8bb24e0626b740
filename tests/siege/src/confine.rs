//! Starts a program with fewer resources: threads, descriptors, addresses, /proc.
//!
//! Every child of the siege is started through this, so that it ends when the siege does.

use std::ffi::CString;
use std::fs::File;
use std::process::ExitCode;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid, execvp, fexecve, setgid, setgroups, setuid};

/// The status of a child that could not be confined.
pub(crate) const MISSING: i32 = 75;

/// The limits of a child.
#[derive(Default, Clone)]
pub(crate) struct Confine {
    /// How many threads and processes its user may have; no other process has that user.
    pub(crate) threads: Option<u64>,
    pub(crate) descriptors: Option<u64>,
    /// Bytes.
    pub(crate) address_space: Option<u64>,
    pub(crate) no_proc: bool,
}

impl Confine {
    /// The arguments with which this program confines `command` so.
    pub(crate) fn args(&self, command: &[String]) -> Vec<String> {
        let mut args = vec!["confine".to_owned()];
        let limits = [
            ("--threads", self.threads),
            ("--descriptors", self.descriptors),
            ("--address-space", self.address_space),
        ];
        for (name, limit) in limits {
            args.extend(limit.iter().flat_map(|limit| [name.to_owned(), limit.to_string()]));
        }
        args.extend(self.no_proc.then(|| "--no-proc".to_owned()));
        args.push("--".to_owned());
        args.extend_from_slice(command);
        args
    }
}

/// `confine [LIMIT…] -- PROGRAM [ARGUMENT…]`: executes the program, or prints what is missing.
pub(crate) fn main(args: &[String]) -> ExitCode {
    let why = apply(args).err().unwrap_or_default();
    eprintln!("siege: missing: {why}");
    ExitCode::from(MISSING.to_le_bytes()[0])
}

fn apply(args: &[String]) -> Result<(), String> {
    let (limits, command) = args.split_at(args.iter().position(|arg| arg == "--").unwrap_or(0));
    let Some(program) = command.get(1) else { return Err("no program".to_owned()) };
    // Its user may not be allowed to reach the file.
    let file = File::open(program).ok();
    let mut limits = limits.iter();
    let mut threads = None;
    while let Some(name) = limits.next() {
        if name == "--no-proc" {
            hide_proc()?;
            continue;
        }
        let limit = limits.next().and_then(|it| it.parse().ok()).ok_or("a limit is a number")?;
        let resource = match name.as_str() {
            "--threads" => {
                threads = Some(limit);
                continue;
            }
            "--descriptors" => Resource::RLIMIT_NOFILE,
            _ => Resource::RLIMIT_AS,
        };
        setrlimit(resource, limit, limit).map_err(|error| format!("{name} {limit}: {error}"))?;
    }
    if let Some(limit) = threads {
        become_another_user(limit)?;
    }
    // After the change of user, which would undo it.
    set_pdeathsig(Signal::SIGKILL).map_err(|error| format!("prctl: {error}"))?;
    let words = |words: &[String]| words.iter().map(|it| CString::new(it.as_str())).collect();
    let args: Result<Vec<CString>, _> = words(&command[1..]);
    let args = args.map_err(|error| error.to_string())?;
    let environment: Result<Vec<CString>, _> =
        std::env::vars().map(|(name, value)| CString::new(format!("{name}={value}"))).collect();
    let environment = environment.map_err(|error| error.to_string())?;
    let error = match file {
        Some(file) => fexecve(file, &args, &environment).err(),
        None => execvp(&args[0], &args).err(),
    };
    Err(format!("{program}: {}", error.map_or("?", |error| error.desc())))
}

/// The limit does not bind root, and it counts the threads of all processes of the same user.
fn become_another_user(threads: u64) -> Result<(), String> {
    let limited = setrlimit(Resource::RLIMIT_NPROC, threads, threads);
    limited.map_err(|error| format!("a limit of threads: {error}"))?;
    let id = 20_000 + std::process::id() % 40_000;
    let another = "to become another user, which root may";
    setgroups(&[]).map_err(|_| another)?;
    setgid(Gid::from_raw(id)).map_err(|_| another)?;
    setuid(Uid::from_raw(id)).map_err(|_| another.to_owned())
}

/// An empty file system over /proc, in a namespace of its own.
fn hide_proc() -> Result<(), String> {
    const NOTHING: Option<&str> = None;
    let missing = "a mount namespace of its own, which root may make";
    unshare(CloneFlags::CLONE_NEWNS).map_err(|_| missing)?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(NOTHING, "/", NOTHING, private, NOTHING).map_err(|_| missing)?;
    mount(Some("tmpfs"), "/proc", Some("tmpfs"), MsFlags::empty(), NOTHING)
        .map_err(|_| missing.to_owned())
}
