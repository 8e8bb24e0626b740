//! The rules. Each looks at one file, in the view it is about, and says what is wrong where, and
//! the remedy.
//!
//! Words in comments and in literals are not code, so this file can speak of what it forbids.

use std::path::Path;

use super::modules::{is_of_tests, without_tests};
use super::source::{Source, balanced, functions, paths_below, words};
use super::{
    EXAMPLE_LINES_MAX, FILE_LINES_MAX, FUNCTION_LINES_MAX, LONG_FILES, LONG_FUNCTIONS,
    SAFETY_LINES_MAX, SYS_FILES, SYSTEM_CALL_FILES, UNSAFE_FILES, WIDTH_MAX,
};

pub(crate) type Rule = fn(&Source) -> Faults;

/// What a rule finds in one file: lines, counted from 1, and what is wrong there.
pub(crate) type Faults = Vec<(usize, String)>;

pub(crate) const RUST_RULES: &[Rule] = &[
    width,
    file_length,
    example_length,
    function_length,
    first_line,
    leftovers,
    unsafe_reason,
    unsafe_place,
    lint_reason,
    sleeps,
    system_calls,
    seam,
    locks,
    clocks,
    threads,
];

pub(crate) const DOCUMENT_RULES: &[Rule] = &[one_title, hidden_lines, paths];

fn width(source: &Source) -> Faults {
    let lines = source.text.lines().enumerate();
    let wide = lines.filter(|(_, line)| line.chars().count() > WIDTH_MAX);
    let message = format!("wider than {WIDTH_MAX} columns; break the line");
    at(wide.map(|(index, _)| index + 1), &message)
}

fn file_length(source: &Source) -> Faults {
    let listed = LONG_FILES.iter().any(|&(path, _)| path == source.path);
    let max = if listed { usize::MAX } else { FILE_LINES_MAX };
    at_most(max, source, "split it by idea, or list it in LONG_FILES")
}

fn example_length(source: &Source) -> Faults {
    let listed = LONG_FILES.iter().any(|&(path, _)| path == source.path);
    let example = source.path.starts_with("examples/") && !listed;
    let max = if example { EXAMPLE_LINES_MAX } else { usize::MAX };
    at_most(max, source, "show the second idea in a second example")
}

fn at_most(max: usize, source: &Source, remedy: &str) -> Faults {
    let lines = source.text.lines().count();
    let message = format!("{lines} lines, more than {max}; {remedy}");
    at((lines > max).then_some(lines), &message)
}

fn function_length(source: &Source) -> Faults {
    let listed = |name| {
        let mut functions = LONG_FUNCTIONS.iter();
        functions.any(|&(path, function, _)| path == source.path && function == name)
    };
    let mut faults = Vec::new();
    for (name, range) in functions(&source.code) {
        let lines = source.code[range.clone()].lines().count();
        if lines > FUNCTION_LINES_MAX && !listed(name) {
            let message = format!("`{name}` has {lines} lines, more than {FUNCTION_LINES_MAX}");
            let remedy = "name its parts as functions, or list it in LONG_FUNCTIONS";
            faults.push((source.line(range.start), format!("{message}; {remedy}")));
        }
    }
    faults
}

fn first_line(source: &Source) -> Faults {
    // The documentation of the face, and of its guide, are documents.
    let first = source.text.lines().next().unwrap_or_default();
    let says = first.starts_with("//!") || first.contains("doc = include_str!(");
    let message = "the file does not say what it is for; begin it with a `//!` line";
    at((!says).then_some(1), message)
}

fn leftovers(source: &Source) -> Faults {
    let macros = ["todo!", "unimplemented!", "dbg!"].map(|word| (&source.code, word));
    let marks = ["FIXME", "XXX"].map(|word| (&source.comments, word));
    let left = macros.into_iter().chain(marks);
    left.flat_map(|(view, word)| {
        let message = format!("`{word}` was left behind; finish it, or write an issue");
        at(source.lines_with(view, word), &message)
    })
    .collect()
}

