//! Plain words: how often comments and documents use words for persons, or archaic ones, where a
//! sentence should name a type, a thread or a socket. Each group of files has a cap.

use std::fs;
use std::path::Path;

use super::source::{Source, is_identifier};
use super::walk;

/// What is counted, phrases included, whatever the case of its letters.
const COUNTED: &[&str] = &[
    "who",
    "whom",
    "whoever",
    "whomever",
    "whose",
    "nobody",
    "somebody",
    "anybody",
    "everybody",
    "those who",
    "in vain",
    "for nothing",
    "be it",
    "hence",
    "thus",
    "thereby",
    "thereof",
    "therein",
    "whence",
    "lest",
    "upon",
];

/// The cap of a group without an exception, in 1 000 words. Users are persons, so it is not zero.
const GOAL: f64 = 0.2;

/// Groups that are above the goal still. A cap may be lowered, never raised.
const CAPS: &[(&str, f64)] = &[("netpoll-core/src", 0.45)];

/// The sources of each crate are a group; `src` is the face.
const SOURCES: &[&str] = &[
    "netpoll-buffer/src",
    "netpoll-client/src",
    "netpoll-codec/src",
    "netpoll-core/src",
    "netpoll-server/src",
    "netpoll-tls/src",
    "src",
];

/// The group of the documents, which are what stands below `docs/`, and these.
const DOCUMENTS: &str = "docs";
const OTHER_DOCUMENTS: &[&str] =
    &["ARCHITECTURE.md", "CONTRIBUTING.md", "README.md", "SECURITY.md", "examples/README.md"];

/// Pages of figures, which a program writes; their many words would hide what people write.
const GENERATED: &[&str] =
    &["docs/benchmarks.md", "docs/benchmarks/cells.md", "docs/benchmarks/method.md"];

#[test]
fn comments_and_documents_use_plain_words() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    walk(root, root, &mut files);
    let groups = SOURCES.iter().copied().chain([DOCUMENTS]);
    let faults: Vec<String> = groups
        .filter_map(|group| {
            let members = files.iter().filter(|path| group_of(path) == Some(group));
            let text = |path: &String| fs::read_to_string(root.join(path)).expect("UTF-8");
            let counts: Vec<_> = members.map(|path| count(path, &text(path))).collect();
            assert!(!counts.is_empty(), "the group {group} has no file");
            fault(group, cap(group), &counts)
        })
        .collect();
    assert!(faults.is_empty(), "not plain:\n\n{}\n", faults.join("\n"));
}

fn cap(group: &str) -> f64 {
    let mut caps = CAPS.iter().filter(|&&(name, _)| name == group);
    caps.next().map_or(GOAL, |&(_, cap)| cap)
}

fn group_of(path: &str) -> Option<&'static str> {
    if GENERATED.contains(&path) {
        return None;
    }
    let below = |directory: &str| path.strip_prefix(directory).is_some_and(is_rooted);
    match path.rsplit_once('.')?.1 {
        "rs" => SOURCES.iter().copied().find(|directory| below(directory)),
        "md" => (below(DOCUMENTS) || OTHER_DOCUMENTS.contains(&path)).then_some(DOCUMENTS),
        _ => None,
    }
}

fn is_rooted(rest: &str) -> bool {
    rest.starts_with('/')
}

/// The words of one file, and where counted ones stand.
struct Count {
    words: usize,
    found: Vec<String>,
}

/// Counts a document as a whole, and of a Rust file the comments.
fn count(path: &str, text: &str) -> Count {
    let is_rust = path.rsplit_once('.').is_some_and(|(_, extension)| extension == "rs");
    let prose = if is_rust { &Source::new(path, text).comments } else { text };
    let words: Vec<(usize, String)> = prose
        .lines()
        .enumerate()
        .flat_map(|(index, line)| words_of(line).map(move |word| (index + 1, word)))
        .collect();
    let mut found = Vec::new();
    let mut at = 0;
    while at < words.len() {
        let phrase = longest_at(&words[at..]);
        if let Some(phrase) = phrase {
            found.push(format!("{path}:{}: {phrase}", words[at].0));
        }
        at += phrase.map_or(1, |phrase| phrase.split(' ').count());
    }
    Count { words: words.len(), found }
}

