//! The style that matters, as a test: it reads every Rust file and every document of the
//! repository and names each place that breaks a rule, with the remedy.
//!
//! The limits and the exceptions stand here, each exception with its reason; the rules themselves
//! are in `tidy/rules.rs`, and what they know of Rust is in `tidy/source.rs`. `tidy/promises.rs`
//! holds the list of promises to the tests, `tidy/examples.rs` the table of examples to their
//! directory, `tidy/links.rs` links to what they lead to, and `tidy/words.rs` the prose to plain
//! words.

use std::fs;
use std::path::Path;

use rules::{DOCUMENT_RULES, RUST_RULES};
use source::Source;

#[path = "tidy/examples.rs"]
mod examples;
#[path = "tidy/floors.rs"]
mod floors;
#[path = "tidy/links.rs"]
mod links;
#[path = "tidy/modules.rs"]
mod modules;
#[path = "tidy/promises.rs"]
mod promises;
#[path = "tidy/rules.rs"]
mod rules;
#[path = "tidy/source.rs"]
mod source;
#[path = "tidy/words.rs"]
mod words;

/// Files in which `unsafe` may stand. Everywhere else the lint `unsafe_code` denies it as well.
/// ARCHITECTURE.md names those of the library; the others are tests and benches.
const UNSAFE_FILES: &[(&str, &str)] = &[
    ("benches/peers/src/bin/raw_udp_batch.rs", "what we are compared with fills in headers"),
    ("benches/peers/src/bin/raw_uring.rs", "what we are compared with hands buffers to the kernel"),
    ("netpoll-buffer/src/block.rs", "blocks are counted by hand, and filled before they are read"),
    ("netpoll-buffer/src/ledger.rs", "a word counts the handles of an account and what is on it"),
    ("netpoll-buffer/src/slab.rs", "maps the memory of blocks, and unmaps it"),
    ("netpoll-buffer/src/link_buffer/buf_mut.rs", "implements `BufMut`, an unsafe trait, safely"),
    ("netpoll-buffer/tests/it/steady.rs", "an allocator that counts is an unsafe trait"),
    ("netpoll-core/tests/datagrams_steady.rs", "an allocator that counts is an unsafe trait"),
    ("netpoll-core/src/pure/baton.rs", "the baton's word proves that one thread holds it"),
    ("netpoll-core/src/connection/socket.rs", "who holds a descriptor last closes it"),
    ("netpoll-core/src/pure/future_task.rs", "a future is pinned in the cell of its task"),
    ("netpoll-core/src/pure/task.rs", "the task's word proves that a connection has one owner"),
    ("netpoll-core/src/sys/raw.rs", "system calls that nix and socket2 do not offer"),
];

/// Where system calls may be made, and through which crates. Fault injection hangs on this being
/// one file. A path that ends in `/` is a directory, of the root or of any package.
const SYSTEM_CALL_FILES: &[(&str, &[&str], &str)] = &[
    ("netpoll-core/src/sys.rs", &["nix", "libc", "socket2"], "every system call"),
    ("netpoll-core/src/sys/", &["nix", "libc", "socket2"], "every system call"),
    ("netpoll-buffer/src/slab.rs", &["nix"], "the mapping of blocks, which have no descriptor"),
    ("examples/", &["nix", "libc", "socket2"], "signals, which the library leaves to its user"),
    ("benches/peers/src/bin/raw_udp_batch.rs", &["libc"], "batches, by hand"),
    ("benches/load/src/", &["nix"], "the load generator, which shares nothing with what it loads"),
    ("tests/", &["nix", "libc", "socket2"], "the other end of the socket, and its odd habits"),
];

/// Where the core may name `crate::sys`. All else goes through `io`, the seam.
const SYS_FILES: &[(&str, &str)] = &[
    ("netpoll-core/src/io.rs", "the seam"),
    ("netpoll-core/src/io/", "the seam"),
    ("netpoll-core/src/sys/", "itself"),
    ("netpoll-core/src/reactor/waiting.rs", "how long the loop's thread has had a processor"),
    ("netpoll-core/src/threads/", "numbers, times, sleep and timer slack of threads"),
    ("netpoll-core/src/datagrams/tests/errnos.rs", "plans what the kernel answers"),
    ("netpoll-core/src/driver_suite.rs", "urgent data, which only the peer of a test sends"),
];

/// Files that may be longer than `FILE_LINES_MAX`, or `EXAMPLE_LINES_MAX`, with the reason.
const LONG_FILES: &[(&str, &str)] =
    &[("examples/rpc_client.rs", "three ways to do the same, and the numbers of each")];

/// Functions that may be longer than `FUNCTION_LINES_MAX`: file, name, reason.
const LONG_FUNCTIONS: &[(&str, &str, &str)] = &[];

const WIDTH_MAX: usize = 100;
const FUNCTION_LINES_MAX: usize = 70;
const FILE_LINES_MAX: usize = 600;
const EXAMPLE_LINES_MAX: usize = 120;
/// How far above an `unsafe` its justification may stand: a doc comment fits in between.
const SAFETY_LINES_MAX: usize = 12;

/// Directories that are not ours to check: build output, and the fuzz crate with its corpus.
const SKIPPED_DIRECTORIES: &[&str] = &["target", "fuzz"];

#[test]
fn the_repository_is_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    walk(root, root, &mut files);
    let this = files.iter().any(|path| path == "tests/tidy.rs");
    assert!(this, "the walk missed this very file");

    let complaints: Vec<String> = files.iter().flat_map(|path| check(root, path)).collect();
    let list = complaints.join("\n");
    assert!(complaints.is_empty(), "not tidy:\n\n{list}\n");
}

/// Collects the files below `directory`, as paths relative to `root`, in a stable order.
fn walk(root: &Path, directory: &Path, files: &mut Vec<String>) {
    let entries = fs::read_dir(directory).expect("the repository can be read");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("a readable entry").path()).collect();
    paths.sort();
    for path in paths {
        let relative = path.strip_prefix(root).expect("the walk stays below the root");
        let relative = relative.to_str().expect("a UTF-8 path").to_owned();
        let name = relative.rsplit('/').next().unwrap_or_default();
        if name.starts_with('.') || SKIPPED_DIRECTORIES.contains(&name) {
            continue;
        }
        if path.is_dir() {
            walk(root, &path, files);
        } else {
            files.push(relative);
        }
    }
}

/// Checks one file by the rules of its kind: `file:line: what is wrong; the remedy`.
fn check(root: &Path, path: &str) -> Vec<String> {
    let rules = match path.rsplit_once('.') {
        Some((_, "rs")) => RUST_RULES,
        Some((_, "md")) => DOCUMENT_RULES,
        _ => return Vec::new(),
    };
    let text = fs::read_to_string(root.join(path)).expect("a file of the repository is UTF-8");
    let source = Source::new(path, &text);
    let faults = rules.iter().flat_map(|rule| rule(&source));
    faults.map(|(line, fault)| format!("{path}:{line}: {fault}")).collect()
}
