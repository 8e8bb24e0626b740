//! Links of documents: each leads to a file of the repository, and to a heading of it. The pages of
//! the book lead to the same place in the crate's documentation.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

use super::walk;

/// The modules of the book, and where links of its pages lead in the crate's documentation.
const BOOK: &str = "src/guide.rs";
const IN_RUSTDOC: &str = "src/guide/links";
/// The first page of the crate's documentation, and that of the book.
const FRONTS: [&str; 2] = ["README.md", "docs/README.md"];
/// Where pages that are not in the book stand in it.
const ELSEWHERE: &str = "crate::guide#in-the-repository";

#[test]
fn links_of_documents_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    walk(root, root, &mut files);
    files.push("fuzz/README.md".into());
    let faults: Vec<String> = files
        .iter()
        .filter(|path| is_document(path))
        .flat_map(|path| {
            let page = Page::new(path, &read(root, path));
            let faults = page.dead(&|target, anchor| leads(root, target, anchor));
            faults.into_iter().map(move |fault| format!("{path}:{fault}"))
        })
        .collect();
    assert!(faults.is_empty(), "dead links:\n\n{}\n", faults.join("\n"));
}

#[test]
fn the_book_has_the_same_links_in_the_crates_documentation() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pages = pages_of(&read(root, BOOK));
    let in_rustdoc = Page::new(IN_RUSTDOC, &read(root, IN_RUSTDOC)).definitions;
    let mut faults = Vec::new();
    let mut used = BTreeSet::new();
    for path in pages.iter().map(String::as_str).chain(FRONTS) {
        let page = Page::new(path, &read(root, path));
        for (line, target) in &page.inline {
            if !target.starts_with('#') && !is_foreign(target) {
                faults.push(format!("{path}:{line}: write [text][{target}], and define it below"));
            }
        }
        for (line, label, target) in &page.definitions {
            let (file, anchor) = split(target);
            if name_of(&resolved(path, file), anchor) != *label {
                faults.push(format!("{path}:{line}: [{label}] leads to {target}"));
            }
            used.insert(label.clone());
        }
    }
    for (line, label, target) in &in_rustdoc {
        if *target != module_of(label, &pages) {
            faults.push(format!("{IN_RUSTDOC}:{line}: {label} is {}", module_of(label, &pages)));
        }
        if !used.contains(label) {
            faults.push(format!("{IN_RUSTDOC}:{line}: no page links to {label}"));
        }
    }
    let defined: BTreeSet<_> = in_rustdoc.into_iter().map(|(_, label, _)| label).collect();
    let missing = used.difference(&defined);
    faults.extend(missing.map(|it| format!("{IN_RUSTDOC}: [{it}]: {}", module_of(it, &pages))));
    assert!(faults.is_empty(), "links of the book:\n\n{}\n", faults.join("\n"));
}

#[test]
fn each_page_is_in_the_table_of_the_book() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = Page::new(FRONTS[1], &read(root, FRONTS[1]));
    let listed: BTreeSet<_> = table.definitions.into_iter().map(|(_, label, _)| label).collect();
    let mut files = Vec::new();
    walk(root, &root.join("docs"), &mut files);
    let top = files.iter().filter_map(|path| path.strip_prefix("docs/"));
    let missing: Vec<_> = top
        .filter(|name| is_document(name) && !name.contains('/') && *name != "README.md")
        .filter(|name| !listed.contains(*name))
        .collect();
    assert!(missing.is_empty(), "{} does not list {missing:?}", FRONTS[1]);
}

/// What a document links to; lines are counted from 1.
#[derive(Default)]
struct Page {
    path: String,
    /// `[text](target)`.
    inline: Vec<(usize, String)>,
    /// `[label]: target`.
    definitions: Vec<(usize, String, String)>,
    /// `[text][label]`.
    used: Vec<(usize, String)>,
    anchors: Vec<String>,
}

