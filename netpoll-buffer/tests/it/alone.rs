//! A process of its own for tests that look at what the whole process holds.

use std::env;
use std::process::Command;

const INSIDE: &str = "NETPOLL_BUFFER_TEST_ALONE";

/// Runs `test`, which is the body of the test with this name, in a new process.
pub(crate) fn alone(name: &str, test: impl FnOnce()) {
    if env::var_os(INSIDE).is_some() {
        return test();
    }
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && printed.contains("1 passed"),
        "{printed}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    print!("{printed}");
}
