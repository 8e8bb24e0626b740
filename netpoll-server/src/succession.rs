//! The new process's part of a hand-over: it takes the sockets, serves, says so, and waits for the
//! old process's last word.

use std::fmt;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use netpoll_core::{Error, Group, Preamble, Result, socket};

use crate::acceptor::Front;
use crate::doors::Doors;
use crate::handover::{GREETING, HandOverOptions, MANIFEST_MAX, REVOKED, SERVING, YOURS, said};
use crate::listener::{Listener, SocketFile};
use crate::manifest;
use crate::opening::Hold;

/// How long the old process may take to answer. It answers at once unless it was stopped.
const ANSWER_AT_MOST: Duration = Duration::from_secs(10);

/// Follows the old process with the listeners of one [`Listener::take_over`]. It is a success when
/// all of them are served, by one event loop or several.
pub(crate) struct Succession {
    /// To the old process.
    stream: UnixStream,
    state: Mutex<State>,
}

struct State {
    /// Listeners that are not served yet.
    missing: usize,
    /// "Serving" was said; the answer is the old process's.
    said: bool,
    participants: Vec<Participant>,
    /// The paths of listeners that are not wanted.
    declined: Vec<SocketFile>,
    answer: Option<Answer>,
}

/// An event loop that serves some of the listeners.
pub(crate) struct Participant {
    pub(crate) front: Arc<Front>,
    pub(crate) doors: Arc<Doors>,
    pub(crate) hold: Option<Arc<Hold>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// The old process leaves everything to us, or is gone.
    Yours,
    /// It goes on, and we must not.
    Revoked,
    /// It says nothing.
    None,
    /// We have said nothing: a listener was closed before all were served, or nothing can be said.
    GivenUp,
}

/// What a listener has that was taken over. Its drop before all are served ends the hand-over.
pub(crate) struct Share {
    succession: Arc<Succession>,
    declined: bool,
}

/// The old process's last word is awaited.
struct Waiting {
    group: Arc<Group>,
    succession: Arc<Succession>,
    answer: Option<Answer>,
}

impl Listener {
    /// [`take_over_with`](Self::take_over_with) default options.
    ///
    /// # Errors
    /// As `take_over_with`.
    pub fn take_over(from: UnixStream) -> Result<Vec<Self>> {
        Self::take_over_with(from, HandOverOptions::default())
    }

    /// Takes over the listening sockets that the server at the other end of `from` gives away with
    /// [`EventLoop::hand_over`](crate::EventLoop::hand_over), with their names, limits and options,
    /// but for what a closure does (`before_bind`).
    ///
    /// The other process serves until all of these listeners are served here, by one event loop or
    /// several, which then tell it. Where one of them is dropped before, the hand-over has failed,
    /// and the other process goes on; [`decline`](Self::decline) is for those that are not wanted.
    ///
    /// # Errors
    /// [`Error::Config`] for options that can't be used; `PermissionDenied` where the other process
    /// runs as a user that is not trusted; `InvalidData` where it does not speak this protocol;
    /// `TimedOut`; `UnexpectedEof` where it gives nothing; the system's, as where this process may
    /// not open so many descriptors.
    pub fn take_over_with(from: UnixStream, options: HandOverOptions) -> Result<Vec<Self>> {
        let deadline = options.begin(&from)?;
        let entries = ask(&from, deadline)?;
        let count = entries.iter().map(|it| it.sockets).sum();
        let mut sockets = socket::receive_descriptors(&from, count, deadline)
            .map_err(|it| said(&it, "cannot receive the sockets of a hand-over"))?
            .into_iter();
        let state = State {
            missing: entries.len(),
            said: false,
            participants: Vec::new(),
            declined: Vec::new(),
            answer: None,
        };
        let succession = Arc::new(Succession { stream: from, state: Mutex::new(state) });
        // All have their share before one can be dropped.
        let shares: Vec<_> = entries.iter().map(|_| Share::of(&succession)).collect();
        let listeners = entries.into_iter().zip(shares).map(|(entry, share)| {
            let sockets = sockets.by_ref().take(entry.sockets).map(Arc::new).collect();
            Self::handed(entry, sockets, share)
        });
        // Those that could not be made are dropped with the others.
        listeners.collect()
    }

