//! The new process's part of a hand-over: it takes the sockets, serves, says so, and waits for the
//! old process's last word.

use std::fmt;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use netpoll_core::{ConnectionGroup, Error, Preamble, Remote, Result, Stream, clock, socket};

use super::{HandOverOptions, MAGIC, MANIFEST_MAX, REVOKED, SERVING, YOURS, describe, manifest};
use crate::opening::Hold;
use crate::socket_file::SocketFile;
use crate::sync::lock;

/// How long the old process may take to answer. It answers at once unless it was stopped.
const ANSWER_AT_MOST: Duration = Duration::from_secs(10);

/// One `Listener::take_over`. It succeeds when all of its listeners are served, by one event loop
/// or several.
pub(crate) struct Succession {
    /// To the old process.
    stream: Stream,
    state: Mutex<State>,
}

struct State {
    /// Listeners that are not served yet.
    missing: usize,
    /// "Serving" was sent; what follows is decided by the old process's answer.
    sent_serving: bool,
    participants: Vec<Participant>,
    /// The paths of listeners that are not wanted.
    declined: Vec<SocketFile>,
    answer: Option<Answer>,
}

/// A listener or datagrams that the old process has given.
pub(crate) struct Handed {
    pub(crate) entry: manifest::Entry,
    pub(crate) sockets: Vec<OwnedFd>,
    pub(crate) share: Share,
}

/// An event loop that serves some of the listeners.
pub(crate) struct Participant {
    pub(crate) successor: Box<dyn Successor>,
    /// Keeps the event loop from serving before the old process has answered.
    pub(crate) hold: Option<Arc<Hold>>,
}

/// What an event loop does for a hand-over.
pub(crate) trait Successor: Send {
    fn group(&self) -> &Arc<ConnectionGroup>;

    /// The reactor that watches for the old process's answer.
    fn main(&self) -> &Arc<Remote>;

    /// From here on this process owns the paths of what came by this succession.
    fn own_paths(&self, of: &Arc<Succession>);

    /// From here on this process receives the datagrams that come to its sockets.
    fn receive(&self, of: &Arc<Succession>);

    /// Ends `serve` with this error.
    fn fail(&self, error: Error);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// The old process leaves everything to this one, or is gone.
    Yours,
    /// The old process goes on, and this one must not.
    Revoked,
    /// The old process says nothing.
    None,
    /// This process has not sent "serving": a listener was closed before all were served, or the
    /// send failed.
    GivenUp,
}

/// What a listener or datagrams that were taken over hold. Its drop before all are served ends the
/// hand-over.
pub(crate) struct Share {
    succession: Arc<Succession>,
    declined: bool,
}

/// Waits on a reactor for the old process's last word.
struct Waiting {
    group: Arc<ConnectionGroup>,
    succession: Arc<Succession>,
    answer: Option<Answer>,
}

impl Succession {
    /// Asks the process at the other end of `from` for its listeners, and receives them.
    pub(crate) fn begin(from: UnixStream, options: HandOverOptions) -> Result<Vec<Handed>> {
        let deadline = options.begin(&from)?;
        let entries = ask(&from, deadline)?;
        let count = entries.iter().map(|it| it.sockets).sum();
        let mut sockets = socket::receive_descriptors(&from, count, deadline)
            .map_err(|it| describe(&it, "cannot receive the sockets of a hand-over"))?
            .into_iter();
        let state = State {
            missing: entries.len(),
            sent_serving: false,
            participants: Vec::new(),
            declined: Vec::new(),
            answer: None,
        };
        let succession =
            Arc::new(Self { stream: OwnedFd::from(from).into(), state: Mutex::new(state) });
        let handed = entries.into_iter().map(|entry| {
            let sockets = sockets.by_ref().take(entry.sockets).collect();
            Handed { entry, sockets, share: Share::of(&succession) }
        });
        // All have their share before one of them can be dropped.
        Ok(handed.collect())
    }

    /// `count` more of the listeners are served, by `participant`. With the last of them this tells
    /// the old process; its answer goes to all participants.
    pub(crate) fn served(self: &Arc<Self>, count: usize, mut participant: Participant) {
        let mut state = self.state();
        if let Some(answer) = state.answer {
            drop(state);
            return participant.hear(self, answer);
        }
        state.missing = state.missing.saturating_sub(count);
        if state.missing > 0 {
            // The caller starts the other event loops when this one serves.
            drop(participant.hold.take());
        }
        state.participants.push(participant);
        self.go_on(state);
    }

