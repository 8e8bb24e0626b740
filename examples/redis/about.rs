//! Commands that are not about the data, and those that can't be carried out.

use netpoll::LinkBuffer;

use crate::answers::{array, bulk, simple};
use crate::resp::Command;
use crate::store::Store;
use crate::value::Fault;

/// Carries out a command that `commands::run` does not have, or not with so many arguments.
pub(crate) fn about(
    name: &[u8],
    command: &Command<'_>,
    store: &Store,
    out: &mut LinkBuffer,
) -> Result<(), Fault> {
    match (name, command.count()) {
        (b"PING", 1) => simple(out, "PONG"),
        (b"PING" | b"ECHO", 2) => bulk(out, command.argument(1)),
        (b"QUIT", _) => simple(out, "OK"),
        (b"INFO", _) => {
            let keys = store.count();
            let text = format!(
                "# Server\r\nredis_version:7.0.0\r\nredis_mode:standalone\r\n\
                 # Keyspace\r\ndb0:keys={keys}\r\n"
            );
            bulk(out, text.as_bytes());
        }
        // There is nothing to configure, and no documentation: clients ask for both as they start.
        (b"CONFIG", 3..) if command.argument(1).eq_ignore_ascii_case(b"GET") => array(out, 0),
        (b"CONFIG", 2..) => return Err("ERR only CONFIG GET is known"),
        (b"COMMAND", _) => array(out, 0),
        (
            b"GET" | b"MGET" | b"SET" | b"MSET" | b"INCR" | b"DECR" | b"EXISTS" | b"DEL"
            | b"EXPIRE" | b"TTL" | b"LPUSH" | b"RPUSH" | b"LLEN" | b"LRANGE" | b"PING" | b"ECHO"
            | b"CONFIG",
            _,
        ) => return Err("ERR wrong number of arguments"),
        _ => return Err("ERR unknown command"),
    }
    Ok(())
}
