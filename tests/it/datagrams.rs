//! Datagrams: what is bound and how, which loop serves which peer, and how it ends.

mod attacked;
mod bound;
mod client;
mod flooded;
mod groups;
mod handed_over;
mod loops;
mod serving;

use std::net::{SocketAddr, UdpSocket};
use std::sync::mpsc;

use netpoll::{
    DatagramBatch, DatagramHandle, DatagramServer, Datagrams, Dispatch, EventLoop, Result, Running,
};

use crate::util::PATIENCE;

/// A plain client of this server, which waits with a bound.
pub(crate) fn client_of(server: SocketAddr) -> UdpSocket {
    let any = if server.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
    let socket = UdpSocket::bind(any).expect("a port");
    socket.connect(server).expect("an address");
    socket.set_read_timeout(Some(PATIENCE)).expect("an option");
    socket
}

/// What comes next.
#[track_caller]
pub(crate) fn heard(client: &UdpSocket) -> Vec<u8> {
    let mut room = [0; 2048];
    let length = client.recv(&mut room).expect("an answer");
    room[..length].to_vec()
}

/// Sends, and hears the same.
#[track_caller]
pub(crate) fn echo(client: &UdpSocket, bytes: &[u8]) {
    client.send(bytes).expect("room");
    assert_eq!(heard(client), bytes);
}

/// Answers each datagram with what it brought.
pub(crate) fn answer_all(batch: &DatagramBatch<'_>) -> Result<()> {
    batch.iter().try_for_each(|it| it.reply(it.payload()))
}

/// An echo on this socket.
pub(crate) fn echoing(socket: Datagrams) -> DatagramServer {
    socket.on_datagrams(|(): &mut (), batch: &DatagramBatch<'_>| answer_all(batch))
}

pub(crate) fn any_port() -> Datagrams {
    Datagrams::bind("udp", "127.0.0.1:0").expect("a port")
}

/// Serves datagrams alone, on so many loops.
pub(crate) fn serve(dispatch: Dispatch, loops: usize, server: DatagramServer) -> Running {
    let builder = EventLoop::for_datagrams().dispatch(dispatch).loops(loops);
    builder.build().expect("options").spawn(server).expect("it serves")
}

/// An echo on one loop, with a handle of its socket.
pub(crate) fn serve_with_handle(dispatch: Dispatch) -> (Running, DatagramHandle) {
    let (sender, handles) = mpsc::channel();
    let server = any_port()
        .on_open(move |handle: &DatagramHandle| {
            let _ = sender.send(handle.clone());
            Ok(())
        })
        .on_datagrams(|(): &mut (), batch: &DatagramBatch<'_>| answer_all(batch));
    let running = serve(dispatch, 1, server);
    (running, handles.recv_timeout(PATIENCE).expect("it is open"))
}

pub(crate) fn inet(running: &Running) -> SocketAddr {
    running.address().inet().expect("of UDP")
}
