//! Writing one JSON object.

use std::fmt::{Display, Write};

/// An object that is being written, in the order of the calls.
#[derive(Debug, Default)]
pub(crate) struct Object(String);

impl Object {
    /// A number with a fraction; `null` if there is none such.
    pub(crate) fn float(&mut self, key: &str, value: f64) -> &mut Self {
        if value.is_finite() { self.raw(key, format!("{value:.3}")) } else { self.raw(key, "null") }
    }

    pub(crate) fn text(&mut self, key: &str, value: &str) -> &mut Self {
        self.raw(key, quoted(value))
    }

    /// A value that is JSON as it is displayed.
    pub(crate) fn raw(&mut self, key: &str, value: impl Display) -> &mut Self {
        let comma = if self.0.is_empty() { "" } else { ", " };
        write!(self.0, "{comma}{}: {value}", quoted(key)).expect("a string takes everything");
        self
    }

    /// A value that there may not be.
    pub(crate) fn maybe(&mut self, key: &str, value: Option<impl Display>) -> &mut Self {
        match value {
            Some(value) => self.raw(key, value),
            None => self.raw(key, "null"),
        }
    }

    pub(crate) fn end(&self) -> String {
        format!("{{{}}}", self.0)
    }
}

/// A list of what is JSON already.
pub(crate) fn list(items: impl IntoIterator<Item = String>) -> String {
    format!("[{}]", items.into_iter().collect::<Vec<_>>().join(", "))
}

/// A string of JSON.
pub(crate) fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c < ' ' => {
                write!(quoted, "\\u{:04x}", u32::from(c)).expect("a string takes everything");
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_json() {
        let mut object = Object::default();
        object.raw("a", 1).float("b", 0.5).float("c", f64::NAN).maybe("d", None::<u8>);
        object.text("e", "\"\\\n").raw("f", list(["1".into(), quoted("x")]));
        let expected =
            r#"{"a": 1, "b": 0.500, "c": null, "d": null, "e": "\"\\\u000a", "f": [1, "x"]}"#;
        assert_eq!(object.end(), expected);
    }
}
