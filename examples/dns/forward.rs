//! Questions to another server: over UDP without a thread that waits, over TCP with one.

use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use netpoll::{Address, DatagramHandle, Error, Result, dial_connection};

use super::forwarded::Forwarded;
use super::message::Query;
use super::pending::{Asked, Pending};
use super::record::number;
use super::reply::edns;

/// How long a thread waits for the other server, over TCP.
const WAIT: Duration = Duration::from_secs(3);
const WANTED: u16 = 0x0100;

#[derive(Debug)]
pub(crate) struct Forward {
    address: SocketAddr,
    socket: OnceLock<DatagramHandle>,
    pending: Mutex<Pending>,
}

impl Forward {
    pub(crate) fn new(address: &str) -> Result<Self> {
        let wrong = |error| Error::config(format!("{address} is no ADDRESS:PORT: {error}"));
        let address = address.parse().map_err(wrong)?;
        Ok(Self { address, socket: OnceLock::new(), pending: Mutex::default() })
    }

    pub(crate) fn is_v6(&self) -> bool {
        self.address.is_ipv6()
    }

    /// Questions leave through this socket from now on.
    pub(crate) fn open(&self, socket: DatagramHandle) {
        let _ = self.socket.set(socket); // there is one, so it is not set
    }

    pub(crate) fn wait_until_open(&self) {
        self.socket.wait();
    }

    /// Passes a query on. Its answer will come to `answered`.
    pub(crate) fn ask(
        &self,
        query: &[u8],
        local: Option<IpAddr>,
        peer: &Address,
        through: DatagramHandle,
    ) -> Result<()> {
        let socket = self.socket.get().ok_or(Error::Closed)?;
        let query = query.to_vec();
        let id =
            self.pending().add(Asked { query: query.clone(), local, peer: peer.clone(), through });
        socket.send_to(&self.address.into(), question(id, &query)?)
    }

    /// An answer of the other server, with what it answers. All else is dropped: a forged answer
    /// needs the port, the id and the question.
    pub(crate) fn answered(&self, from: &Address, message: &[u8]) -> Option<(Asked, Forwarded)> {
        let id = number(message, 0).filter(|_| *from == self.address)?;
        let mut pending = self.pending();
        let query = Query::read(&pending.find(id)?.query).ok()?;
        let answer = Forwarded::read(message, query.question)?;
        Some((pending.take(id)?, answer))
    }

    /// Asks over TCP, and waits: the loop of the callback goes on meanwhile.
    pub(crate) fn ask_and_wait(&self, query: &[u8]) -> Result<Vec<u8>> {
        let asked = question(number(query, 0).unwrap_or(0), query)?;
        let mut other = dial_connection("tcp", &self.address.to_string(), WAIT)?;
        other.set_read_timeout(Some(WAIT));
        let mut writer = other.writer();
        writer.write_bytes(&(asked.len() as u16).to_be_bytes());
        writer.write_bytes(&asked);
        writer.flush()?;
        let mut length = [0; 2];
        other.read_exact(&mut length)?;
        let mut message = vec![0; u16::from_be_bytes(length).into()];
        other.read_exact(&mut message)?;
        let query = parsed(query)?;
        let answer = Forwarded::read(&message, query.question).ok_or(Error::EndOfStream)?;
        Ok(answer.write(&query, Duration::ZERO, u16::MAX.into()))
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The same question from this server, which takes long answers.
fn question(id: u16, query: &[u8]) -> Result<Vec<u8>> {
    let words = [id, WANTED, 1, 0, 0, 1].map(u16::to_be_bytes);
    Ok([&words.concat(), parsed(query)?.question, &edns(0)].concat())
}

fn parsed(query: &[u8]) -> Result<Query<'_>> {
    Query::read(query).map_err(|_| Error::config("it was read before"))
}
