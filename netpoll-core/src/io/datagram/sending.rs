//! Sends of messages, each of several datagrams of one size to one peer, and what becomes of those
//! that the kernel refuses.

use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use crate::base::address::Address;
use crate::base::sync::{AtomicUsize, Ordering};
use crate::sys::ancillary::ToSend;
use crate::sys::datagram::{self, LONGEST, MOST_MESSAGES, MOST_SEGMENTS, Name, Outgoing, Refusal};
use crate::sys::datagram_features::Granted;

/// How datagrams may be joined for a send, as far as is known.
#[derive(Debug)]
pub(crate) struct Segments {
    /// The longest segment; 0 where none may be joined.
    longest: AtomicUsize,
    most: AtomicUsize,
    /// How often a segment was too long since that is known.
    skipped: AtomicUsize,
}

/// Datagrams of one size to one peer, one behind the other; the last may be shorter.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message<'a> {
    /// `None`: the peer that the socket is connected to.
    pub(crate) peer: Option<&'a Address>,
    /// The address that they are to come from.
    pub(crate) source: Option<IpAddr>,
    pub(crate) payload: &'a [u8],
    /// The size of all but the last; that of the payload where there is one datagram.
    pub(crate) size: usize,
}

impl Message<'_> {
    /// How many datagrams it is.
    pub(crate) fn count(&self) -> usize {
        self.payload.len().div_ceil(self.size.max(1)).max(1)
    }

    /// The message without its first `bytes`.
    pub(crate) fn behind(self, bytes: usize) -> Self {
        Self { payload: &self.payload[bytes..], ..self }
    }
}

impl Sent {
    /// Adds what became of the messages behind these.
    pub(crate) fn take(&mut self, next: Self) {
        let part = if next.done > 0 { 0 } else { self.part };
        self.done += next.done;
        self.part = part + next.part;
        self.datagrams += next.datagrams;
        self.bytes += next.bytes;
        self.refused += next.refused;
        self.error = next.error.or(self.error.take());
        self.full = next.full;
    }
}

/// What became of messages.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    /// How many messages are done with: sent, or given up.
    pub(crate) done: usize,
    /// How many bytes of the next message are.
    pub(crate) part: usize,
    /// How many datagrams were sent, and their bytes.
    pub(crate) datagrams: usize,
    pub(crate) bytes: usize,
    /// How many could not be sent, and the last error.
    pub(crate) refused: usize,
    pub(crate) error: Option<io::Error>,
    /// The socket takes no more for now.
    pub(crate) full: bool,
}

/// The names and ancillary data of one send: on a thread for long, since to make them is dear.
pub(crate) struct Envelopes {
    names: [Name; MOST_MESSAGES],
    controls: [ToSend; MOST_MESSAGES],
}

impl Default for Envelopes {
    fn default() -> Self {
        Self { names: [Name::NONE; MOST_MESSAGES], controls: [ToSend::NOTHING; MOST_MESSAGES] }
    }
}

/// A socket, as it is sent to.
pub(super) struct Outlet<'a> {
    pub(super) fd: BorrowedFd<'a>,
    pub(super) granted: Granted,
    pub(super) segments: &'a Segments,
}

/// The name of a peer that a send needs.
pub(super) fn name_of(peer: Option<&Address>, granted: Granted) -> io::Result<Name> {
    match peer {
        Some(peer) if !granted.is_connected => Name::of(peer),
        _ => Ok(Name::NONE),
    }
}