fn unsafe_reason(source: &Source) -> Faults {
    let comments: Vec<&str> = source.comments.lines().collect();
    let justifies = |line: &&str| line.contains("SAFETY:") || line.contains("# Safety");
    let bare = source.lines_with(&source.code, "unsafe").filter(|&line| {
        let above = &comments[line.saturating_sub(SAFETY_LINES_MAX + 1)..line];
        !above.iter().any(justifies)
    });
    let message = "`unsafe` without a reason; say in `// SAFETY:` who upholds what until when";
    at(bare, message)
}

fn unsafe_place(source: &Source) -> Faults {
    let listed = UNSAFE_FILES.iter().any(|&(path, _)| path == source.path);
    // The buffer crate may open further files; the attribute that does it gives the reason.
    let first_words: String = source.code.split_whitespace().take(2).collect();
    let opened = first_words.starts_with("#![expect(unsafe_code");
    let opened = opened && source.path.starts_with("netpoll-buffer/");
    let places = source.lines_with(&source.code, "unsafe");
    let outside = places.filter(|_| !listed && !opened);
    let message = "`unsafe` outside of its files; do it safely, or list the file in UNSAFE_FILES";
    at(outside, message)
}

fn lint_reason(source: &Source) -> Faults {
    let code = &source.code;
    let mut faults = Vec::new();
    for (start, opening) in code.match_indices("#[").chain(code.match_indices("#![")) {
        let bracket = start + opening.len() - 1;
        let attribute = balanced(&code[bracket..]);
        for lint in ["allow", "expect"] {
            let bare = words(attribute, lint).filter(|&place| {
                let list = balanced(&attribute[place + lint.len()..]);
                list.starts_with('(') && words(list, "reason").next().is_none()
            });
            let lines = bare.map(|place| source.line(bracket + place));
            let message = format!("`{lint}` without a reason; add `reason = \"...\"`");
            faults.extend(at(lines, &message));
        }
    }
    faults
}

fn sleeps(source: &Source) -> Faults {
    let comments: Vec<&str> = source.comments.lines().collect();
    let explains = |line: &&str| {
        let (_, reason) = line.split_once("// sleep:").unwrap_or_default();
        !reason.trim().is_empty()
    };
    let sleeps = source.lines_with(&source.code, "thread::sleep");
    // A reason that is too long for the line itself stands on the line above.
    let bare = sleeps.filter(|&line| !comments[line.max(2) - 2..line].iter().any(explains));
    let message = "wait for the event itself, not for time; or say why: `// sleep: <reason>`";
    at(bare, message)
}

fn system_calls(source: &Source) -> Faults {
    let may = |name| {
        let mut places = SYSTEM_CALL_FILES.iter();
        places.any(|&(place, crates, _)| crates.contains(&name) && source.stands_in(place))
    };
    let mut faults = Vec::new();
    for name in ["nix", "libc", "socket2"] {
        let paths = paths_below(&source.code, name).filter(|_| !may(name));
        let lines = paths.map(|path| source.line(path.start));
        let message = format!("`{name}::` outside of its files; call through crate::sys");
        faults.extend(at(lines, &message));
    }
    faults
}

fn seam(source: &Source) -> Faults {
    let in_core = source.path.starts_with("netpoll-core/src/");
    if !in_core || SYS_FILES.iter().any(|&(place, _)| source.stands_in(place)) {
        return Vec::new();
    }
    let paths = paths_below(&source.code, "crate").filter(|path| {
        let path = &source.code[path.clone()];
        let place = words(path, "sys").next();
        place == Some(0) || (place.is_some() && path.starts_with('{'))
    });
    let message = "`crate::sys` above the seam; go through `crate::io`";
    at(paths.map(|path| source.line(path.start)), message)
}

fn locks(source: &Source) -> Faults {
    const REPLACED: [&str; 6] = ["atomic", "Mutex", "MutexGuard", "Condvar", "RwLock", "Barrier"];
    let in_core = source.path.starts_with("netpoll-core/src/");
    if !in_core || source.path == "netpoll-core/src/base/sync.rs" {
        return Vec::new();
    }
    let mut faults = Vec::new();
    for std in paths_below(&source.code, "std").chain(paths_below(&source.code, "core")) {
        for sync in paths_below(&source.code[std.clone()], "sync") {
            let start = std.start + sync.start;
            let names = &source.code[start..std.start + sync.end];
            let found = REPLACED.iter().flat_map(|name| words(names, name));
            let lines = found.map(|place| source.line(start + place));
            let message = "loom cannot replace this; take it from `crate::sync`";
            faults.extend(at(lines, message));
        }
    }
    faults
}

