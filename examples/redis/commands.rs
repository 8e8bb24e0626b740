//! The commands: what each does with the store, and how it answers.

use netpoll::LinkBuffer;

use crate::about::about;
use crate::answers::{array, bulks, count, error, integer, optional, simple};
use crate::resp::Command;
use crate::store::Store;
use crate::value::{End, Fault, List, Value, number};

/// What to do next.
#[derive(PartialEq)]
pub(crate) enum Next {
    /// Read the next command.
    Command,
    /// Wait for the rest of a command.
    Read,
    /// Nothing: the connection ends.
    Close,
}

/// The longest name of a command, in bytes.
const NAME_MAX: usize = 8;

/// Carries out one command, and writes its answer.
pub(crate) fn execute(command: &Command<'_>, store: &mut Store, out: &mut LinkBuffer) -> Next {
    if command.count() == 0 {
        return Next::Command;
    }
    let mut room = [0; NAME_MAX];
    let given = command.argument(0);
    let name = &mut room[..given.len().min(NAME_MAX)];
    name.copy_from_slice(&given[..name.len()]);
    name.make_ascii_uppercase();
    let name = if given.len() > NAME_MAX { b"" } else { &*name };
    if let Err(fault) = run(name, command, store, out) {
        error(out, fault);
    }
    if name == b"QUIT" { Next::Close } else { Next::Command }
}

fn run(
    name: &[u8],
    command: &Command<'_>,
    store: &mut Store,
    out: &mut LinkBuffer,
) -> Result<(), Fault> {
    if let b"SET" | b"MSET" | b"INCR" | b"DECR" | b"LPUSH" | b"RPUSH" = name {
        store.room_for(command.length())?;
    }
    let argument = |index| command.argument(index);
    let key = if command.count() > 1 { argument(1) } else { b"" };
    match (name, command.count()) {
        (b"GET", 2) => optional(out, store.get(key).map(Value::text).transpose()?),
        (b"MGET", 2..) => {
            let text = |key| store.get(key).and_then(|value| value.text().ok());
            bulks(out, command.arguments_from(1).map(text))?;
        }
        (b"SET", 3) => {
            store.set(key, argument(2));
            simple(out, "OK");
        }
        (b"SET", 5) if argument(3).eq_ignore_ascii_case(b"EX") => {
            store.set_for(key, argument(2), number(argument(4))?)?;
            simple(out, "OK");
        }
        (b"SET", 4..) => return Err("ERR syntax error"),
        (b"MSET", n @ 3..) if n % 2 == 1 => {
            (1..n).step_by(2).for_each(|at| store.set(argument(at), argument(at + 1)));
            simple(out, "OK");
        }
        (b"INCR" | b"DECR", 2) => {
            let amount = if name == b"INCR" { 1 } else { -1 };
            let zero = || Value::Text(b"0".to_vec());
            integer(out, store.change(key, zero, |value| value.add(amount))?);
        }
        (b"EXISTS", 2..) => {
            count(out, command.arguments_from(1).filter(|key| store.get(key).is_some()).count());
        }
        (b"DEL", 2..) => {
            count(out, command.arguments_from(1).filter(|key| store.remove(key)).count());
        }
        (b"EXPIRE", 3) => integer(out, store.expire(key, number(argument(2))?)?.into()),
        (b"TTL", 2) => integer(out, store.seconds_left(key)),
        (b"LPUSH" | b"RPUSH", 3..) => {
            let end = if name == b"LPUSH" { End::Left } else { End::Right };
            let empty = || Value::List(List::default());
            let push = |value: &mut Value| value.push(command.arguments_from(2), end);
            count(out, store.change(key, empty, push)?);
        }
        (b"LLEN", 2) => count(out, store.get(key).map_or(Ok(0), |value| Ok(value.list()?.len()))?),
        (b"LRANGE", 4) => {
            let (first, last) = (number(argument(2))?, number(argument(3))?);
            match store.get(key) {
                Some(value) => range(out, value.list()?, first, last)?,
                None => array(out, 0),
            }
        }
        _ => return about(name, command, store, out),
    }
    Ok(())
}

/// Items of a list, the last one included; negative places count from its end.
fn range(out: &mut LinkBuffer, list: &List, first: i64, last: i64) -> Result<(), Fault> {
    let from_end = |places: i64| list.len().saturating_sub(places.unsigned_abs() as usize);
    let start = usize::try_from(first).unwrap_or_else(|_| from_end(first));
    let end = usize::try_from(last).map_or_else(|_| from_end(last + 1), |last| last + 1);
    let end = end.min(list.len());
    let places = if start < end { start..end } else { 0..0 };
    bulks(out, list.range(places).map(Some))
}
