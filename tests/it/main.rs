//! The promises of netpoll, tested from outside: real sockets, and clients that are not ours.
//!
//! Each module is one topic. `util` is the language they share. Tests that count descriptors or
//! threads, or measure a process, run in a process of their own: see [`util::alone`].

mod accepting;
mod ages;
mod announcing;
mod batches;
mod blocking;
mod broken;
mod checkout_then;
mod client;
mod crowd;
mod dial;
mod dial_then;
mod dialler;
mod doors;
mod echo;
mod embedded;
mod errors;
mod exhaustion;
mod fairness;
mod filters;
mod frames;
mod gathering;
mod groups;
mod halves;
mod hand_off;
mod hand_over;
mod handles;
mod late_answers;
mod lifecycle;
mod listeners;
mod loggers;
mod manager;
mod memory;
mod mixing;
mod mux;
mod mux_links;
mod options;
mod pace;
mod peers;
mod pool;
mod promises;
mod proxy_protocol;
mod regressions;
mod relay;
mod replies;
mod replies_ending;
mod shutdown;
mod spinning;
mod systemd;
mod threads;
mod toy;
mod util;
mod waiting;