impl Page {
    fn new(path: &str, text: &str) -> Self {
        let mut page = Self { path: path.into(), ..Self::default() };
        let mut fenced = false;
        for (index, line) in text.lines().enumerate() {
            let is_fence = line.trim_start().starts_with("```");
            fenced ^= is_fence;
            if !fenced && !is_fence {
                page.line(index + 1, line);
            }
        }
        page
    }

    fn line(&mut self, number: usize, line: &str) {
        if line.starts_with('#') {
            let anchor = anchor(line.trim_start_matches('#').trim(), &self.anchors);
            return self.anchors.push(anchor);
        }
        let definition = line.strip_prefix('[').and_then(|rest| rest.split_once("]: "));
        if let Some((label, target)) = definition {
            return self.definitions.push((number, label.into(), target.trim().into()));
        }
        let line = without_code(line);
        let ended_by = |rest: &str, end| rest.split_once(end).map(|(inside, _)| inside.to_owned());
        for (at, _) in line.match_indices("](") {
            self.inline.extend(ended_by(&line[at + 2..], ')').map(|target| (number, target)));
        }
        for (at, _) in line.match_indices("][") {
            self.used.extend(ended_by(&line[at + 2..], ']').map(|label| (number, label)));
        }
    }

    /// What is wrong: `line: fault`. `leads` says whether a file has an anchor; the file itself has
    /// the empty one.
    fn dead(&self, leads: &dyn Fn(&Path, &str) -> bool) -> Vec<String> {
        let mut faults = Vec::new();
        let defined = self.definitions.iter().map(|(line, _, target)| (line, target));
        for (line, target) in self.inline.iter().map(|(line, to)| (line, to)).chain(defined) {
            let (file, anchor) = split(target);
            let is_here = file.is_empty() && self.anchors.iter().any(|it| it == anchor);
            if !is_here && !is_foreign(target) && !leads(&resolved(&self.path, file), anchor) {
                faults.push(format!("{line}: {target} leads nowhere"));
            }
        }
        for (line, label) in &self.used {
            if !self.definitions.iter().any(|(_, defined, _)| defined == label) {
                faults.push(format!("{line}: [{label}] is not defined"));
            }
        }
        for (line, label, _) in &self.definitions {
            if !self.used.iter().any(|(_, used)| used == label) {
                faults.push(format!("{line}: [{label}] is not used"));
            }
        }
        faults
    }
}

fn read(root: &Path, path: &str) -> String {
    fs::read_to_string(root.join(path)).expect("a file of the repository")
}

fn is_document(path: &str) -> bool {
    Path::new(path).extension().is_some_and(|it| it == "md")
}

/// A target on another host, which is not followed.
fn is_foreign(target: &str) -> bool {
    target.starts_with("https://") || target.starts_with("http://")
}

/// `file#anchor`, of which both may be empty.
fn split(target: &str) -> (&str, &str) {
    target.split_once('#').unwrap_or((target, ""))
}

/// A target as a path from the root: `..` is taken back, and nothing leads above the root.
fn resolved(of: &str, target: &str) -> PathBuf {
    let from = Path::new(of).parent().unwrap_or(Path::new(""));
    from.join(target).components().fold(PathBuf::new(), |mut path, component| {
        match component {
            Component::ParentDir if path.pop() => {}
            other => path.push(other),
        }
        path
    })
}

/// Whether a path is there, and a document has such a heading.
fn leads(root: &Path, target: &Path, anchor: &str) -> bool {
    if anchor.is_empty() {
        return root.join(target).exists();
    }
    let text = fs::read_to_string(root.join(target)).unwrap_or_default();
    Page::new("", &text).anchors.iter().any(|it| it == anchor)
}

