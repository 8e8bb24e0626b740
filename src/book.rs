//! The pages of the book, so that their snippets are compiled and run with those of the crate's
//! documentation.

macro_rules! pages {
    ($($name:ident = $path:literal,)*) => {
        $(#[doc = include_str!(concat!("../docs/", $path))] struct $name;)*
    };
}

pages! {
    GettingStarted = "getting-started.md",
    Model = "model.md",
    Callbacks = "callbacks.md",
    CompileErrors = "compile-errors.md",
    ReadingAndWriting = "reading-and-writing.md",
    Framing = "framing.md",
    Backpressure = "backpressure.md",
    TimeoutsAndLimits = "timeouts-and-limits.md",
    Blocking = "blocking.md",
    Clients = "clients.md",
    ShutdownAndRestart = "shutdown-and-restart.md",
    Operating = "operating.md",
    ComingFrom = "coming-from.md",
    Internals = "internals.md",
}
