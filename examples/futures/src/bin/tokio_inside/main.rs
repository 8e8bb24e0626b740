//! A program on tokio that uses connections, a pool and a multiplexer of netpoll; and a server of
//! netpoll whose futures use what needs tokio.
//!
//! The front is tokio's: each line of a client is `dial`, `pool` or `mux`, and a word. It asks the
//! server behind in that way, and passes the answer on: the word in capitals.
//!
//! Its limits: 5 s for an answer, 64 calls that wait in the multiplexer, lines of 64 KiB.
//!
//! ```text
//! cd examples/futures
//! cargo run --release --bin tokio_inside -- [ADDRESS]
//! printf 'dial one\npool two\nmux three\n' | nc -N 127.0.0.1 7033
//! ```

mod ways;

use std::error::Error;
use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use netpoll::Listener;
use netpoll::futures::{AsyncConnection, in_tokio, serve_async};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::time::timeout;
use ways::Ways;

/// How long an answer may take, and a stop.
const AT_MOST: Duration = Duration::from_secs(5);
const LINE_MAX: u64 = 64 << 10;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7033".into());
    let tokio = Handle::current();
    let behind = serve_async(move |conn| in_tokio(&tokio, answer(conn)))
        .build()?
        .spawn(Listener::bind("tcp", &format!("{}:0", Ipv4Addr::LOCALHOST))?)?;
    let ways = Ways::to(&behind.address().to_string())?;

    let listener = TcpListener::bind(address).await?;
    println!("listening on {}", listener.local_addr()?);
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (client, ways) = (accepted?.0, ways.clone());
                tokio::spawn(async move {
                    if let Err(error) = pass_on(client, ways).await {
                        eprintln!("a client was lost: {error}");
                    }
                });
            }
            _ = tokio::signal::ctrl_c() => break,
        }
    }
    behind.shutdown(AT_MOST);
    tokio::task::spawn_blocking(|| behind.wait()).await??;
    Ok(())
}

/// The server behind: a future on the loops of netpoll, which spawns and sleeps in tokio.
async fn answer(conn: AsyncConnection) -> io::Result<()> {
    let (read, mut write) = conn.split();
    let mut lines = read.lines();
    while let Some(line) = lines.next_line().await? {
        let answer = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            line.to_uppercase() + "\n"
        });
        write.write_bytes(answer.await?).await?;
    }
    Ok(())
}

/// A client of the front, in a task of tokio.
async fn pass_on(client: TcpStream, ways: Ways) -> Result<(), Box<dyn Error>> {
    let (read, mut write) = client.into_split();
    let mut read = BufReader::new(read);
    loop {
        let mut line = String::new();
        if (&mut read).take(LINE_MAX).read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let answer = match timeout(AT_MOST, ways.ask(line.trim_end())).await? {
            Ok(answer) => answer,
            Err(error) => format!("error: {error}"),
        };
        write.write_all((answer + "\n").as_bytes()).await?;
    }
}
