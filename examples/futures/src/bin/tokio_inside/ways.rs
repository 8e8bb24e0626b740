//! Three ways to ask a server, from tasks of tokio: a connection of one's own, one of a pool, and a
//! multiplexer.

use std::io;

use netpoll::futures::{AsyncDialer, AsyncMux, AsyncPool};
use netpoll::{Dialer, Limits, LinkBuffer, Mux, MuxProtocol, Pool, Result};
use tokio::io::AsyncBufReadExt;

use super::AT_MOST;

/// See the module.
#[derive(Clone)]
pub(super) struct Ways {
    address: String,
    dialer: AsyncDialer,
    pool: Pool,
    mux: Mux<Lines>,
}

impl Ways {
    /// Those to the server at `address`.
    pub(super) fn to(address: &str) -> Result<Self> {
        let dialer = Dialer::builder().timeout(AT_MOST).build()?;
        let limits = Limits { read_timeout: Some(AT_MOST), ..Limits::default() };
        Ok(Self {
            dialer: AsyncDialer::new(dialer.clone()).limits(limits),
            pool: Pool::builder().build(dialer)?,
            mux: Mux::<Lines>::builder().max_waiting(64).build("tcp", address, Lines)?,
            address: address.into(),
        })
    }

    /// Asks for the answer to the word that is behind the name of a way.
    pub(super) async fn ask(&self, line: &str) -> io::Result<String> {
        match line.split_once(' ') {
            Some(("dial", word)) => {
                let mut conn = self.dialer.dial("tcp", &self.address).await?;
                conn.write_all(format!("{word}\n").as_bytes()).await?;
                let mut answer = String::new();
                conn.read_line(&mut answer).await?; // a method of tokio's traits
                Ok(answer.trim_end().into())
            }
            Some(("pool", word)) => {
                let word = word.to_owned();
                let mut conn = self.pool.checkout_async("tcp", &self.address, AT_MOST).await?;
                // Its reads wait on their thread, so not on one that turns tokio.
                let exchange = move || -> Result<String> {
                    conn.set_read_timeout(Some(AT_MOST));
                    conn.writer().write_string(&format!("{word}\n"));
                    conn.writer().flush()?;
                    let answer = conn.reader().until(b'\n')?.to_vec();
                    conn.keep();
                    Ok(String::from_utf8_lossy(&answer).trim_end().into())
                };
                Ok(tokio::task::spawn_blocking(exchange).await??)
            }
            Some(("mux", word)) => Ok(self.mux.call_async(word.into(), AT_MOST).await?),
            _ => Err(io::Error::other("say dial, pool or mux, and a word")),
        }
    }
}

/// The id of a request stands before its word, and comes back before the answer.
struct Lines;

impl MuxProtocol for Lines {
    type Request = String;
    type Response = String;

    fn encode(&self, id: u32, word: String, out: &mut LinkBuffer) -> Result<()> {
        out.write_string(&format!("{id} {word}\n"));
        Ok(())
    }

    fn decode(&self, input: &mut LinkBuffer) -> Result<Option<(u32, String)>> {
        let Some(end) = input.find_bytes(b"\n") else { return Ok(None) };
        let line = input.next(end + 1).map_err(io::Error::from)?;
        let line = String::from_utf8_lossy(line).into_owned();
        let parts = line.trim_end().split_once(' ');
        let parsed = parts.and_then(|(id, word)| Some((id.parse().ok()?, word.to_owned())));
        parsed.map(Some).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData).into())
    }
}
