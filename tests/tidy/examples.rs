//! The table of examples, held to the directory: each example has its row, and each row names the
//! port on which that example listens, or the server that it dials.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::walk;

const TABLE: &str = "examples/README.md";
/// Where those stand that have a workspace of their own.
const OF_FUTURES: &str = "futures/src/bin/";
/// What the column of ports says of an example that has none.
const NONE: &str = "none";

#[test]
fn the_table_of_examples_names_each_with_a_port_of_its_own() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| fs::read_to_string(root.join(path)).expect("a file of the repository");
    let mut files = Vec::new();
    walk(root, &root.join("examples"), &mut files);
    let programs = files.iter().filter_map(|path| Some((name_of(path)?, read(path))));
    let faults = faults(&read(TABLE), &programs.collect());
    assert!(faults.is_empty(), "{TABLE}:\n\n{}\n", faults.join("\n"));
}

/// The example of which a file is the first one.
fn name_of(path: &str) -> Option<String> {
    let name = path.strip_prefix("examples/")?.strip_suffix(".rs")?;
    let name = name.strip_prefix(OF_FUTURES).unwrap_or(name);
    let name = name.strip_suffix("/main").unwrap_or(name);
    (!name.contains('/')).then(|| name.to_owned())
}

/// What is wrong with the table, given the texts of the examples.
fn faults(table: &str, programs: &BTreeMap<String, String>) -> Vec<String> {
    let rows: Vec<Row> = table.lines().filter_map(Row::new).collect();
    let mut faults = Vec::new();
    for name in programs.keys() {
        if !rows.iter().any(|row| row.name == *name) {
            faults.push(format!("`{name}` has no row"));
        }
    }
    let mut taken = BTreeSet::new();
    for row in &rows {
        let Some(program) = programs.get(&row.name) else {
            faults.push(format!("there is no example `{}`", row.name));
            continue;
        };
        if row.port != NONE && row.server().is_none() && !taken.insert(row.port.clone()) {
            faults.push(format!("`{}` has the port {} of another one", row.name, row.port));
        }
        let server = row.server().and_then(|name| rows.iter().find(|it| it.name == name));
        let port = server.map_or(&row.port, |server| &server.port);
        let wanted: Vec<&str> = if port == NONE { vec![] } else { vec![port] };
        let found = ports(program);
        if found != wanted {
            faults.push(format!("`{}` has the port {port} here, and {found:?} in it", row.name));
        }
        if port != NONE && row.server().is_none() && !row.client.contains(port.as_str()) {
            faults.push(format!("the client of `{}` does not ask port {port}", row.name));
        }
    }
    faults
}

/// The first line of an example in the table.
struct Row {
    name: String,
    port: String,
    client: String,
}

impl Row {
    fn new(line: &str) -> Option<Self> {
        let line = line.replace("\\|", "or"); // a bar within a cell
        let cells: Vec<&str> = line.strip_prefix('|')?.split('|').map(str::trim).collect();
        let [name, port, _, client, ..] = cells[..] else { return None };
        let name = name.strip_prefix('`')?.strip_suffix('`')?;
        Some(Self { name: name.into(), port: port.into(), client: client.into() })
    }

    /// The example whose port this client dials.
    fn server(&self) -> Option<&str> {
        self.port.strip_prefix("of `")?.strip_suffix('`')
    }
}

/// The ports of 127.0.0.1 that an example names outside of its comments.
fn ports(program: &str) -> Vec<&str> {
    let code = program.lines().filter(|line| !line.trim_start().starts_with("//"));
    let named = code.flat_map(|line| line.split("\"127.0.0.1:").skip(1));
    named.filter_map(|rest| rest.split_once('"').map(|(port, _)| port)).collect()
}

/// The check finds what it is for, and lets the rest pass.
mod catches {
    use super::*;

    fn check(table: &str) -> usize {
        let programs = [
            ("a", "//! \"127.0.0.1:1\"\nx(\"127.0.0.1:7000\")"),
            ("b", "x(\"127.0.0.1:7000\")"),
            ("c", "x(\"/tmp/c\")"),
        ];
        let programs = programs.map(|(name, text)| (name.to_owned(), text.to_owned()));
        faults(table, &programs.into_iter().collect()).len()
    }

    #[test]
    fn rows_and_ports_that_are_wrong() {
        let c = "| `c` | none | x | y | z |";
        let a = "| `a` | 7000 | x | nc 7000 \\| xxd | z |\n| | | | again | z |";
        let b = "| `b` | of `a` | x | itself | z |";
        assert_eq!(check(&format!("{a}\n{b}\n{c}")), 0);
        assert_eq!(check(&format!("{a}\n{c}")), 1, "an example without a row");
        assert_eq!(check(&format!("{a}\n{b}\n{c}\n| `d` | none | | | |")), 1, "a row too many");
        assert_eq!(check(&format!("{a}\n| `b` | 7000 | x | nc 7000 | z |\n{c}")), 1, "twice");
        assert_eq!(check(&format!("{}\n{b}\n{c}", a.replace("| 7000", "| 7001"))), 3, "another");
        assert_eq!(check(&format!("{}\n{b}\n{c}", a.replace("nc 7000", "nc 1"))), 1, "client");
    }

    #[test]
    fn files_that_are_examples() {
        assert_eq!(name_of("examples/echo.rs").as_deref(), Some("echo"));
        assert_eq!(name_of("examples/http/main.rs").as_deref(), Some("http"));
        assert_eq!(name_of("examples/http/files.rs"), None);
        assert_eq!(name_of("examples/futures/src/bin/a.rs").as_deref(), Some("a"));
        assert_eq!(name_of("examples/futures/src/bin/b/main.rs").as_deref(), Some("b"));
        assert_eq!(name_of("examples/futures/src/bin/b/c.rs"), None);
        assert_eq!(name_of("examples/README.md"), None);
    }
}