fn one_title(source: &Source) -> Faults {
    let mut fenced = false;
    let mut titles = Vec::new();
    for (index, line) in source.text.lines().enumerate() {
        fenced ^= line.trim_start().starts_with("```");
        if !fenced && line.starts_with("# ") {
            titles.push(index + 1);
        }
    }
    let message = "one `# ` title per document; its sections begin with `## `";
    match titles.as_slice() {
        [] => at([1], message),
        [_, others @ ..] => at(others.iter().copied(), message),
    }
}

/// rustdoc hides lines of a snippet that begin with `# `; a host of repositories shows them.
fn hidden_lines(source: &Source) -> Faults {
    let mut snippet = false;
    let mut hidden = Vec::new();
    for (index, line) in source.text.lines().enumerate() {
        if let Some(language) = line.strip_prefix("```") {
            snippet = language.starts_with("rust");
        } else if snippet && (line == "#" || line.starts_with("# ")) {
            hidden.push(index + 1);
        }
    }
    at(hidden, "a line that only rustdoc hides; show it, or do without it")
}

/// The same fault at each of some lines.
fn at(lines: impl IntoIterator<Item = usize>, message: &str) -> Faults {
    let lines = lines.into_iter();
    lines.map(|line| (line, message.to_owned())).collect()
}

/// Each rule catches what it is for, and lets the remedy pass.
/// A path of the repository that a document names is there. The changelog names old ones.
fn paths(source: &Source) -> Faults {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    if source.path == "CHANGELOG.md" {
        return Vec::new();
    }
    let mut faults = Vec::new();
    for (index, line) in source.text.lines().enumerate() {
        for quoted in line.split('`').skip(1).step_by(2).filter(|it| is_path(it)) {
            for path in alternatives(quoted) {
                if !root.join(&path).exists() {
                    faults.push((index + 1, format!("there is no {path}; name what is there")));
                }
            }
        }
    }
    faults
}

/// Whether a quoted text is a path below the root of the repository.
fn is_path(quoted: &str) -> bool {
    let starts = ["netpoll-", "src/", "tests/", "docs/", "benches/", "examples/", "fuzz/", ".ci/"];
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./{,}".contains(c);
    starts.iter().any(|start| quoted.starts_with(start))
        && quoted.contains('/')
        && quoted.chars().all(is_plain)
}

/// `a/{b,c}.rs` is `a/b.rs` and `a/c.rs`.
fn alternatives(path: &str) -> Vec<String> {
    let Some((start, rest)) = path.split_once('{') else { return vec![path.to_owned()] };
    let (names, end) = rest.split_once('}').unwrap_or((rest, ""));
    names.split(',').map(|name| format!("{start}{name}{end}")).collect()
}

/// Time comes from one clock, so that a simulation can give it.
fn clocks(source: &Source) -> Faults {
    let is_ours = source.path.starts_with("netpoll-") && source.path.contains("/src/");
    if !is_ours || is_of_tests(&source.path) || source.path.ends_with("src/base/clock.rs") {
        return Vec::new();
    }
    let code = without_tests(&source.code);
    let asked = code.match_indices("Instant::now").chain(code.match_indices(".elapsed()"));
    asked
        .map(|(at, _)| (source.line(at), "asks the system for the time; call clock::now()".into()))
        .collect()
}

/// A thread starts in one way: it leaves addresses, and sheds the policy of a loop's thread.
fn threads(source: &Source) -> Faults {
    const STARTS: &str = "netpoll-core/src/threads/start.rs";
    let is_ours = source.path.starts_with("netpoll-") && source.path.contains("/src/");
    if !is_ours || is_of_tests(&source.path) || source.path == STARTS {
        return Vec::new();
    }
    let code = without_tests(&source.code);
    let started = code.match_indices("thread::Builder").map(|(start, _)| source.line(start));
    at(started, "starts a thread itself; call start_thread")
}

mod catches {
    use super::*;

    /// The lines at which `rule` complains about `text`, had it stood at `path`.
    fn lines(rule: Rule, path: &str, text: &str) -> Vec<usize> {
        let faults = rule(&Source::new(path, text));
        faults.into_iter().map(|(line, _)| line).collect()
    }

