//! tokio, after the example of its `UdpSocket`: a task per socket, `recv_from` and `send_to`.
//!
//! `--runtime multi` has a scheduler over `THREADS` and a socket for each of them, `--runtime
//! current` stays on one thread.

use std::io;

use netpoll_peers::{Arguments, DATAGRAM_MAX, Serve, Sink};
use tokio::net::UdpSocket;
use tokio::runtime::Builder;

static SINK: Sink = Sink::new();

fn main() -> io::Result<()> {
    let arguments = Arguments::read(&[Serve::OPTION, "--runtime"]);
    let serve = Serve::of(&arguments);
    let multi = arguments.choice("--runtime", &[("multi", true), ("current", false)]);
    let mut builder =
        if multi { Builder::new_multi_thread() } else { Builder::new_current_thread() };
    let runtime = builder.worker_threads(arguments.threads).enable_io().build()?;
    runtime.block_on(async {
        let sockets = arguments.bind_on_each().into_iter();
        let tasks = sockets.map(|socket| tokio::spawn(run(socket, serve)));
        for task in tasks.collect::<Vec<_>>() {
            task.await.expect("it does not panic")?;
        }
        Ok(())
    })
}

async fn run(socket: std::net::UdpSocket, serve: Serve) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    let socket = UdpSocket::from_std(socket)?;
    let mut buffer = vec![0; DATAGRAM_MAX];
    loop {
        // What was sent to a peer that has gone is refused.
        let Ok((length, peer)) = socket.recv_from(&mut buffer).await else { continue };
        let datagram = &buffer[..length];
        match serve {
            Serve::Echo => drop(socket.send_to(datagram, peer).await),
            Serve::Sink if SINK.is_asked(datagram) => {
                drop(socket.send_to(&SINK.count(), peer).await);
            }
            Serve::Sink => SINK.add(1, length as u64),
        }
    }
}
