//! Where a panic of user code ends: callbacks, receipts, ticks, drops of what users captured.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::JoinHandle;

/// A callback panicked; it has been logged.
#[derive(Debug)]
pub struct Panicked;

/// Runs a callback so that a panic in it ends no more than its connection. The session may be torn
/// by the panic; after it only `on_disconnect` sees it.
///
/// # Errors
/// [`Panicked`], if it has; the log calls the callback `name`.
#[inline]
pub fn guard<R>(name: &str, callback: impl FnOnce() -> R) -> Result<R, Panicked> {
    guard_named(|| name, callback)
}

/// [`guard`], for a name that is only looked up for the log.
#[inline]
pub(crate) fn guard_named<'a, R>(
    name: impl FnOnce() -> &'a str,
    callback: impl FnOnce() -> R,
) -> Result<R, Panicked> {
    match catch_unwind(AssertUnwindSafe(callback)) {
        Ok(returned) => Ok(returned),
        Err(payload) => Err(panicked(name(), payload)),
    }
}

/// [`guard`], for a caller that passes the payload of the panic on.
pub(crate) fn guard_keeping<R>(
    name: &str,
    code: impl FnOnce() -> R,
) -> Result<R, Box<dyn Any + Send>> {
    let outcome = catch_unwind(AssertUnwindSafe(code));
    if let Err(payload) = &outcome {
        log::error!("{name} panicked: {}", describe(&**payload));
    }
    outcome
}

/// [`guard`] for code that runs under a lock: it logs nothing, and returns what the panic said.
pub(crate) fn guard_quietly<R>(callback: impl FnOnce() -> R) -> Result<R, String> {
    catch_unwind(AssertUnwindSafe(callback)).map_err(|payload| {
        let text = describe(&*payload).to_owned();
        discard(payload);
        text
    })
}

/// Drops what belongs to the user, one after the other: a panic of one ends here, and two of them
/// would end the process if all were dropped at once.
pub(crate) fn drop_each<T>(name: &str, all: impl IntoIterator<Item = T>) {
    for one in all {
        guard(name, || drop(one)).ok();
    }
}

/// Drops the payload of a panic. That runs user code: a panic in it ends here, and the payload of
/// that second panic is leaked, since its drop may panic again.
pub(crate) fn discard(payload: Box<dyn Any + Send>) {
    if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(second);
    }
}

/// Waits for a thread that is about to end. A panic that has ended it was logged before.
pub(crate) fn join<T>(thread: JoinHandle<T>) {
    if let Err(payload) = thread.join() {
        discard(payload);
    }
}

fn describe(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cold]
fn panicked(name: &str, payload: Box<dyn Any + Send>) -> Panicked {
    log::error!("{name} panicked: {}", describe(&*payload));
    discard(payload);
    Panicked
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Panics when it is dropped, with another of its kind.
    struct Malicious;

    impl Drop for Malicious {
        fn drop(&mut self) {
            std::panic::panic_any(Self);
        }
    }

    #[test]
    fn a_payload_whose_drop_panics_does_not_escape_the_guard() {
        let outcome = guard("a test", || std::panic::panic_any(Malicious));
        assert!(outcome.is_err());
        join(std::thread::spawn(|| std::panic::panic_any(Malicious)));
    }
}