    /// A function of so many lines, below one line of something else.
    fn function_of(lines: usize) -> String {
        let body = "    x();\n".repeat(lines - 2);
        format!("const X: u8 = 0;\nfn long() {{\n{body}}}\n")
    }

    #[test]
    fn wide_lines() {
        let text = format!("{}\n{}\n", "é".repeat(100), "x".repeat(101));
        assert_eq!(lines(width, "a.rs", &text), [2]);
    }

    #[test]
    fn long_files_and_examples() {
        let of = |lines| "x\n".repeat(lines);
        assert_eq!(lines(file_length, "a.rs", &of(600)), []);
        assert_eq!(lines(file_length, "a.rs", &of(601)), [601]);
        assert_eq!(lines(example_length, "examples/a.rs", &of(120)), []);
        assert_eq!(lines(example_length, "examples/a.rs", &of(121)), [121]);
        assert_eq!(lines(example_length, "tests/a.rs", &of(121)), []);
    }

    #[test]
    fn long_functions() {
        assert_eq!(lines(function_length, "a.rs", &function_of(70)), []);
        assert_eq!(lines(function_length, "a.rs", &function_of(71)), [2]);
        let in_words = format!("trait T {{ fn f(x: [u8; 3]); }} /* {} */", function_of(71));
        assert_eq!(lines(function_length, "a.rs", &in_words), []);
    }

    #[test]
    fn files_without_a_purpose() {
        assert_eq!(lines(first_line, "a.rs", "//! What it is for.\n"), []);
        assert_eq!(lines(first_line, "a.rs", "use std::io;\n"), [1]);
    }

    #[test]
    fn unfinished_work() {
        let bad = "todo!();\nunimplemented!(\"x\");\ndbg!(x);\n// FIXME: x\n/* a\nXXX */";
        assert_eq!(lines(leftovers, "a.rs", bad), [1, 2, 3, 4, 6]);
        let good = "let todo = \"todo!(FIXME)\"; // XXXL\nmy_todo!();";
        assert_eq!(lines(leftovers, "a.rs", good), []);
    }

    #[test]
    fn unjustified_unsafe() {
        for bad in ["unsafe {}", "unsafe impl T for X {}", "unsafe fn f() {}"] {
            let below = |text: &str| lines(unsafe_reason, "a.rs", &format!("{text}{bad}"));
            assert_eq!(below(""), [1], "{bad}");
            assert_eq!(below("// SAFETY: f.\n"), [], "{bad}");
            assert_eq!(below("/// # Safety\n///\n/// f\n"), [], "{bad}");
            assert_eq!(below(&format!("// SAFETY: f.{}", "\n".repeat(12))), [], "{bad}");
            assert_eq!(below(&format!("// SAFETY: f.{}", "\n".repeat(13))), [14], "{bad}");
        }
        let good = "// unsafe {\n#![deny(unsafe_code)]";
        assert_eq!(lines(unsafe_reason, "a.rs", good), []);
    }

    #[test]
    fn calls_past_the_seam() {
        let text = "use crate::io;\nuse crate::sys::X;\nuse crate::{io, sys};\ncrate::system();";
        assert_eq!(lines(seam, "netpoll-core/src/connection/input.rs", text), [2, 3]);
        assert_eq!(lines(seam, "netpoll-core/src/io/stream.rs", text), []);
        assert_eq!(lines(seam, "netpoll-server/src/accept.rs", text), []);
    }

    #[test]
    fn unsafe_in_the_wrong_file() {
        let places = |path, text| lines(unsafe_place, path, text);
        let bad = "\nunsafe { x() }";
        assert_eq!(places("netpoll-core/src/pure/slab.rs", bad), [2]);
        assert_eq!(places("netpoll-core/src/pure/task.rs", bad), []);
        let opened = "//! Why.\n#![expect(\n    unsafe_code,\n    reason = \"x\"\n)]\nunsafe {}";
        assert_eq!(places("netpoll-buffer/src/pool.rs", opened), []);
        assert_eq!(places("netpoll-core/src/pure/slab.rs", opened), [6]);
    }

