//! The modules of one crate, and which of them names which: what `use`, an inline path or a
//! re-export reaches. Code under `#[cfg(test)]` is not looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::source::{Source, balanced, is_identifier, paths_below, words};

/// A module's path below the crate's root, as its names; the root itself has none.
type Path = Vec<String>;

/// Each module, and those that it names, with the line.
#[derive(Default)]
pub(crate) struct Modules {
    edges: BTreeMap<String, BTreeMap<String, usize>>,
}

/// One file as the graph needs it.
struct File {
    module: Path,
    source: Source,
    /// Its code without its tests.
    code: String,
    /// Names that it passes on from elsewhere, and where each comes from.
    passed_on: BTreeMap<String, Path>,
}

impl Modules {
    /// Those of the files of one crate: paths below its `src/`, and what stands in them.
    pub(crate) fn of<'a>(files: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        let mut all: BTreeMap<String, File> = BTreeMap::new();
        for (path, text) in files.filter(|(path, _)| !is_of_tests(path)) {
            let module = module_of(path);
            let source = Source::new(path, text);
            let code = without_tests(&source.code).to_owned();
            all.insert(
                module.join("::"),
                File { module, source, code, passed_on: BTreeMap::new() },
            );
        }
        let names: BTreeSet<String> = all.keys().cloned().collect();
        for file in all.values_mut() {
            file.passed_on = passed_on(file, &names);
        }
        let mut modules = Self::default();
        for (name, file) in all.iter().filter(|(name, _)| !name.is_empty()) {
            for (at, path) in named(file, &names) {
                let target = resolve(&all, &path, 8);
                if target != *name {
                    let edges = modules.edges.entry(name.clone()).or_default();
                    edges.entry(target).or_insert(file.source.line(at));
                }
            }
        }
        modules
    }

    /// Each edge: which module names which, in which line.
    pub(crate) fn edges(&self) -> impl Iterator<Item = (&str, &str, usize)> {
        self.edges.iter().flat_map(|(from, edges)| {
            edges.iter().map(|(to, line)| (from.as_str(), to.as_str(), *line))
        })
    }

    /// The same of the folders and files right below the root: a folder is one module.
    pub(crate) fn folders(&self) -> Self {
        let top = |name: &str| name.split("::").next().unwrap_or_default().to_owned();
        let mut folders = Self::default();
        for (from, to, line) in self.edges() {
            if top(from) != top(to) && !to.is_empty() {
                folders.edges.entry(top(from)).or_default().insert(top(to), line);
            }
        }
        folders
    }

    /// The circles: sets of modules of which each reaches each other one.
    pub(crate) fn circles(&self) -> Vec<BTreeSet<String>> {
        let reached: BTreeMap<&String, BTreeSet<&String>> =
            self.edges.keys().map(|from| (from, self.reached_from(from))).collect();
        let mut circles: Vec<BTreeSet<String>> = Vec::new();
        for (&from, there) in &reached {
            let circle: BTreeSet<String> = there
                .iter()
                .filter(|to| reached.get(**to).is_some_and(|back| back.contains(from)))
                .map(|to| (*to).clone())
                .collect();
            if circle.len() > 1 && !circles.contains(&circle) {
                circles.push(circle);
            }
        }
        circles
    }

    fn reached_from<'a>(&'a self, from: &'a String) -> BTreeSet<&'a String> {
        let mut reached = BTreeSet::new();
        let mut next = vec![from];
        while let Some(module) = next.pop() {
            for to in self.edges.get(module).into_iter().flat_map(BTreeMap::keys) {
                if reached.insert(to) {
                    next.push(to);
                }
            }
        }
        reached
    }
}

pub(crate) fn is_of_tests(path: &str) -> bool {
    path.ends_with("_tests.rs") || path.ends_with("tests.rs") || path.contains("tests/")
}

fn module_of(path: &str) -> Path {
    let names = path.trim_end_matches(".rs").split('/').map(str::to_owned);
    let mut names: Path = names.collect();
    if names.last().is_some_and(|last| last == "lib" || last == "mod") {
        names.pop();
    }
    names
}