/// The anchor of a heading, as rustdoc and most hosts of repositories make it; the second of the
/// same text ends in `-1`.
fn anchor(heading: &str, before: &[String]) -> String {
    let letters = heading.chars().filter_map(|letter| match letter {
        ' ' => Some('-'),
        letter if letter.is_alphanumeric() || "-_".contains(letter) => Some(letter),
        _ => None,
    });
    let plain: String = letters.flat_map(char::to_lowercase).collect();
    let numbered = (1..).map(|number| format!("{plain}-{number}"));
    let mut choices = [plain.clone()].into_iter().chain(numbered);
    choices.find(|choice| !before.contains(choice)).expect("there is no end of them")
}

fn without_code(line: &str) -> String {
    let parts = line.split('`').enumerate();
    parts.map(|(at, part)| if at % 2 == 0 { part } else { "code" }).collect()
}

/// The pages of the book: the literals of its list.
fn pages_of(list: &str) -> Vec<String> {
    let literals = list.lines().filter_map(|line| line.trim().split_once(" = \""));
    let pages = literals.filter_map(|(_, rest)| rest.strip_suffix("\","));
    pages.filter(|page| is_document(page)).map(str::to_owned).collect()
}

/// The label of what a link leads to: its path without `docs/`, and the anchor.
fn name_of(file: &Path, anchor: &str) -> String {
    let file = file.strip_prefix("docs").unwrap_or(file).display();
    if anchor.is_empty() { file.to_string() } else { format!("{file}#{anchor}") }
}

/// Where a label leads in the crate's documentation.
fn module_of(label: &str, pages: &[String]) -> String {
    let (file, anchor) = split(label);
    let module = match file {
        "README.md" => "crate::guide".to_owned(),
        "examples/README.md" => "crate::guide::examples".to_owned(),
        page if !pages.contains(&format!("docs/{page}")) => return ELSEWHERE.into(),
        page => format!("crate::guide::{}", page.trim_end_matches(".md").replace('-', "_")),
    };
    if anchor.is_empty() { module } else { format!("{module}#{anchor}") }
}

/// The checks find what they are for, and let the rest pass.
mod catches {
    use super::*;

    fn dead(text: &str) -> Vec<String> {
        let leads = |target: &Path, anchor: &str| {
            target == "docs/b.md" && ["", "here"].contains(&anchor) || target == "a.md"
        };
        Page::new("docs/a.md", text).dead(&leads)
    }

    #[test]
    fn links_that_lead_nowhere() {
        assert_eq!(dead("[x](b.md), [x](b.md#here), [x](../a.md), [x](https://x.y)"), [""; 0]);
        assert_eq!(dead("[x](c.md)\n[x](b.md#there)").len(), 2);
        assert_eq!(dead("[x](../../a.md)").len(), 1);
        assert_eq!(dead("`[x](c.md)`\n```\n[x](c.md)\n```"), [""; 0]);
        assert_eq!(dead("## Of `a_b`, and c\n\n[x](#of-a_b-and-c)"), [""; 0]);
        assert_eq!(dead("## A\n\n[x](#b)").len(), 1);
    }

    #[test]
    fn labels_without_a_definition_and_definitions_without_a_use() {
        assert_eq!(dead("[x][b.md]\n\n[b.md]: b.md"), [""; 0]);
        assert_eq!(dead("[x][b.md]").len(), 1);
        assert_eq!(dead("[b.md]: b.md").len(), 1);
        assert_eq!(dead("[x][b.md]\n\n[b.md]: c.md").len(), 1);
    }

    #[test]
    fn headings_of_one_text_have_numbers() {
        let page = Page::new("a.md", "# A\n## B\n## B\n```\n# no\n```");
        assert_eq!(page.anchors, ["a", "b", "b-1"]);
    }

    #[test]
    fn labels_that_are_modules() {
        let pages = pages_of("    hand_off = \"docs/hand-off.md\",\n    x = \"y\",");
        assert_eq!(pages, ["docs/hand-off.md"]);
        assert_eq!(module_of("hand-off.md#a", &pages), "crate::guide::hand_off#a");
        assert_eq!(module_of("internals.md", &pages), ELSEWHERE);
    }
}
