//! Messages of many threads, gathered so that they leave together.
//!
//! ```text
//!   threads ─push─► [ shard | shard | shard ]     each behind a lock of its own
//!                             │
//!   the thread that found it empty ─send_queued─► one buffer ──► one sendmsg
//! ```
//! While one thread sends, the others only push; what they have pushed goes out with its next round
//! (flat combining). A thread keeps to one shard, so its messages keep their order. The model is
//! `mux.ShardQueue` of CloudWeGo's netpoll; this queue starts no task to send, has no index that
//! wraps, and does not keep a thread sending for ever.

use std::sync::Mutex;
use std::sync::atomic::{AtomicIsize, AtomicUsize, Ordering};

use netpoll_buffer::LinkBuffer;

use crate::sync::lock;

/// Enough that few threads share one.
const SHARDS: usize = 8;
/// Messages up to this size are copied behind others: a block for each would take more memory.
const COPIED: usize = 1 << 10;
/// How many rounds a thread sends before it passes the sending on: it waits for a response, too.
const ROUNDS: usize = 4;

/// See the module.
#[derive(Debug)]
pub(super) struct Queue {
    shards: [Mutex<Shard>; SHARDS],
    /// Messages pushed and not sent. A message may be sent before it is counted, so for a moment
    /// this may be below zero. The thread that raises it from zero sends.
    queued: AtomicIsize,
}

#[derive(Debug, Default)]
struct Shard {
    bytes: LinkBuffer,
    messages: isize,
}

/// Whether anything is left to send.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// The queue is empty.
    All,
    /// The caller must see that another thread sends the rest.
    SomeLeft,
}

impl Queue {
    pub(super) fn new() -> Self {
        Self { shards: Default::default(), queued: AtomicIsize::new(0) }
    }

    /// Adds a message, which is flushed. If it returns `true`, the caller must send what is queued.
    pub(super) fn push(&self, message: LinkBuffer, thread: usize) -> bool {
        let mut shard = lock(&self.shards[thread % SHARDS]);
        if message.len() <= COPIED {
            message.chunks().for_each(|chunk| shard.bytes.write_bytes(chunk));
        } else {
            shard.bytes.append(message);
        }
        shard.messages += 1;
        drop(shard);
        self.queued.fetch_add(1, Ordering::AcqRel) == 0
    }

    /// Hands what is queued to `send`, in few pieces. Only the thread that must send calls it.
    pub(super) fn send_queued<E>(
        &self,
        mut send: impl FnMut(LinkBuffer) -> Result<(), E>,
    ) -> Result<Sent, E> {
        for _ in 0..ROUNDS {
            let (mut batch, mut messages) = (LinkBuffer::new(), 0);
            for shard in &self.shards {
                let mut shard = lock(shard);
                messages += std::mem::take(&mut shard.messages);
                shard.bytes.flush();
                batch.append(std::mem::take(&mut shard.bytes));
            }
            batch.flush();
            send(batch)?;
            if self.queued.fetch_sub(messages, Ordering::AcqRel) <= messages {
                return Ok(Sent::All);
            }
        }
        Ok(Sent::SomeLeft)
    }
}

/// A number of this thread, for as long as it lives.
pub(super) fn thread_number() -> usize {
    static THREADS: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static NUMBER: usize = THREADS.fetch_add(1, Ordering::Relaxed);
    }
    NUMBER.with(|number| *number)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn message(of: [u8; 4]) -> LinkBuffer {
        let mut buffer = LinkBuffer::new();
        buffer.write_bytes(&of);
        buffer.flush();
        buffer
    }

    #[test]
    fn nothing_is_lost_torn_or_reordered_within_a_thread() {
        const THREADS: u16 = 6;
        const MESSAGES: u16 = 5000;
        let (queue, sent) = (Queue::new(), Mutex::new(LinkBuffer::new()));
        let send = |batch| {
            // Two threads that send at once would meet here.
            let mut sent = sent.try_lock().expect("one thread sends");
            sent.append(batch);
            sent.flush();
            Ok::<(), ()>(())
        };
        thread::scope(|scope| {
            for thread in 0..THREADS {
                let (queue, send) = (&queue, &send);
                scope.spawn(move || {
                    for number in 0..MESSAGES {
                        let [a, b] = thread.to_be_bytes();
                        let [c, d] = number.to_be_bytes();
                        if queue.push(message([a, b, c, d]), thread_number()) {
                            while queue.send_queued(send) == Ok(Sent::SomeLeft) {}
                        }
                    }
                });
            }
        });
        assert_eq!(queue.queued.load(Ordering::SeqCst), 0);
        let mut sent = sent.into_inner().unwrap();
        let mut next = [0; THREADS as usize];
        while !sent.is_empty() {
            let four = sent.next(4).expect("whole messages");
            let thread = usize::from(u16::from_be_bytes([four[0], four[1]]));
            assert_eq!(u16::from_be_bytes([four[2], four[3]]), next[thread], "of {thread}");
            next[thread] += 1;
        }
        assert_eq!(next, [MESSAGES; THREADS as usize]);
    }

    #[test]
    fn what_is_pushed_during_a_send_leaves_with_the_next() {
        let (queue, mut sizes) = (Queue::new(), Vec::new());
        assert!(queue.push(message([0; 4]), 0));
        let outcome = queue.send_queued(|batch| {
            sizes.push(batch.len());
            if sizes.len() == 1 {
                // This thread sends already.
                assert!((1..=9).all(|thread| !queue.push(message([1; 4]), thread)));
            }
            Ok::<(), ()>(())
        });
        assert_eq!((outcome, sizes), (Ok(Sent::All), vec![4, 36]));
        assert!(queue.push(message([2; 4]), 0));
    }

    #[test]
    fn a_thread_does_not_send_for_ever() {
        let queue = Queue::new();
        queue.push(message([0; 4]), 0);
        let outcome = queue.send_queued(|_| {
            queue.push(message([1; 4]), 1);
            Ok::<(), ()>(())
        });
        assert_eq!(outcome, Ok(Sent::SomeLeft));
        // The next thread finds the rest.
        assert_eq!(
            queue.send_queued(|batch| if batch.len() == 4 { Ok(()) } else { Err(()) }),
            Ok(Sent::All)
        );
    }
}