    #[test]
    fn lints_relaxed_without_a_reason() {
        let bad = "#[expect(x)]\n#[cfg_attr(loom, allow(x))]\n#![allow(dead_code)]";
        assert_eq!(lines(lint_reason, "a.rs", bad), [1, 2, 3]);
        let good = "#[expect(\n    x,\n    reason = \"y\"\n)]\nx.expect(\"a number\");";
        assert_eq!(lines(lint_reason, "a.rs", good), []);
    }

    #[test]
    fn sleeping_tests() {
        let bad = "std::thread::sleep(x);\nthread::sleep(x); // sleep:\n";
        assert_eq!(lines(sleeps, "tests/a.rs", bad), [1, 2]);
        let good = "thread::sleep(x); // sleep: a slow peer\n\n// sleep: y\nthread::sleep(x);";
        assert_eq!(lines(sleeps, "tests/a.rs", good), []);
    }

    #[test]
    fn system_calls_elsewhere() {
        let bad = "use nix::sys;\nuse std::os::unix::io;\nlibc::read();\nsocket2::Socket::new();";
        let calls = |path| lines(system_calls, path, bad);
        assert_eq!(calls("netpoll-core/src/reactor.rs"), [1, 3, 4]);
        assert_eq!(calls("netpoll-core/src/sys.rs"), []);
        assert_eq!(calls("netpoll-core/tests/it/main.rs"), []);
    }

    #[test]
    fn locks_that_loom_cannot_see() {
        let bad = "use std::sync::{Arc, Mutex};\n\
            use std::{\n    io,\n    sync::atomic::Ordering,\n};\n\
            let x: std::sync::Condvar;\n\
            core::sync::atomic::fence();";
        assert_eq!(lines(locks, "netpoll-core/src/pure/slab.rs", bad), [1, 4, 6, 7]);
        assert_eq!(lines(locks, "netpoll-core/src/base/sync.rs", bad), []);
        let good = "use crate::sync::Mutex;\nuse std::sync::{Arc, OnceLock};\nMutex::new(());";
        assert_eq!(lines(locks, "netpoll-core/src/pure/slab.rs", good), []);
    }

    #[test]
    fn documents_with_two_titles() {
        let good = "# Title\n\n```sh\n# a comment\n```\n\n## Section\n";
        assert_eq!(lines(one_title, "a.md", good), []);
        assert_eq!(lines(one_title, "a.md", &format!("{good}# Second\n")), [8]);
        assert_eq!(lines(one_title, "a.md", "## Section\n"), [1]);
    }

    #[test]
    fn lines_that_only_rustdoc_hides() {
        let good = "# Title\n\n```sh\n# a comment\n```\n\n```rust\n#[test]\n#![x]\n```\n# B\n";
        assert_eq!(lines(hidden_lines, "a.md", good), []);
        let bad = "```rust,no_run\n# fn main() {\nx();\n#\n# }\n```\n";
        assert_eq!(lines(hidden_lines, "a.md", bad), [2, 4, 5]);
    }

    #[test]
    fn times_from_elsewhere() {
        let bad = "f(Instant::now());\nit.elapsed();\n#[cfg(test)]\nmod tests { Instant::now(); }";
        assert_eq!(lines(clocks, "netpoll-core/src/reactor.rs", bad), [1, 2]);
        assert_eq!(lines(clocks, "netpoll-core/src/base/clock.rs", bad), []);
        assert_eq!(lines(clocks, "netpoll-core/src/pure/task_tests.rs", bad), []);
        assert_eq!(lines(clocks, "examples/echo.rs", bad), []);
    }

    #[test]
    fn threads_that_start_otherwise() {
        let bad = "f();\nthread::Builder::new();\n#[cfg(test)]\nmod t { thread::Builder::new(); }";
        assert_eq!(lines(threads, "netpoll-client/src/pool.rs", bad), [2]);
        assert_eq!(lines(threads, "netpoll-core/src/threads/start.rs", bad), []);
        assert_eq!(lines(threads, "tests/it/util.rs", bad), []);
    }

    #[test]
    fn paths_that_lead_nowhere() {
        let text =
            "`netpoll-core/src/{reactor,no_such}.rs`, `tests/tidy.rs`\n`docs/nowhere.md`\n`a/b`";
        assert_eq!(lines(paths, "docs/a.md", text), [1, 2]);
        assert_eq!(lines(paths, "CHANGELOG.md", text), []);
    }
}
