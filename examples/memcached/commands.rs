//! The commands: what a line asks for, and what is expected after it.

use netpoll::Writer;

use crate::cache::{Cache, Entry};
use crate::item::{ITEM_MAX, Item, TOO_LARGE, end, number};

/// What the client sends next.
pub(crate) enum Expected {
    Line,
    /// The value of an item, and a line's end.
    Block(Item),
    /// Nothing: the connection ends.
    End,
}

/// Carries out one line.
pub(crate) fn execute(line: &[u8], cache: &mut Cache, out: &mut Writer<'_>) -> Expected {
    let words = line.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
    let mut words: Vec<&[u8]> = words.collect();
    let always = matches!(words.first(), Some(&(b"version" | b"stats")));
    let is_quiet = !always && words.pop_if(|last| *last == b"noreply").is_some();
    let answer: &[u8] = match words[..] {
        [b"get" | b"gets", _, ..] => {
            words[1..].iter().for_each(|key| find(key, words[0] == b"gets", cache, out));
            b"END\r\n"
        }
        [b"set" | b"add" | b"replace" | b"append" | b"prepend" | b"cas", ..] => {
            match Item::announced(&words, is_quiet) {
                Some(item) if item.length <= ITEM_MAX => return Expected::Block(item),
                Some(_) => {
                    out.write_bytes(TOO_LARGE);
                    return Expected::End;
                }
                None => b"CLIENT_ERROR bad command line format\r\n",
            }
        }
        [b"incr" | b"decr", key, amount] => {
            let answer = count(key, number(amount), words[0] == b"incr", cache);
            return finish(answer.as_bytes(), is_quiet, out);
        }
        [b"touch", key, time] => match (cache.get(key), number(time)) {
            (Some(entry), Some(time)) => {
                entry.ends = end(time);
                b"TOUCHED\r\n"
            }
            _ => b"NOT_FOUND\r\n",
        },
        [b"delete", key] if cache.get(key).is_some() && cache.remove(key) => b"DELETED\r\n",
        [b"delete", _] => b"NOT_FOUND\r\n",
        [b"flush_all"] => {
            cache.clear();
            b"OK\r\n"
        }
        [b"stats"] => {
            out.write_string(&format!("STAT curr_items {}\r\n", cache.len()));
            b"END\r\n"
        }
        [b"verbosity", _] => b"OK\r\n",
        [b"version", ..] => b"VERSION netpoll\r\n",
        [b"quit"] => return Expected::End,
        _ => b"ERROR\r\n",
    };
    finish(answer, is_quiet, out)
}

/// Stores a value that was announced.
pub(crate) fn store(
    item: &Item,
    value: &[u8],
    cache: &mut Cache,
    out: &mut Writer<'_>,
) -> Expected {
    finish(item.store(value, cache), item.is_quiet, out)
}

fn finish(answer: &[u8], is_quiet: bool, out: &mut Writer<'_>) -> Expected {
    if !is_quiet {
        out.write_bytes(answer);
    }
    Expected::Line
}

fn find(key: &[u8], with_version: bool, cache: &mut Cache, out: &mut Writer<'_>) {
    let Some(entry) = cache.get(key) else { return };
    let version = if with_version { format!(" {}", entry.version) } else { String::new() };
    out.write_bytes(b"VALUE ");
    out.write_bytes(key);
    out.write_string(&format!(" {} {}{version}\r\n", entry.flags, entry.value.len()));
    out.write_shared(entry.value.clone());
    out.write_bytes(b"\r\n");
}

/// Adds to a number, or takes from it; the answer is the sum.
fn count(key: &[u8], amount: Option<u64>, up: bool, cache: &mut Cache) -> String {
    let Some(entry) = cache.get(key) else { return "NOT_FOUND\r\n".into() };
    let (Some(old), Some(amount)) = (number(&entry.value), amount) else {
        return "CLIENT_ERROR cannot increment or decrement non-numeric value\r\n".into();
    };
    let sum = if up { old.wrapping_add(amount) } else { old.saturating_sub(amount) };
    let entry = Entry { value: sum.to_string().into(), ..entry.clone() };
    cache.put(key, entry);
    format!("{sum}\r\n")
}