/// The code up to the module of its tests, which stands last.
pub(crate) fn without_tests(code: &str) -> &str {
    let tests = code.match_indices("#[cfg(").map(|(at, _)| at).find(|&at| {
        let (attribute, rest) = code[at..].split_once('\n').unwrap_or((&code[at..], ""));
        let is_of_tests = words(attribute, "test").next().is_some();
        is_of_tests && rest.trim_start().starts_with("mod ") && rest.contains('{')
    });
    tests.map_or(code, |at| &code[..at])
}

/// All paths that a file names, from the root of the crate, and where they stand. What it passes on
/// it does not use itself.
fn named(file: &File, names: &BTreeSet<String>) -> Vec<(usize, Path)> {
    let mut all = Vec::new();
    let code = &without_passed_on(&file.code);
    for root in ["crate", "super", "self"] {
        for range in paths_below(code, root) {
            let start = range.start - root.len() - "::".len();
            // The first of two `super` stands for both; what a macro names is its user's.
            let before = &code[..start];
            let is_inner = before.ends_with("super::") || before.ends_with('$');
            for path in expanded(&code[range.clone()]) {
                if !is_inner && let Some(path) = absolute(file, root, &path) {
                    all.push((range.start, path));
                }
            }
        }
    }
    // Children are named without a root.
    for child in names {
        let Some(name) = child_name(file, child) else { continue };
        for range in paths_below(code, name) {
            let start = range.start - name.len() - "::".len();
            if !code[..start].ends_with("::") {
                all.push((start, child.split("::").map(str::to_owned).collect()));
            }
        }
    }
    all
}

/// The name of a module right below a file's.
fn child_name<'a>(file: &File, module: &'a str) -> Option<&'a str> {
    let parent = file.module.join("::");
    let name = if parent.is_empty() {
        module
    } else {
        module.strip_prefix(&parent)?.strip_prefix("::")?
    };
    (!name.is_empty() && !name.contains("::")).then_some(name)
}

/// The trees of each `pub use`, and where they stand.
fn public_uses(code: &str) -> impl Iterator<Item = Range<usize>> {
    words(code, "use").filter_map(move |at| {
        let before = code[..at].trim_end();
        let start = at + "use".len();
        let length = code[start..].find(';')?;
        (before.ends_with("pub") || before.ends_with(')')).then_some(start..start + length)
    })
}

fn without_passed_on(code: &str) -> String {
    let mut rest = code.to_owned();
    for range in public_uses(code) {
        let blank = " ".repeat(range.len());
        rest.replace_range(range, &blank);
    }
    rest
}

/// Names that `pub use` passes on.
fn passed_on(file: &File, names: &BTreeSet<String>) -> BTreeMap<String, Path> {
    let mut all = BTreeMap::new();
    for range in public_uses(&file.code) {
        for path in expanded(file.code[range].trim()) {
            let Some((root, rest)) = path.split_first() else { continue };
            let whole = match root.as_str() {
                "crate" | "super" | "self" => absolute(file, root, rest),
                child => {
                    let mut whole = file.module.clone();
                    whole.push(child.to_owned());
                    let is_child = names.contains(&whole.join("::"));
                    whole.extend(rest.iter().cloned());
                    is_child.then_some(whole)
                }
            };
            if let (Some(whole), Some(name)) = (whole, path.last()) {
                all.insert(name.clone(), whole);
            }
        }
    }
    all
}