impl Outlet<'_> {
    /// Sends `count` messages, until the socket takes no more.
    pub(super) fn send<'a>(
        &self,
        envelopes: &mut Envelopes,
        count: usize,
        message: impl Fn(usize) -> Message<'a>,
    ) -> Sent {
        let mut sent = Sent::default();
        let mut trial = Trial::default();
        while sent.done < count && !sent.full {
            let first = message(sent.done).behind(sent.part);
            let one_by_one = trial.one_by_one || !self.segments.take(&first);
            let outcome = if one_by_one {
                // One by one, so that what was sent is known.
                let end = first.size.clamp(1, first.payload.len().max(1)).min(first.payload.len());
                let single = Message { payload: &first.payload[..end], ..first };
                self.send_some(envelopes, 1, |_| single)
            } else {
                let most = (count - sent.done).min(MOST_MESSAGES);
                self.send_some(envelopes, most, |at| {
                    if at == 0 { first } else { message(sent.done + at) }
                })
            };
            match outcome {
                Ok(messages) => self.went(&mut sent, &mut trial, messages, one_by_one, &message),
                Err(error) => self.refused(&mut sent, &mut trial, error, &first, one_by_one),
            }
        }
        sent
    }

    /// Notes that so many messages went, or one datagram of a message.
    fn went<'a>(
        &self,
        sent: &mut Sent,
        trial: &mut Trial,
        messages: usize,
        one_by_one: bool,
        message: &impl Fn(usize) -> Message<'a>,
    ) {
        if std::mem::take(&mut trial.of_another) {
            sent.error = None; // it was of an earlier datagram
        }
        if one_by_one {
            if let Some(size) = trial.suspect.take() {
                self.segments.shorten(size); // joined it was refused, alone it goes
            }
            let whole = message(sent.done);
            let size = whole.size.min(whole.payload.len() - sent.part);
            sent.datagrams += 1;
            sent.bytes += size;
            sent.part += size;
            if sent.part >= whole.payload.len() {
                (sent.done, sent.part, trial.one_by_one) = (sent.done + 1, 0, false);
            }
            return;
        }
        for _ in 0..messages {
            let whole = message(sent.done).behind(sent.part);
            sent.datagrams += whole.count();
            sent.bytes += whole.payload.len();
            (sent.done, sent.part) = (sent.done + 1, 0);
        }
    }

    /// Does what is due about a refusal of the first message.
    fn refused(
        &self,
        sent: &mut Sent,
        trial: &mut Trial,
        error: io::Error,
        first: &Message<'_>,
        one_by_one: bool,
    ) {
        let in_segments = first.count() > 1 && !one_by_one;
        let holds_errors = self.granted.is_connected || self.granted.has_errors;
        match datagram::refusal(&error, in_segments, holds_errors && !trial.of_another) {
            // A Unix socket says so of one peer, and nothing tells when that has room again.
            Refusal::Full if !self.granted.is_unix || self.granted.is_connected => sent.full = true,
            Refusal::OfAnother => {
                trial.of_another = true;
                sent.error = Some(error);
            }
            Refusal::NoSegments => {
                if self.segments.give_up() {
                    log::warn!(
                        "datagrams are sent one by one from now on: joined ones fail: {error}"
                    );
                }
            }
            Refusal::OneByOne => {
                trial.one_by_one = true;
                trial.suspect = Some((first.count(), first.size));
            }
            Refusal::Full | Refusal::OfThis => {
                trial.of_another = false;
                trial.suspect = None;
                sent.error = Some(error);
                if one_by_one {
                    let size = first.size.min(first.payload.len());
                    sent.refused += 1;
                    sent.part += size;
                    if size >= first.payload.len() {
                        (sent.done, sent.part, trial.one_by_one) = (sent.done + 1, 0, false);
                    }
                } else {
                    sent.refused += first.count();
                    (sent.done, sent.part) = (sent.done + 1, 0);
                }
            }
        }
    }

    /// One system call for up to `count` messages.
    fn send_some<'a>(
        &self,
        envelopes: &mut Envelopes,
        count: usize,
        message: impl Fn(usize) -> Message<'a>,
    ) -> io::Result<usize> {
        let Envelopes { names, controls } = envelopes;
        if count == 1 {
            return self.send_single(&mut controls[0], &message(0));
        }
        let mut slices = [io::IoSlice::new(&[]); MOST_MESSAGES];
        let mut ready = 0;
        for at in 0..count {
            let next = message(at);
            if at > 0 && !self.segments.take(&next) {
                break;
            }
            match name_of(next.peer, self.granted) {
                Ok(name) => names[at] = name,
                Err(error) if at == 0 => return Err(error),
                Err(_) => break, // it will be the first one
            }
            self.write_control(&mut controls[at], &next);
            slices[at] = io::IoSlice::new(next.payload);
            ready += 1;
        }
        let mut messages = [NOTHING; MOST_MESSAGES];
        for (at, outgoing) in messages[..ready].iter_mut().enumerate() {
            let slices = &slices[at..=at];
            *outgoing = Outgoing { name: names[at].bytes(), slices, control: controls[at].bytes() };
        }
        datagram::send(self.fd, &messages[..ready])
    }

    /// As [`send_some`](Self::send_some), without the places of further messages.
    fn send_single(&self, control: &mut ToSend, message: &Message<'_>) -> io::Result<usize> {
        let name = name_of(message.peer, self.granted)?;
        self.write_control(control, message);
        let slices = [io::IoSlice::new(message.payload)];
        let (name, control) = (name.bytes(), control.bytes());
        datagram::send(self.fd, &[Outgoing { name, slices: &slices, control }])
    }

    fn write_control(&self, control: &mut ToSend, message: &Message<'_>) {
        control.clear();
        if message.size < message.payload.len()
            && let Ok(size) = u16::try_from(message.size)
        {
            control.segments(size);
        }
        if let Some(source) = message.source {
            control.source(source, self.granted.is_v6);
        }
    }
}

