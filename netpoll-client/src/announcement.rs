//! What a dialled connection begins with: bytes of the dialer, before anything of its user.

use std::io;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use netpoll_core::{Attempt, Delivery, Notify};

use crate::sync::lock;

/// A connected stream, and what has become of its first bytes. A drop aborts the stream: its peer
/// must not take a part of them for the whole.
pub(crate) struct Announcement {
    attempt: Option<Attempt>,
    delivery: Arc<Mutex<Option<Delivery>>>,
}

impl Announcement {
    /// Sends `bytes` over a connected stream; `notify` is told when the socket has taken them, or
    /// never will.
    pub(crate) fn begin(attempt: Attempt, bytes: Bytes, notify: &Arc<Notify>) -> io::Result<Self> {
        if attempt.send_before_handshake(bytes.clone()) {
            // What the filter says first takes them along.
            let delivery = Arc::new(Mutex::new(Some(Ok(()))));
            return Ok(Self { attempt: Some(attempt), delivery });
        }
        let announcement = Self { attempt: Some(attempt), delivery: Arc::default() };
        let (delivery, notify) = (announcement.delivery.clone(), notify.clone());
        let handle = announcement.attempt.as_ref().map(Attempt::handle);
        handle.map_or(Ok(()), |handle| {
            handle.send_with(bytes, move |outcome| {
                *lock(&delivery) = Some(outcome);
                notify.notify();
            })
        })?;
        Ok(announcement)
    }

    /// The stream once the socket has taken all; `None` while it has not.
    ///
    /// # Errors
    /// The socket's, and that of a connection that has ended.
    pub(crate) fn take(&mut self) -> io::Result<Option<Attempt>> {
        match lock(&self.delivery).take() {
            None => Ok(None),
            Some(Ok(())) => Ok(self.attempt.take()),
            Some(Err(undelivered)) => Err(undelivered.error.into()),
        }
    }
}

impl Drop for Announcement {
    fn drop(&mut self) {
        if let Some(attempt) = &self.attempt {
            attempt.handle().abort();
        }
    }
}