    /// Tells the old process if all listeners are served.
    fn go_on(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        if state.missing > 0 || state.answer.is_some() {
            return;
        }
        let last = state.participants.last().map(|it| &it.successor);
        let last = last.map(|it| (it.group().clone(), it.main().clone()));
        state.sent_serving = last.is_some();
        drop(state);
        let Some((group, main)) = last else { return self.settle(Answer::GivenUp) };
        let late = clock::now() + ANSWER_AT_MOST;
        match socket::send_within(&self.stream, &[SERVING], late) {
            Ok(()) => {}
            // The old process is gone, or has sent its last word already.
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe) => {}
            Err(error) => {
                log::warn!("cannot tell the old process that this one serves: {error}");
                return self.settle(Answer::GivenUp);
            }
        }
        let waiting = Waiting { group, succession: self.clone(), answer: None };
        main.await_preamble(Box::new(waiting), late);
    }

    /// Passes the answer to all participants, unless there is one already.
    fn settle(self: &Arc<Self>, answer: Answer) {
        let mut state = self.state();
        if state.answer.is_some() {
            return;
        }
        state.answer = Some(answer);
        let participants = std::mem::take(&mut state.participants);
        let declined = std::mem::take(&mut state.declined);
        drop(state);
        if answer != Answer::None {
            // A copy of the stream may be open in another process. Without an answer it stays open,
            // for an old process that answers late.
            let _ = socket::shut_down(&self.stream);
        }
        match answer {
            Answer::Yours => log::info!("the old process leaves its sockets to this one"),
            Answer::Revoked | Answer::GivenUp => log::warn!("a hand-over failed: {answer:?}"),
            Answer::None => log::warn!("the old process does not answer; this one serves"),
        }
        for mut file in declined {
            // Its drop, which follows, removes it.
            if answer == Answer::Yours {
                file.own();
            }
            drop(file);
        }
        for participant in participants {
            participant.hear(self, answer);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// Asks the old process for its sockets; returns the entries that describe them.
fn ask(from: &UnixStream, deadline: Instant) -> Result<Vec<manifest::Entry>> {
    let invalid = |what| Error::Io(io::Error::new(ErrorKind::InvalidData, what));
    socket::send_within(from, MAGIC, deadline)?;
    let mut head = [0; MAGIC.len() + 4];
    socket::receive_within(from, &mut head, deadline)
        .map_err(|it| describe(&it, "the old process gives no sockets"))?;
    let Some((magic, length)) = head.split_last_chunk() else { return Err(invalid("no head")) };
    let length = u32::from_le_bytes(*length) as usize;
    if magic != MAGIC || length > MANIFEST_MAX {
        return Err(invalid("the peer is no predecessor of netpoll's"));
    }
    let mut bytes = vec![0; length];
    socket::receive_within(from, &mut bytes, deadline)?;
    match manifest::decode(&bytes) {
        Some(entries) if !entries.is_empty() => Ok(entries),
        _ => Err(invalid("the predecessor's manifest can't be understood")),
    }
}

impl Participant {
    fn hear(self, of: &Arc<Succession>, answer: Answer) {
        match answer {
            Answer::Yours => {
                self.successor.own_paths(of);
                self.successor.receive(of);
            }
            Answer::None => self.successor.receive(of),
            Answer::Revoked => self.successor.fail(failed(
                ErrorKind::TimedOut,
                "the old process waited no longer for this one, and goes on serving",
            )),
            Answer::GivenUp => self.successor.fail(failed(
                ErrorKind::ConnectionAborted,
                "a socket that was taken over was closed before all were served",
            )),
        }
    }
}

fn failed(kind: ErrorKind, what: &str) -> Error {
    Error::Io(io::Error::new(kind, what))
}

impl Share {
    fn of(succession: &Arc<Succession>) -> Self {
        Self { succession: succession.clone(), declined: false }
    }

    pub(crate) fn succession(&self) -> &Arc<Succession> {
        &self.succession
    }

    pub(crate) fn is_of(&self, succession: &Arc<Succession>) -> bool {
        Arc::ptr_eq(&self.succession, succession)
    }

    pub(crate) fn decline(mut self, file: Option<SocketFile>) {
        self.declined = true;
        let mut state = self.succession.state();
        state.declined.extend(file);
        state.missing = state.missing.saturating_sub(1);
        self.succession.go_on(state);
    }
}

impl fmt::Debug for Share {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let answer = self.succession.state().answer;
        out.debug_struct("Share").field("answer", &answer).finish_non_exhaustive()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        // After "serving" was sent, the old process's answer decides.
        if !self.declined && !self.succession.state().sent_serving {
            self.succession.settle(Answer::GivenUp);
        }
    }
}

impl Waiting {
    /// Looks whether the answer is there.
    fn look(&self) -> Option<Answer> {
        let mut answer = [0];
        match socket::receive_within(&self.succession.stream, &mut answer, clock::now()) {
            Ok(()) if answer == [YOURS] => Some(Answer::Yours),
            Ok(()) if answer == [REVOKED] => Some(Answer::Revoked),
            Ok(()) => Some(Answer::None),
            Err(error) if error.kind() == ErrorKind::TimedOut => None,
            // The old process has ended without a word, and serves no more.
            Err(_) => Some(Answer::Yours),
        }
    }
}

impl Preamble for Waiting {
    fn stream(&self) -> &Stream {
        &self.succession.stream
    }

    fn is_of(&self, group: &Arc<ConnectionGroup>) -> bool {
        Arc::ptr_eq(&self.group, group)
    }

    fn is_complete(&mut self) -> bool {
        self.answer = self.answer.or_else(|| self.look());
        self.answer.is_some()
    }

    fn end(mut self: Box<Self>) {
        // The drop settles it.
        self.is_complete();
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.succession.settle(self.answer.unwrap_or(Answer::None));
    }
}
