#![cfg_attr(not(doctest), doc = include_str!("guide/links"))]
#![doc = include_str!("../docs/README.md")]
//!
// The pages of the book are modules of the documentation, so that links between them, and into the
// interface, are checked, and so that their snippets run with `cargo test --doc`. Each page ends
// with the definitions of its links, which lead to files of the repository. Of two definitions of a
// link the first counts: `guide/links` stands before each page, and leads to modules. It does not
// for doctests, so that they name the lines of the page.

macro_rules! pages {
    ($($name:ident = $path:literal,)*) => {
        $(
            #[cfg_attr(not(doctest), doc = include_str!("guide/links"))]
            #[doc = include_str!(concat!("../", $path))]
            pub mod $name {}
        )*
    };
}

// Their snippets need the feature.
macro_rules! pages_of_tls {
    ($($name:ident = $path:literal,)*) => {
        $(
            #[cfg_attr(not(doctest), doc = include_str!("guide/links"))]
            #[cfg_attr(
                any(feature = "tls", not(doctest)),
                doc = include_str!(concat!("../", $path))
            )]
            pub mod $name {}
        )*
    };
}

// As with TLS.
macro_rules! pages_of_async {
    ($($name:ident = $path:literal,)*) => {
        $(
            #[cfg_attr(not(doctest), doc = include_str!("guide/links"))]
            #[cfg_attr(
                any(feature = "async", not(doctest)),
                doc = include_str!(concat!("../", $path))
            )]
            pub mod $name {}
        )*
    };
}

pages_of_async! {
    futures = "docs/futures.md",
}

pages_of_tls! {
    tls = "docs/tls.md",
}

pages! {
    getting_started = "docs/getting-started.md",
    model = "docs/model.md",
    callbacks = "docs/callbacks.md",
    compile_errors = "docs/compile-errors.md",
    reading_and_writing = "docs/reading-and-writing.md",
    order = "docs/order.md",
    framing = "docs/framing.md",
    backpressure = "docs/backpressure.md",
    broadcast = "docs/broadcast.md",
    datagrams = "docs/datagrams.md",
    timeouts_and_limits = "docs/timeouts-and-limits.md",
    limits = "docs/limits.md",
    blocking = "docs/blocking.md",
    hand_off = "docs/hand-off.md",
    waiting_for_two = "docs/waiting-for-two.md",
    clients = "docs/clients.md",
    shutdown_and_restart = "docs/shutdown-and-restart.md",
    operating = "docs/operating.md",
    behind_a_proxy = "docs/behind-a-proxy.md",
    coming_from = "docs/coming-from.md",
    from_tokio = "docs/from-tokio.md",
    promises = "docs/promises.md",
    reliability = "docs/reliability.md",
    buffer = "docs/buffer.md",
    codec = "docs/codec.md",
    examples = "examples/README.md",
}
