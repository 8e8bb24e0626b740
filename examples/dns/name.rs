//! Domain names: read with their compression, and compared without regard to case.

use std::fmt;

/// Bytes of a name, with the root's 0 at its end (RFC 1035, 2.3.4).
const NAME_MAX: usize = 255;
const LABEL_MAX: usize = 63;
/// Where the first name of a message begins: behind the header.
const FIRST: usize = 12;

/// Labels behind their lengths, in lower case, and the 0 of the root.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Name(Vec<u8>);

impl Name {
    /// Reads a name of `message` at `at`: the name, and where what is behind it begins.
    ///
    /// ```text
    ///   at ──► 3 w w w 0xC0 12 │ behind         a pointer leads to an earlier name,
    ///                    └──► 7 e x a m p l e 0 and each further back than the last one
    /// ```
    pub(crate) fn read(message: &[u8], at: usize) -> Option<(Self, usize)> {
        let (mut at, mut behind, mut bound) = (at, None, at);
        let mut labels = Vec::new();
        loop {
            match usize::from(*message.get(at)?) {
                0 => {
                    labels.push(0);
                    return Some((Self(labels), behind.unwrap_or(at + 1)));
                }
                length @ 1..=LABEL_MAX => {
                    let label = message.get(at..=at + length)?;
                    if labels.len() + label.len() >= NAME_MAX {
                        return None;
                    }
                    // A length is no letter.
                    labels.extend(label.iter().map(u8::to_ascii_lowercase));
                    at += label.len();
                }
                high @ 0xC0.. => {
                    let target = (high & 0x3F) << 8 | usize::from(*message.get(at + 1)?);
                    behind.get_or_insert(at + 2);
                    // So no names lead in a circle.
                    if !(FIRST..bound).contains(&target) {
                        return None;
                    }
                    (at, bound) = (target, target);
                }
                _ => return None,
            }
        }
    }

    /// Reads a name as people write it: `www.example.test.`, or `www` within an origin, or `@`,
    /// which is the origin.
    pub(crate) fn parse(text: &str, origin: Option<&Self>) -> Option<Self> {
        if text == "@" {
            return origin.cloned();
        }
        let (text, rest) = match (text.strip_suffix('.'), origin) {
            (Some(absolute), _) => (absolute, &[0][..]),
            (None, origin) => (text, origin.map_or(&[0][..], |origin| &origin.0)),
        };
        let mut labels = Vec::new();
        for label in text.split('.').filter(|_| !text.is_empty()) {
            let fits = (1..=LABEL_MAX).contains(&label.len()) && label.is_ascii();
            labels.push(fits.then_some(label.len() as u8)?);
            labels.extend(label.bytes().map(|byte| byte.to_ascii_lowercase()));
        }
        labels.extend_from_slice(rest);
        (labels.len() <= NAME_MAX).then_some(Self(labels))
    }

    /// As it is written in a message, without compression.
    pub(crate) fn wire(&self) -> &[u8] {
        &self.0
    }

    /// Whether it is `origin`, or below it.
    pub(crate) fn is_within(&self, origin: &Self) -> bool {
        let mut rest = &self.0[..];
        while rest.len() > origin.0.len() {
            rest = &rest[1 + usize::from(rest[0])..];
        }
        rest == origin.0
    }
}

impl fmt::Display for Name {
    /// With what is no visible character as `\DDD`, as zone files have it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = &self.0[..self.0.len() - 1];
        while let [length, more @ ..] = rest {
            let (label, behind) = more.split_at(usize::from(*length));
            for &byte in label {
                match byte {
                    b'.' | b'\\' => write!(f, "\\{}", char::from(byte))?,
                    b'!'..=b'~' => write!(f, "{}", char::from(byte))?,
                    _ => write!(f, "\\{byte:03}")?,
                }
            }
            f.write_str(".")?;
            rest = behind;
        }
        if self.0.len() == 1 { f.write_str(".") } else { Ok(()) }
    }
}
