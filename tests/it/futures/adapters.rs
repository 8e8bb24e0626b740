//! The traits of `futures-io` and `tokio::io`, and the context of tokio.

use std::thread;
use std::time::Duration;

use netpoll_async::{AsyncConnection, in_tokio};

use super::server;
use crate::util::{Client, modes};

#[test]
fn the_traits_of_futures_io_read_and_write() {
    use futures_util::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, copy_buf};

    for dispatch in modes() {
        let (server, _) = server(dispatch, |mut conn: AsyncConnection| async move {
            let mut line = String::new();
            conn.read_line(&mut line).await?;
            AsyncWriteExt::write_all(&mut conn, line.as_bytes()).await?;
            AsyncWriteExt::flush(&mut conn).await?;
            let (read, mut write) = AsyncConnection::split(conn);
            copy_buf(read.take(1 << 20), &mut write).await?;
            write.close().await?;
            Ok(())
        });
        let mut client = server.connect();
        client.echo(b"a line\n");
        client.echo(&vec![b'x'; 100_000]);
        client.half_close();
        assert_eq!(client.rest(), b"", "{dispatch:?}");
    }
}

#[test]
fn the_traits_of_tokio_read_and_write() {
    use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, copy_bidirectional};

    for dispatch in modes() {
        let (server, _) = server(dispatch, |mut conn: AsyncConnection| async move {
            let mut line = String::new();
            conn.read_line(&mut line).await?;
            AsyncWriteExt::write_all(&mut conn, line.as_bytes()).await?;
            let (mut ours, mut theirs) = tokio::io::duplex(1 << 14);
            let echo = async {
                let (mut read, mut write) = tokio::io::split(&mut theirs);
                tokio::io::copy(&mut read, &mut write).await?;
                write.shutdown().await
            };
            let relayed = copy_bidirectional(&mut conn, &mut ours);
            let (relayed, echoed) = futures_util::future::join(relayed, echo).await;
            assert_eq!(relayed?, (100_000, 100_000));
            echoed?;
            assert_eq!(AsyncReadExt::read(&mut conn, &mut []).await?, 0);
            Ok(())
        });
        let mut client = server.connect();
        client.echo(b"a line\n");
        client.echo(&vec![b'x'; 100_000]);
        client.half_close();
        assert_eq!(client.rest(), b"", "{dispatch:?}");
    }
}

/// Sockets and timers of tokio in a future that our loops poll; also where it is dropped.
#[test]
fn what_needs_a_context_of_tokio_has_it_in_polls_and_in_the_drop() {
    struct SpawnsInDrop;

    impl Drop for SpawnsInDrop {
        fn drop(&mut self) {
            tokio::spawn(async {});
        }
    }

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let handle = runtime.handle().clone();
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let turning = thread::spawn(move || runtime.block_on(ended).ok());
    for dispatch in modes() {
        let handle = handle.clone();
        let (server, ends) = server(dispatch, move |mut conn: AsyncConnection| {
            in_tokio(&handle, async move {
                let _spawns = SpawnsInDrop;
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
                let address = listener.local_addr()?;
                let dialled = tokio::spawn(tokio::net::TcpStream::connect(address));
                let (mut stream, _) = listener.accept().await?;
                let mut other = dialled.await.expect("no panic")?;
                tokio::time::sleep(Duration::from_millis(1)).await;
                tokio::io::AsyncWriteExt::write_all(&mut stream, b"by tokio").await?;
                let mut read = [0; 8];
                tokio::io::AsyncReadExt::read_exact(&mut other, &mut read).await?;
                conn.write_all(&read).await?;
                // Dropped here by the reset.
                tokio::time::sleep(Duration::from_secs(1000)).await;
                Ok(())
            })
        });
        let mut client = server.connect();
        client.hear(b"by tokio");
        client.reset();
        assert_eq!(ends.wait(1), ["Reset"], "{dispatch:?}");
    }
    end.send(()).expect("it waits");
    turning.join().expect("it turns");
}
