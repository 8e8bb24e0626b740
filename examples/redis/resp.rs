//! Commands in RESP2, the protocol of Redis.

use std::ops::Range;

use crate::COMMAND_MAX;

const INVALID_COUNT: &str = "ERR Protocol error: invalid count";
const INVALID_LENGTH: &str = "ERR Protocol error: invalid length";

/// The longest line that announces a length, in bytes.
const LINE_MAX: usize = 32;
/// The most arguments of a command. Each takes 16 bytes while the others arrive.
const ARGUMENTS_MAX: usize = 64 << 10;
/// Room for so many arguments is kept for the next command.
const ARGUMENTS_KEPT: usize = 64;

/// Finds commands. It keeps how far it got in one that has not arrived as a whole, so that a
/// command that comes byte by byte costs no more.
#[derive(Default)]
pub(crate) struct Parser {
    /// Where each argument lies, from the start of the command.
    arguments: Vec<Range<usize>>,
    /// How many there will be, once that is known.
    count: Option<usize>,
    /// How many bytes were looked at.
    at: usize,
}

/// A command and its arguments, lent.
pub(crate) struct Command<'a> {
    input: &'a [u8],
    arguments: &'a [Range<usize>],
    length: usize,
}

impl<'a> Command<'a> {
    /// How many arguments there are, the name of the command among them.
    pub(crate) fn count(&self) -> usize {
        self.arguments.len()
    }

    pub(crate) fn argument(&self, index: usize) -> &'a [u8] {
        &self.input[self.arguments[index].clone()]
    }

    /// All arguments from this one on.
    pub(crate) fn arguments_from(&self, index: usize) -> impl Iterator<Item = &'a [u8]> + Clone {
        self.arguments[index..].iter().map(|span| &self.input[span.clone()])
    }

    /// How many bytes it takes.
    pub(crate) fn length(&self) -> usize {
        self.length
    }
}

impl Parser {
    /// The command at the start of `input`, if it is there as a whole. `input` begins where it did
    /// at the last call, until a command was found; then, behind that.
    pub(crate) fn parse<'a>(
        &'a mut self,
        input: &'a [u8],
    ) -> Result<Option<Command<'a>>, &'static str> {
        if self.count == Some(self.arguments.len()) {
            self.arguments.clear();
            self.arguments.shrink_to(ARGUMENTS_KEPT);
            (self.count, self.at) = (None, 0);
        }
        let count = match self.count {
            Some(count) => count,
            None => match line(input, b'*', ARGUMENTS_MAX).map_err(|()| INVALID_COUNT)? {
                Some((count, length)) => {
                    self.at = length;
                    *self.count.insert(count)
                }
                None => return Ok(None),
            },
        };
        while self.arguments.len() < count {
            let rest = &input[self.at..];
            let header = line(rest, b'$', COMMAND_MAX).map_err(|()| INVALID_LENGTH)?;
            let Some((size, start)) = header else { return Ok(None) };
            let Some(end) = rest.get(start + size..start + size + 2) else { return Ok(None) };
            if end != b"\r\n" {
                return Err("ERR Protocol error: an argument does not end where it should");
            }
            self.arguments.push(self.at + start..self.at + start + size);
            self.at += start + size + 2;
        }
        Ok(Some(Command { input, arguments: &self.arguments, length: self.at }))
    }
}

/// The number in a line such as `$5\r\n`, and the line's length; nothing if the line is incomplete.
fn line(input: &[u8], kind: u8, max: usize) -> Result<Option<(usize, usize)>, ()> {
    let line = &input[..input.len().min(LINE_MAX)];
    if line.first().is_some_and(|&first| first != kind) {
        return Err(());
    }
    let Some(end) = line.iter().position(|&byte| byte == b'\n') else {
        return if line.len() < LINE_MAX { Ok(None) } else { Err(()) };
    };
    let digits = line[1..end].strip_suffix(b"\r").ok_or(())?;
    // Digits alone, and none before the first that counts.
    if digits.is_empty() || (digits.len() > 1 && digits[0] == b'0') {
        return Err(());
    }
    let number = digits.iter().try_fold(0_usize, |number, byte| match byte {
        b'0'..=b'9' if number <= max => Some(number * 10 + usize::from(byte - b'0')),
        _ => None,
    });
    match number {
        Some(number) if number <= max => Ok(Some((number, end + 1))),
        _ => Err(()),
    }
}
