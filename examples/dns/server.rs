//! What becomes of a question: an answer of the zone, one that was kept, or a question to another
//! server.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use netpoll::{Datagram, DatagramBatch, DatagramHandle, Error, Result};

use super::cache::Cache;
use super::forward::Forward;
use super::message::{Bad, Query, Rcode};
use super::reply::{Reply, refusal};
use super::zone::Zone;

#[derive(Debug)]
pub(crate) struct Server {
    zone: Zone,
    cache: Mutex<Cache>,
    /// Where questions for other names go.
    pub(crate) forward: Option<Arc<Forward>>,
}

/// What is said at once, or that it is not for us to say.
enum Answer {
    Now(Vec<u8>),
    Never,
    Ask,
}

impl Server {
    pub(crate) fn new(zone: &str, other: Option<&str>) -> Result<Self> {
        let wrong = |why: String| Error::config(format!("{zone}: {why}"));
        let text = std::fs::read_to_string(zone).map_err(|error| wrong(error.to_string()))?;
        let forward = other.map(Forward::new).transpose()?.map(Arc::new);
        Ok(Self { zone: Zone::parse(&text).map_err(wrong)?, cache: Mutex::default(), forward })
    }

    /// Answers datagrams; what another server is asked is answered later.
    pub(crate) fn answer_all(&self, batch: &DatagramBatch<'_>) -> Result<()> {
        for datagram in batch {
            match self.answer(datagram.payload(), None) {
                Answer::Now(answer) => datagram.reply(&answer)?,
                Answer::Never => {}
                Answer::Ask => self.ask(&datagram, batch.handle()),
            }
        }
        Ok(())
    }

    /// The answer to a query that came over TCP; its thread may wait for it.
    pub(crate) fn answer_over_tcp(&self, query: &[u8]) -> Option<Vec<u8>> {
        match self.answer(query, Some(usize::from(u16::MAX))) {
            Answer::Now(answer) => Some(answer),
            Answer::Never => None,
            Answer::Ask => {
                let found = self.forward.as_ref().and_then(|it| it.ask_and_wait(query).ok());
                found.or_else(|| Some(failure(query)))
            }
        }
    }

    fn answer(&self, message: &[u8], limit: Option<usize>) -> Answer {
        let query = match Query::read(message) {
            Ok(query) => query,
            Err(Bad::Silent) => return Answer::Never,
            Err(Bad::Refused(rcode)) => return Answer::Now(refusal(message, rcode)),
        };
        let limit = limit.unwrap_or_else(|| query.limit());
        if self.zone.has(&query.name) {
            return Answer::Now(self.zone.answer(&query).write(&query, limit));
        }
        if self.forward.is_none() || !query.wants_recursion {
            return Answer::Now(Reply::refused(Rcode::Refused).write(&query, limit));
        }
        let kept = self.cache().find(&query, limit, Instant::now());
        kept.map_or(Answer::Ask, Answer::Now)
    }

    fn ask(&self, datagram: &Datagram<'_>, handle: DatagramHandle) {
        let Some(forward) = &self.forward else { return };
        let (query, peer) = (datagram.payload(), datagram.peer());
        if forward.ask(query, datagram.local(), peer, handle).is_err() {
            // The client learns of it at once, if the socket has room.
            let _ = datagram.reply(&failure(query));
        }
    }

    /// Passes answers of the other server back, and keeps them.
    pub(crate) fn pass_back(&self, batch: &DatagramBatch<'_>) {
        let Some(forward) = &self.forward else { return };
        for datagram in batch {
            let answered = forward.answered(datagram.peer(), datagram.payload());
            let Some((asked, answer)) = answered else { continue };
            let Ok(query) = Query::read(&asked.query) else { continue };
            let out = answer.write(&query, Duration::ZERO, query.limit());
            // First kept, so that the client that asks again at once gets it from here.
            self.cache().put(query.key(), answer, Instant::now());
            // What the socket does not take is dropped, and asked for again.
            let _ = asked.through.send_from(asked.local, &asked.peer, out);
        }
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn failure(query: &[u8]) -> Vec<u8> {
    refusal(query, Rcode::Failed)
}
