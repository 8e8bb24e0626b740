//! The list of promises, held to the tests: each promise names one, and each that is named exists.

use std::fs;
use std::path::Path;

use super::source::Source;
use super::walk;

const LIST: &str = "docs/promises.md";
/// The situations of netpoll's own behaviour, E-01 to this one, each of which has its row.
const SITUATIONS: usize = 63;

#[test]
fn every_promise_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let list = fs::read_to_string(root.join(LIST)).expect("the list of promises");
    let tests = tests_below(root);
    let faults = faults(&list, &tests);
    assert!(faults.is_empty(), "{LIST}:\n\n{}\n", faults.join("\n"));
}

/// What is wrong with the list.
fn faults(list: &str, tests: &[String]) -> Vec<String> {
    let mut faults = Vec::new();
    let (mut promises, mut situations) = (0, 0);
    for (at, line) in list.lines().enumerate() {
        let named: Vec<_> = named_tests(line).collect();
        for name in &named {
            if !tests.iter().any(|test| is_named_by(test, name)) {
                faults.push(format!("{}: there is no test `{name}`", at + 1));
            }
        }
        let Some(row) = line.strip_prefix("| ") else { continue };
        let label = row.split(" |").next().unwrap_or_default();
        if let Ok(number) = label.parse::<usize>() {
            promises += 1;
            if number != promises {
                faults.push(format!("{}: promise {promises} is numbered {number}", at + 1));
            }
            if named.is_empty() {
                faults.push(format!("{}: a promise without a test", at + 1));
            }
        }
        if let Some(number) = label.strip_prefix("E-") {
            situations += 1;
            if number != format!("{situations:02}") {
                faults.push(format!("{}: E-{situations:02} is missing", at + 1));
            }
        }
    }
    if promises == 0 || situations != SITUATIONS {
        faults.push(format!("{promises} promises and {situations} of {SITUATIONS} situations"));
    }
    faults
}

/// What stands in backticks and reads as `module::test`.
fn named_tests(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2).filter(|quoted| {
        let is_snake =
            |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == ':';
        quoted.contains("::") && quoted.chars().all(is_snake)
    })
}

/// `name` is the end of the path of `test`; modules within a file, such as `tests`, may be named
/// or not.
fn is_named_by(test: &str, name: &str) -> bool {
    let (test, name) = (test.replace("::tests::", "::"), name.replace("::tests::", "::"));
    test.strip_suffix(&*name).is_some_and(|before| before.is_empty() || before.ends_with("::"))
}

/// Each test of the repository, as `directory::file::test`.
fn tests_below(root: &Path) -> Vec<String> {
    let mut files = Vec::new();
    walk(root, root, &mut files);
    let text = |path: &str| fs::read_to_string(root.join(path)).expect("UTF-8");
    let rust = files.iter().filter(|path| matches!(path.rsplit_once('.'), Some((_, "rs"))));
    rust.flat_map(|path| tests_of(path, &text(path))).collect()
}

fn tests_of(path: &str, text: &str) -> Vec<String> {
    let source = Source::new(path, text);
    let module = path.trim_end_matches(".rs").replace('-', "_").replace('/', "::");
    let marked = source.code.split("#[test]").skip(1);
    let names = marked.filter_map(|after| {
        let (_, named) = after.split_once("fn ")?;
        named.split(|c: char| !c.is_alphanumeric() && c != '_').next()
    });
    names.map(|name| format!("{module}::{name}")).collect()
}

/// The check finds what it is for, and lets the rest pass.
mod catches {
    use super::*;

    #[test]
    fn promises_without_tests_and_tests_that_are_gone() {
        let text = "#[test]\n#[ignore = \"x\"]\nfn held() {}\nfn helper() {}\n\
            mod tests {\n    #[test]\n    fn inner() {}\n}";
        let tests = tests_of("netpoll-core/src/a.rs", text);
        assert_eq!(tests, ["netpoll_core::src::a::held", "netpoll_core::src::a::inner"]);
        let rows: Vec<_> = (1..=SITUATIONS).map(|at| format!("| E-{at:02} | x |")).collect();
        let rows = rows.join("\n");
        let list = |promise: &str| faults(&format!("| 1 | {promise} |\n{rows}"), &tests);
        assert!(list("it holds: `a::held`, `a::tests::inner`, `Error::Closed`").is_empty());
        assert_eq!(list("it holds: `a::gone`"), ["1: there is no test `a::gone`"]);
        assert_eq!(list("it holds: `a::eld`").len(), 1);
        assert_eq!(list("it holds: `a::helper`").len(), 1);
        assert_eq!(list("it holds"), ["1: a promise without a test"]);
        let misnumbered = faults(&format!("| 2 | `a::held` |\n{rows}"), &tests);
        assert_eq!(misnumbered, ["1: promise 1 is numbered 2"]);
        assert!(!faults("| 1 | `a::held` |\n| E-02 | x |\n", &tests).is_empty());
    }
}