const NOTHING: Outgoing<'_> = Outgoing { name: &[], slices: &[], control: &[] };

/// What is tried, in one send.
#[derive(Debug, Default)]
struct Trial {
    /// The message at hand goes one datagram after the other.
    one_by_one: bool,
    /// It was refused with so many segments of that size.
    suspect: Option<(usize, usize)>,
    /// The last call returned the error of an earlier datagram.
    of_another: bool,
}

impl Segments {
    pub(super) fn new(may_join: bool) -> Self {
        let longest = AtomicUsize::new(if may_join { LONGEST } else { 0 });
        Self { longest, most: AtomicUsize::new(MOST_SEGMENTS), skipped: AtomicUsize::new(0) }
    }

    /// The most datagrams of this size that one message may have.
    #[inline]
    pub(crate) fn most(&self, size: usize) -> usize {
        if size == 0 || size > self.longest.load(Ordering::Relaxed) && !self.may_try_again() {
            return 1;
        }
        self.most.load(Ordering::Relaxed).min(LONGEST / size).max(1)
    }

    /// Whether segments that were too long once are to be tried again: the MTU of one way to one
    /// peer must not slow down the others for good.
    fn may_try_again(&self) -> bool {
        const PATIENCE: usize = 4096;
        let may = self.longest.load(Ordering::Relaxed) > 0
            && self.skipped.fetch_add(1, Ordering::Relaxed) >= PATIENCE;
        if may {
            self.skipped.store(0, Ordering::Relaxed);
            self.longest.store(LONGEST, Ordering::Relaxed);
        }
        may
    }

    /// Whether a message may be sent as it is.
    fn take(&self, message: &Message<'_>) -> bool {
        let count = message.count();
        count == 1 || count <= self.most(message.size)
    }

    /// So many segments of that size were refused, and one went alone.
    fn shorten(&self, (count, size): (usize, usize)) {
        const BEFORE: usize = 64;
        if count > BEFORE && self.most.load(Ordering::Relaxed) > BEFORE {
            self.most.store(BEFORE, Ordering::Relaxed); // Linux before 6.9
        } else {
            self.longest.fetch_min(size - 1, Ordering::Relaxed);
        }
    }

    /// For tests: as if the kernel took so many.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn pretend(&self, most: usize) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// Nothing is to be joined; says whether something was before.
    pub(crate) fn give_up(&self) -> bool {
        self.longest.swap(0, Ordering::Relaxed) > 0
    }
}