    /// Closes a listener that was taken over and is not wanted, without a failure of the hand-over:
    /// the old process waits for the others only. Another listener is just closed.
    pub fn decline(mut self) {
        let file = self.take_file();
        if let Some(share) = self.take_share() {
            share.decline(file);
        }
    }
}

/// Asks the old process for its sockets; returns what it says of them.
fn ask(from: &UnixStream, deadline: Instant) -> Result<Vec<manifest::Entry>> {
    let invalid = |what| Error::Io(io::Error::new(ErrorKind::InvalidData, what));
    socket::send_within(from, GREETING, deadline)?;
    let mut head = [0; GREETING.len() + 4];
    socket::receive_within(from, &mut head, deadline)
        .map_err(|it| said(&it, "the old process gives no sockets"))?;
    let Some((greeting, length)) = head.split_last_chunk() else { return Err(invalid("no head")) };
    let length = u32::from_le_bytes(*length) as usize;
    if greeting != GREETING || length > MANIFEST_MAX {
        return Err(invalid("the peer is no predecessor of netpoll's"));
    }
    let mut bytes = vec![0; length];
    socket::receive_within(from, &mut bytes, deadline)?;
    match manifest::decode(&bytes) {
        Some(entries) if !entries.is_empty() => Ok(entries),
        _ => Err(invalid("the predecessor's manifest can't be understood")),
    }
}

impl Succession {
    /// `count` more of the listeners are served, by `participant`. With the last of them it tells
    /// the old process, and the participants hear the answer.
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
        let front = state.participants.last().map(|it| it.front.clone());
        state.said = front.is_some();
        drop(state);
        let Some(front) = front else { return self.settle(Answer::GivenUp) };
        let late = Instant::now() + ANSWER_AT_MOST;
        match socket::send_within(&self.stream, &[SERVING], late) {
            Ok(()) => {}
            // It is gone, or has said its last word before.
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe) => {}
            Err(error) => {
                log::warn!("cannot tell the old process that this one serves: {error}");
                return self.settle(Answer::GivenUp);
            }
        }
        let (group, succession) = (front.group.clone(), self.clone());
        front.main.await_preamble(Box::new(Waiting { group, succession, answer: None }), late);
    }

    /// All participants hear the answer, the first one that there is.
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
            // A copy of it may be open in another process. One that answers late finds it open.
            let _ = self.stream.shutdown(std::net::Shutdown::Both);
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
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Participant {
    fn hear(self, of: &Arc<Succession>, answer: Answer) {
        match answer {
            Answer::Yours => self.doors.own_paths(of),
            Answer::None => {}
            Answer::Revoked => self.front.fail(failed(
                ErrorKind::TimedOut,
                "the old process waited no longer for this one, and goes on serving",
            )),
            Answer::GivenUp => self.front.fail(failed(
                ErrorKind::ConnectionAborted,
                "a listener that was taken over was closed before all were served",
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

    fn decline(mut self, file: Option<SocketFile>) {
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
        // After "serving" was said it is the old process's to answer.
        if !self.declined && !self.succession.state().said {
            self.succession.settle(Answer::GivenUp);
        }
    }
}

impl Waiting {
    /// Looks whether the answer is there.
    fn look(&self) -> Option<Answer> {
        let mut answer = [0];
        match socket::receive_within(&self.succession.stream, &mut answer, Instant::now()) {
            Ok(()) if answer == [YOURS] => Some(Answer::Yours),
            Ok(()) if answer == [REVOKED] => Some(Answer::Revoked),
            Ok(()) => Some(Answer::None),
            Err(error) if error.kind() == ErrorKind::TimedOut => None,
            // It has ended without a word, and serves no more.
            Err(_) => Some(Answer::Yours),
        }
    }
}

impl Preamble for Waiting {
    fn stream(&self) -> BorrowedFd<'_> {
        self.succession.stream.as_fd()
    }

    fn is_of(&self, group: &Arc<Group>) -> bool {
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
