//! The attacks. Each file is one of them; this one is the list.

mod address_space;
mod blocked;
mod cycles;
mod descriptors;
mod floods;
mod gone;
mod half_requests;
mod handshakes;
mod memory;
mod non_readers;
mod resets;
mod restart;
mod signals;
mod slowloris;
mod stopped;
mod stuck;
mod threads;

use std::time::Duration;

use crate::report::{Outcome, Row};
use crate::run::Siege;

/// One attack in one mode.
pub(crate) struct Attack {
    pub(crate) name: &'static str,
    pub(crate) run: fn(&Siege, &mut Row) -> Outcome,
    /// Why it is known not to hold, as long as it does not.
    pub(crate) not_yet: Option<&'static str>,
}

/// Where callbacks run.
#[derive(Clone, Copy)]
pub(crate) enum Mode {
    HandOff,
    Inline,
    Pool,
}

impl Mode {
    /// As arguments of an example. Its default is the first mode.
    pub(crate) fn args(self) -> &'static [&'static str] {
        match self {
            Self::HandOff => &[],
            Self::Inline => &["--dispatch", "inline"],
            Self::Pool => &["--dispatch", "pool"],
        }
    }

    /// The arguments, and some more.
    pub(crate) fn with<'a>(self, more: &[&'a str]) -> Vec<&'a str> {
        [self.args(), more].concat()
    }
}

/// How often an ordinary client asks beside an attack.
pub(crate) const PERIOD: Duration = Duration::from_millis(25);
/// How many of them there are.
pub(crate) const PINGERS: usize = 100;

/// Attacks that are known not to hold, and why: their figures are printed, and no figure fails.
const NOT_YET: &[(&str, &str)] = &[];

/// All attacks, in the order in which they run.
pub(crate) fn all() -> Vec<Attack> {
    let run = |(name, run): &(&'static str, fn(&Siege, &mut Row) -> Outcome)| Attack {
        name,
        run: *run,
        not_yet: NOT_YET.iter().find(|(listed, _)| listed == name).map(|(_, why)| *why),
    };
    ATTACKS.iter().map(run).collect()
}

type Named = (&'static str, fn(&Siege, &mut Row) -> Outcome);

const ATTACKS: &[Named] = &[
    ("non-readers/hand-off", |it, row| non_readers::run(it, row, Mode::HandOff)),
    ("non-readers/inline", |it, row| non_readers::run(it, row, Mode::Inline)),
    ("non-readers/pool", |it, row| non_readers::run(it, row, Mode::Pool)),
    ("half-requests/hand-off", |it, row| half_requests::own(it, row, Mode::HandOff)),
    ("half-requests/inline", |it, row| half_requests::own(it, row, Mode::Inline)),
    ("half-requests/pool", |it, row| half_requests::own(it, row, Mode::Pool)),
    ("half-requests/socks5", half_requests::socks5),
    ("threads-at-start/hand-off", |it, row| threads::at_start(it, row, Mode::HandOff)),
    ("threads-at-start/inline", |it, row| threads::at_start(it, row, Mode::Inline)),
    ("threads-at-start/pool", |it, row| threads::at_start(it, row, Mode::Pool)),
    ("threads-refused/hand-off", |it, row| threads::refused(it, row, Mode::HandOff)),
    ("threads-refused/pool", |it, row| threads::refused(it, row, Mode::Pool)),
    ("threads-refused/socks5", threads::socks5),
    ("address-space/hand-off", |it, row| address_space::run(it, row, Mode::HandOff)),
    ("address-space/pool", |it, row| address_space::run(it, row, Mode::Pool)),
    ("blocked/with-proc", blocked::with_proc),
    ("blocked/no-proc", blocked::no_proc),
    ("blocked/no-descriptors", blocked::no_descriptors),
    ("no-descriptors/hand-off", |it, row| descriptors::run(it, row, Mode::HandOff)),
    ("no-descriptors/inline", |it, row| descriptors::run(it, row, Mode::Inline)),
    ("resets", resets::run),
    ("slowloris/hand-off", |it, row| slowloris::run(it, row, Mode::HandOff)),
    ("slowloris/inline", |it, row| slowloris::run(it, row, Mode::Inline)),
    ("slowloris/pool", |it, row| slowloris::run(it, row, Mode::Pool)),
    ("handshakes/hand-off", |it, row| handshakes::half_open(it, row, Mode::HandOff)),
    ("handshakes/inline", |it, row| handshakes::half_open(it, row, Mode::Inline)),
    ("handshakes/pool", |it, row| handshakes::half_open(it, row, Mode::Pool)),
    ("handshakes/no-proc", handshakes::no_proc),
    ("handshakes/no-threads", handshakes::no_threads),
    ("handshakes/no-descriptors", handshakes::no_descriptors),
    ("handshakes/address-space", handshakes::address_space),
    ("gone/half-proxy-header", gone::half_proxy_header),
    ("gone/tcp-proxy", gone::tcp_proxy),
    ("empty-frames/unread", floods::empty_frames_unread),
    ("empty-frames/read", floods::empty_frames_read),
    ("pull-loop/unread", floods::lines_unread),
    ("pull-loop/read", floods::lines_read),
    ("stuck/hand-off", |it, row| stuck::up_to(it, row, Mode::HandOff)),
    ("stuck/pool", |it, row| stuck::up_to(it, row, Mode::Pool)),
    ("stuck-beyond/hand-off", |it, row| stuck::beyond(it, row, Mode::HandOff)),
    ("stuck-beyond/pool", |it, row| stuck::beyond(it, row, Mode::Pool)),
    ("restart/few-descriptors", restart::few_descriptors),
    ("restart/one-errno", restart::one_errno),
    ("stopped/clients", stopped::clients),
    ("stopped/server", stopped::server),
    ("signals/stop-and-go", signals::stop_and_go),
    ("signals/eintr", signals::eintr),
    ("start-and-stop", cycles::run),
    ("memory-back/rounds", memory::rounds),
    ("memory-back/many", memory::many),
    ("memory-budget/hand-off", |it, row| memory::budget(it, row, Mode::HandOff)),
    ("memory-budget/inline", |it, row| memory::budget(it, row, Mode::Inline)),
    ("memory-budget/pool", |it, row| memory::budget(it, row, Mode::Pool)),
];
