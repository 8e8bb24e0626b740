//! The plan of the crates: in netpoll-core imports point down from floor to floor, in no crate do
//! folders form a circle, and the circles of files that are left stand here with their reason.

use std::fs;
use std::path::Path;

use super::modules::Modules;
use super::walk;

/// The floors of netpoll-core, the lowest first. A module names its own floor and lower ones.
const FLOORS: &[(&str, &str)] = &[
    ("base", "what all stand on: no descriptor, no thread started"),
    ("pure", "state machines that are given the time"),
    ("sys", "every system call"),
    ("io", "the seam: driver, streams, waker"),
    ("connection", "a connection, its callbacks, the commands that it posts to a reactor"),
    ("tasks", "futures as tasks of a loop, and the handles that join them"),
    ("datagrams", "a datagram socket as a task, its batches and its outbox"),
    ("reactor", "a turn"),
    ("threads", "the threads that turn reactors and run callbacks"),
];

/// Modules of netpoll-core that stand beside the floors.
const BESIDE: &[(&str, &str)] = &[
    ("", "lib.rs: declares the floors, and passes on what users need"),
    ("bench", "what `benches/` measures of the floor `pure`"),
    ("driver_suite", "runs the same tests on every driver"),
];

const CRATES: &[&str] = &[
    "netpoll-buffer",
    "netpoll-codec",
    "netpoll-core",
    "netpoll-server",
    "netpoll-client",
    "netpoll-tls",
    "netpoll-async",
];

/// Circles of files that are left: the crate, the files, why.
const CIRCLES: &[(&str, &[&str], &str)] = &[
    (
        "netpoll-buffer",
        &["block", "chain", "pool"],
        "a block goes back to the pool with its last owner; the pool stores chains of blocks",
    ),
    (
        "netpoll-core",
        &[
            "connection",
            "connection::callbacks",
            "connection::callbacks::service",
            "connection::callbacks::table",
            "connection::extras",
            "connection::filtered",
            "connection::greeting",
            "connection::group",
            "connection::handle",
            "connection::handshake",
            "connection::incoming",
            "connection::input",
            "connection::job",
            "connection::mailbox",
            "connection::mailbox::tasks",
            "connection::owner",
            "connection::relay",
            "connection::relay::side",
            "connection::run",
            "connection::run::close",
            "connection::run::handshake",
            "connection::schedule",
            "connection::scheduled",
            "connection::scratch",
            "connection::shared",
            "connection::source",
            "connection::spawned",
        ],
        "the task of a connection holds what it runs, which holds the connection, or a side of a \
         relay, which holds the other one; commands and jobs carry it: to cut that takes a type \
         parameter through all, or a dynamic call",
    ),
    (
        "netpoll-core",
        &[
            "connection::broadcast",
            "connection::broadcast::log",
            "connection::broadcast::member",
            "connection::broadcast::pass",
        ],
        "a type and its methods, by topic; a member knows its group",
    ),
    (
        "netpoll-core",
        &[
            "datagrams::batch",
            "datagrams::callbacks",
            "datagrams::handle",
            "datagrams::run",
            "datagrams::task",
        ],
        "the task of a socket holds what it runs, which is called with a batch, which makes \
         handles of the task: as with connections",
    ),
    (
        "netpoll-core",
        &["reactor", "reactor::timers", "reactor::waiting"],
        "a type and its methods, by topic",
    ),
    (
        "netpoll-core",
        &["threads::workers", "threads::workers::growth"],
        "a type and its methods, by topic",
    ),
];

#[test]
fn imports_of_the_core_point_down() {
    let modules = read("netpoll-core");
    let complaints = against(&modules, FLOORS, BESIDE);
    assert!(complaints.is_empty(), "netpoll-core/src:\n{}\n", complaints.join("\n"));
}

#[test]
fn folders_form_no_circle() {
    for name in ["netpoll-core", "netpoll-server"] {
        let circles = read(name).folders().circles();
        assert!(circles.is_empty(), "{name}: these name each other: {circles:?}");
    }
}

#[test]
fn circles_of_files_are_those_that_have_a_reason() {
    for name in CRATES {
        let circles = read(name).circles();
        let found: Vec<Vec<&str>> =
            circles.iter().map(|circle| circle.iter().map(String::as_str).collect()).collect();
        let known: Vec<&[&str]> =
            CIRCLES.iter().filter(|it| it.0 == *name).map(|it| it.1).collect();
        for circle in &found {
            assert!(
                known.contains(&circle.as_slice()),
                "{name}: a new circle, open it: {circle:?}"
            );
        }
        for circle in known {
            assert!(found.iter().any(|it| it == circle), "{name}: open now, drop it: {circle:?}");
        }
    }
}

/// The modules of one of the crates of this repository.
fn read(name: &str) -> Modules {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(name).join("src");
    let mut paths = Vec::new();
    walk(&root, &root, &mut paths);
    let text = |path: &String| fs::read_to_string(root.join(path)).expect("a file of the crate");
    let texts: Vec<_> = paths.iter().map(text).collect();
    Modules::of(paths.iter().map(String::as_str).zip(texts.iter().map(String::as_str)))
}

/// What breaks the order of the floors.
fn against(modules: &Modules, floors: &[(&str, &str)], beside: &[(&str, &str)]) -> Vec<String> {
    let top = |module: &str| module.split("::").next().unwrap_or_default().to_owned();
    let floor = |module: &str| floors.iter().position(|it| it.0 == top(module));
    let is_beside = |module: &str| beside.iter().any(|it| it.0 == top(module));
    let faults = modules.edges().filter_map(|(from, to, line)| match (floor(from), floor(to)) {
        (Some(ours), Some(theirs)) if theirs > ours => {
            Some(format!("{from}, line {line}: names {to}, which stands above it"))
        }
        (Some(_), None) => Some(format!("{from}, line {line}: names {to:?}, beside the floors")),
        (None, _) if !is_beside(from) => Some(format!("{from}: stands on no floor")),
        _ => None,
    });
    faults.collect()
}

/// An upward path is found however it is written.
#[test]
fn upward_paths_are_found() {
    let floors = [("low", ""), ("high", "")];
    for code in [
        "use crate::high::X;",
        "use crate::{high::X};",
        "fn f() { crate::high::g() }",
        "use super::high::X;",
    ] {
        let files = [("low.rs", code), ("high.rs", "use crate::low::Y;")];
        let complaints = against(&Modules::of(files.into_iter()), &floors, &[]);
        assert_eq!(complaints.len(), 1, "{code}: {complaints:?}");
    }
    let lost = [("elsewhere.rs", "use crate::low::Y;"), ("low.rs", "use crate::Z;")];
    assert_eq!(against(&Modules::of(lost.into_iter()), &floors, &[]).len(), 2);
}