/// What has a letter. A name of the code is one word, so `who_closes` is not `who`.
fn words_of(line: &str) -> impl Iterator<Item = String> {
    let words = line.split(|c| !is_identifier(c));
    let words = words.filter(|word| word.contains(char::is_alphabetic));
    words.map(str::to_lowercase)
}

/// The longest of what is counted that the words begin with, on one line or across lines.
fn longest_at(words: &[(usize, String)]) -> Option<&'static str> {
    let begins = |phrase: &&&str| {
        let mut words = words.iter();
        phrase.split(' ').all(|part| words.next().is_some_and(|(_, word)| word == part))
    };
    COUNTED.iter().filter(begins).max_by_key(|phrase| phrase.len()).copied()
}

/// What is wrong with a group, if it is above its cap.
fn fault(group: &str, cap: f64, counts: &[Count]) -> Option<String> {
    let words: usize = counts.iter().map(|count| count.words).sum();
    let found: Vec<&str> =
        counts.iter().flat_map(|count| &count.found).map(String::as_str).collect();
    let per_thousand = 1000.0 * as_float(found.len()) / as_float(words.max(1));
    if per_thousand <= cap {
        return None;
    }
    let remedy = "let the subject be a type, a thread, a peer or \"it\"";
    let rate = format!("{group}: {per_thousand:.2} in 1 000 words, more than {cap}; {remedy}");
    Some(format!("{rate}\n  {}", found.join("\n  ")))
}

fn as_float(count: usize) -> f64 {
    f64::from(u32::try_from(count).expect("fewer words than that"))
}

/// The count finds what it is for, and lets the rest pass.
mod catches {
    use super::*;

    #[test]
    fn words_in_comments_and_phrases_across_lines() {
        let text = "//! Nobody waits.\nlet who = \"whom\"; // It is tried in\n// vain: Whoever's.\n\
            fn who_waits() {} // `who_waits`, whole, upon_it";
        let count = count("a.rs", text);
        assert_eq!(count.found, ["a.rs:1: nobody", "a.rs:2: in vain", "a.rs:3: whoever"]);
        assert_eq!(count.words, 2 + 4 + 3 + 3);
    }

    #[test]
    fn words_of_documents_and_no_figures() {
        let count = count("a.md", "Those who wait | 1 000 | hence\n```text\nwho is ready?\n```");
        assert_eq!(count.found, ["a.md:1: those who", "a.md:1: hence", "a.md:3: who"]);
        assert_eq!(count.words, 4 + 1 + 3);
    }

    #[test]
    fn groups_above_their_cap() {
        let of = |words: usize, found: &[&str]| {
            vec![Count { words, found: found.iter().map(|&place| place.to_owned()).collect() }]
        };
        assert_eq!(fault("g", 2.0, &of(1000, &["a.rs:1: who", "a.rs:2: lest"])), None);
        let fault = fault("g", 2.0, &of(999, &["a.rs:1: who", "a.rs:2: lest"]));
        let fault = fault.expect("2.002 is above 2");
        assert!(fault.starts_with("g: 2.00 in 1 000 words, more than 2;"), "{fault}");
        assert!(fault.ends_with("\n  a.rs:1: who\n  a.rs:2: lest"), "{fault}");
    }

    #[test]
    fn files_of_each_group_and_no_others() {
        assert_eq!(group_of("netpoll-core/src/sys/raw.rs"), Some("netpoll-core/src"));
        assert_eq!(group_of("src/lib.rs"), Some("src"));
        assert_eq!(group_of("docs/decisions/0004-spin.md"), Some(DOCUMENTS));
        assert_eq!(group_of("README.md"), Some(DOCUMENTS));
        for other in ["netpoll-core/tests/it/main.rs", "srcs/a.rs", "docs/benchmarks.md", "a"] {
            assert_eq!(group_of(other), None, "{other}");
        }
    }
}
