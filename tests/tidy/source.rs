//! Reading Rust as far as the rules need it: which bytes are code, which are comments and which
//! are the insides of literals; where words, brackets, paths and functions begin and end.

use std::ops::Range;

/// One file in three views. A byte offset means the same place in each of them.
pub(crate) struct Source {
    pub(crate) path: String,
    pub(crate) text: String,
    /// The text with everything blanked that is a comment or the inside of a literal.
    pub(crate) code: String,
    /// The text with everything blanked that is not a comment.
    pub(crate) comments: String,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let (mut code, mut comments) = (String::new(), String::new());
        let mut rest = text;
        while !rest.is_empty() {
            let (lexeme, length) = lexeme(rest);
            let (token, tail) = rest.split_at(length);
            put(&mut code, token, lexeme == Lexeme::Code);
            put(&mut comments, token, lexeme == Lexeme::Comment);
            rest = tail;
        }
        Self { path: path.to_owned(), text: text.to_owned(), code, comments }
    }

    /// The line of a byte offset, counted from 1.
    pub(crate) fn line(&self, at: usize) -> usize {
        self.text[..at].matches('\n').count() + 1
    }

    /// The lines at which `word` stands in one of the views.
    pub(crate) fn lines_with(&self, view: &str, word: &str) -> impl Iterator<Item = usize> {
        words(view, word).map(|at| self.line(at))
    }

    /// Whether this file is `place`, or stands in a directory of that name of any package.
    pub(crate) fn stands_in(&self, place: &str) -> bool {
        if place.ends_with('/') {
            self.path.starts_with(place) || self.path.contains(&format!("/{place}"))
        } else {
            self.path == place
        }
    }
}

/// Appends a token to a view, or as much blank room as the token takes.
fn put(view: &mut String, token: &str, shown: bool) {
    if shown {
        view.push_str(token);
    } else {
        let blank = |byte| if byte == b'\n' { '\n' } else { ' ' };
        view.extend(token.bytes().map(blank));
    }
}

#[derive(PartialEq)]
enum Lexeme {
    Code,
    Comment,
    Literal,
}

/// The kind and length of what `rest` begins with. Identifiers are taken whole, so that the `r`
/// at the end of one never begins a raw string.
fn lexeme(rest: &str) -> (Lexeme, usize) {
    let until = |end: &str| rest.find(end).unwrap_or(rest.len());
    let identifier = rest.find(|c| !is_identifier(c)).unwrap_or(rest.len());
    if rest.starts_with("//") {
        (Lexeme::Comment, until("\n"))
    } else if rest.starts_with("/*") {
        (Lexeme::Comment, block_comment(rest))
    } else if let Some(length) = raw_string(rest) {
        (Lexeme::Literal, length)
    } else if rest.starts_with('"') {
        (Lexeme::Literal, string(rest))
    } else if let Some(length) = character(rest) {
        (Lexeme::Literal, length)
    } else if identifier > 0 {
        (Lexeme::Code, identifier)
    } else {
        (Lexeme::Code, rest.chars().next().map_or(0, char::len_utf8))
    }
}

fn block_comment(rest: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    loop {
        let tail = &rest.as_bytes()[at..];
        match tail {
            [] => return at,
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
}

/// `r"..."` and `r#"..."#`, also of bytes and C strings.
fn raw_string(rest: &str) -> Option<usize> {
    let unprefixed = rest.strip_prefix(['b', 'c']).unwrap_or(rest);
    let tail = unprefixed.strip_prefix('r')?;
    let content = tail.trim_start_matches('#').strip_prefix('"')?;
    let hashes = tail.len() - content.len() - 1;
    let end = format!("\"{}", "#".repeat(hashes));
    let tail = content.split_once(&end).map_or("", |(_, tail)| tail);
    Some(rest.len() - tail.len())
}

fn string(rest: &str) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            '"' if !escaped => return at + 1,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    rest.len()
}

/// `'x'` and `'\n'`, but not the lifetime in `'x`.
fn character(rest: &str) -> Option<usize> {
    let content = rest.strip_prefix('\'')?;
    let mut chars = content.char_indices();
    if chars.next()?.1 == '\\' {
        chars.next();
        return chars.find(|&(_, c)| c == '\'').map(|(at, _)| at + 2);
    }
    let quote = chars.next().filter(|&(_, c)| c == '\'');
    quote.map(|(at, _)| at + 2)
}

pub(crate) fn is_identifier(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The offsets of `word` in `view`, where it is not a part of a longer identifier.
pub(crate) fn words(view: &str, word: &str) -> impl Iterator<Item = usize> {
    let places = view.match_indices(word).map(|(at, _)| at);
    places.filter(move |&at| {
        let (before, after) = (&view[..at], &view[at + word.len()..]);
        !before.ends_with(is_identifier) && !after.starts_with(is_identifier)
    })
}

/// The bracketed text that `code` begins with, up to the bracket that closes it; empty if it
/// begins with none.
pub(crate) fn balanced(code: &str) -> &str {
    let mut depth = 0;
    for (at, c) in code.char_indices() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            _ => {}
        }
        if depth <= 0 {
            return &code[..at + usize::from(at > 0)];
        }
    }
    code
}

/// What follows `root::` at each place, as far as one path or one group of a `use` goes.
pub(crate) fn paths_below(code: &str, root: &str) -> impl Iterator<Item = Range<usize>> {
    words(code, root).filter_map(move |at| {
        let start = at + root.len() + "::".len();
        let tail = code[at + root.len()..].strip_prefix("::")?;
        let end = tail.find(|c| !is_identifier(c) && c != ':');
        let path = end.unwrap_or(tail.len());
        let group = balanced(&tail[path..]);
        // Only the group of a `use` goes on with the path; other brackets follow a name.
        let goes_on = path == 0 || tail[..path].ends_with("::");
        let length = path + if goes_on { group.len() } else { 0 };
        Some(start..start + length)
    })
}

/// Each function that has a body: its name, and where it stands.
pub(crate) fn functions(code: &str) -> impl Iterator<Item = (&str, Range<usize>)> {
    words(code, "fn").filter_map(|start| {
        let named = code[start + "fn".len()..].trim_start();
        let name = &named[..named.find(|c| !is_identifier(c))?];
        // What has no name is the type of a function pointer.
        if name.is_empty() {
            return None;
        }
        let length = body_end(&code[start..])?;
        Some((name, start..start + length))
    })
}

/// Where the body ends that follows a signature, if one does.
fn body_end(signature: &str) -> Option<usize> {
    let mut depth = 0;
    for (at, c) in signature.char_indices() {
        match c {
            '{' if depth == 0 => return Some(at + balanced(&signature[at..]).len()),
            ';' if depth == 0 => return None,
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// The views, on the tokens that are easily taken for something else.
#[test]
fn code_among_words() {
    let text = "a'x'b r#\"\"c\"#; r#d <'e> '\\'' \"\\\"f\" /* g /* h */ i */ br\"\\\" j // k";
    let source = Source::new("a.rs", text);
    let code: String = source.code.split_whitespace().collect();
    assert_eq!(code, "ab;r#d<'e>j");
    let comments: String = source.comments.split_whitespace().collect();
    assert_eq!(comments, "/*g/*h*/i*///k");
    assert_eq!(source.code.len(), text.len());
    assert_eq!(source.comments.len(), text.len());
}