/// The paths of a `use` tree: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn expanded(tree: &str) -> Vec<Path> {
    let names = |path: &str| -> Path {
        let path = path.split(" as ").next().unwrap_or_default();
        let names = path.split("::").map(str::trim).filter(|name| !name.is_empty());
        names.map(str::to_owned).collect()
    };
    let Some(at) = tree.find('{') else { return vec![names(tree)] };
    let (start, group) = (names(&tree[..at]), balanced(&tree[at..]));
    let inside = group.trim_start_matches('{').strip_suffix('}').unwrap_or(group);
    let mut all = Vec::new();
    let (mut depth, mut from) = (0, 0);
    let ends = inside.char_indices().chain([(inside.len(), ',')]);
    for (place, c) in ends {
        depth += i32::from(c == '{') - i32::from(c == '}');
        if c == ',' && depth == 0 {
            let part = inside[from..place].trim();
            from = (place + 1).min(inside.len());
            for path in expanded(part).into_iter().filter(|_| !part.is_empty()) {
                all.push(start.iter().cloned().chain(path).collect());
            }
        }
    }
    all
}

fn absolute(file: &File, root: &str, rest: &[String]) -> Option<Path> {
    let mut path = file.module.clone();
    let mut rest = rest;
    match root {
        "crate" => path.clear(),
        "super" => {
            path.pop()?;
            while let Some((first, more)) = rest.split_first()
                && first == "super"
            {
                path.pop()?;
                rest = more;
            }
        }
        _ => {}
    }
    let rest = rest.iter().filter(|name| *name != "self" && name.starts_with(is_identifier));
    path.extend(rest.cloned());
    Some(path)
}

/// The module that a path reaches: names that a module passes on are followed to where they are.
fn resolve(all: &BTreeMap<String, File>, path: &[String], steps: usize) -> String {
    for length in (0..=path.len()).rev() {
        let module = path[..length].join("::");
        let Some(file) = all.get(&module) else { continue };
        let next = path.get(length).and_then(|name| file.passed_on.get(name));
        return match next {
            Some(next) if steps > 0 => resolve(all, next, steps - 1),
            _ => module,
        };
    }
    String::new()
}

#[cfg(test)]
mod catches {
    use super::*;

    fn modules(files: &[(&str, &str)]) -> Modules {
        Modules::of(files.iter().copied())
    }

    fn named_by<'a>(modules: &'a Modules, from: &str) -> Vec<&'a str> {
        modules.edges().filter(|edge| edge.0 == from).map(|edge| edge.1).collect()
    }

    #[test]
    fn paths_of_every_kind() {
        let all = [
            ("low.rs", "x"),
            ("low/a.rs", "x"),
            ("high.rs", "pub use b::B;\nmod b;"),
            ("high/b.rs", "x"),
        ];
        for (code, expected) in [
            ("use crate::high::b::B;", "high::b"),
            ("fn f() { crate::high::b::g() }", "high::b"),
            ("use crate::{high::{b::B}, low};", "high::b"),
            ("use super::super::high::b;", "high::b"),
            ("use crate::high::B;", "high::b"),
            ("use crate::high::Other;", "high"),
        ] {
            let files: Vec<_> = all.into_iter().chain([("low/c.rs", code)]).collect();
            let modules = modules(&files);
            assert!(named_by(&modules, "low::c").contains(&expected), "{code}");
        }
    }

    #[test]
    fn tests_and_comments_name_nothing() {
        let code =
            "// crate::high\n#[cfg(all(test, not(loom)))]\nmod tests { use crate::high::X; }";
        let modules = modules(&[("low.rs", code), ("high.rs", "")]);
        assert_eq!(named_by(&modules, "low"), Vec::<&str>::new());
    }

    #[test]
    fn circles_of_files_and_of_folders() {
        let modules = modules(&[
            ("a.rs", "use crate::b::c::X;"),
            ("b.rs", "mod c; mod d;"),
            ("b/c.rs", "use super::d::Y;"),
            ("b/d.rs", "use crate::a::Z;"),
            ("e.rs", "use crate::a::Z;"),
        ]);
        let circles = modules.circles();
        let names: Vec<_> = circles.iter().flatten().map(String::as_str).collect();
        assert_eq!(names, ["a", "b::c", "b::d"]);
        let folders = modules.folders().circles();
        let names: Vec<_> = folders.iter().flatten().map(String::as_str).collect();
        assert_eq!(names, ["a", "b"]);
    }
}
