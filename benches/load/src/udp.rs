//! Sockets of datagrams: trains of equal datagrams in one call (GSO), and out of one (GRO).

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt,
    sockopt,
};

/// Datagrams of one train: the kernel's own limit before 6.9.
const TRAIN_MAX: usize = 64;
/// Bytes of one train: what fits a packet of IPv4 behind its headers.
const TRAIN_BYTES: usize = 65_507;
/// Bytes that one call receives at most.
pub(crate) const RECEIVED_MAX: usize = 64 << 10;
/// Of the receive buffer, so that what is lost is lost by the server.
const RECEIVE_BUFFER: usize = 4 << 20;

/// A socket that hears of one server alone. Sending waits for room, receiving does not wait.
#[derive(Debug)]
pub(crate) struct Udp {
    socket: UdpSocket,
    /// Room for the size of the datagrams in a train.
    control: Vec<u8>,
}

impl Udp {
    /// A socket of a port of its own, connected to the server.
    pub(crate) fn connect(address: SocketAddr) -> io::Result<Self> {
        let any = match address {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        let socket = UdpSocket::bind(any)?;
        socket.connect(address)?;
        // Root may exceed the limit, and others get what the limit leaves.
        if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
            setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER)?;
        }
        // A kernel without it gives each datagram by itself.
        let _ = setsockopt(&socket, sockopt::UdpGroSegment, &true);
        Ok(Self { socket, control: nix::cmsg_space!(i32) })
    }

    pub(crate) fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// Sends `bytes` as datagrams of `size`, in one call. There are no more than `train(size)`.
    pub(crate) fn send(&self, bytes: &[u8], size: usize) -> io::Result<()> {
        let segment = size as u16; // no datagram is larger
        let train = [ControlMessage::UdpGsoSegments(&segment)];
        let control = if bytes.len() > size { &train[..] } else { &[] };
        let parts = [IoSlice::new(bytes)];
        let sent = retried(|| {
            let no_peer: Option<&SockaddrStorage> = None;
            sendmsg(self.socket.as_raw_fd(), &parts, control, MsgFlags::empty(), no_peer)
        })?;
        if sent == bytes.len() {
            Ok(())
        } else {
            Err(io::Error::other(format!("{sent} of {} bytes were sent", bytes.len())))
        }
    }

    /// Receives a datagram, or a train of them: how many bytes, and the size of all datagrams but
    /// the last, which may be shorter. `None` if nothing has come.
    pub(crate) fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<(usize, usize)>> {
        let fd = self.socket.as_raw_fd();
        let mut parts = [IoSliceMut::new(buffer)];
        let received = retried(|| {
            let message = recvmsg::<SockaddrStorage>(
                fd,
                &mut parts,
                Some(&mut self.control),
                MsgFlags::MSG_DONTWAIT,
            )?;
            let size = message.cmsgs()?.find_map(|message| match message {
                ControlMessageOwned::UdpGroSegments(size) => usize::try_from(size).ok(),
                _ => None,
            });
            Ok((message.bytes, size))
        });
        match received {
            Ok((bytes, size)) => Ok(Some((bytes, size.filter(|&size| size > 0).unwrap_or(bytes)))),
            Err(Errno::EAGAIN) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// How many datagrams of a size fit a train.
pub(crate) fn train(size: usize) -> usize {
    (TRAIN_BYTES / size.max(1)).clamp(1, TRAIN_MAX)
}

/// A signal that is ignored, such as of a resized window, interrupts a call.
fn retried<T>(mut call: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Udp, Udp) {
        let first = UdpSocket::bind("127.0.0.1:0").unwrap();
        let one = Udp::connect(first.local_addr().unwrap()).unwrap();
        let other = Udp::connect(one.socket.local_addr().unwrap()).unwrap();
        one.socket.connect(other.socket.local_addr().unwrap()).unwrap();
        (one, other)
    }

    #[test]
    fn a_train_arrives_with_the_size_of_its_datagrams() {
        let (one, mut other) = pair();
        let sent: Vec<u8> = (0..1000_u32).map(|byte| byte as u8).collect();
        one.send(&sent, 300).unwrap();
        let (mut buffer, mut received) = (vec![0; RECEIVED_MAX], Vec::new());
        while received.len() < sent.len() {
            // A kernel that does not merge gives four datagrams.
            if let Some((bytes, size)) = other.receive(&mut buffer).unwrap() {
                assert!(size == 300 || bytes == 100, "{bytes} {size}");
                received.extend_from_slice(&buffer[..bytes]);
            }
        }
        assert_eq!(received, sent);
        assert!(other.receive(&mut buffer).unwrap().is_none());
    }

    #[test]
    fn trains_are_bounded_in_datagrams_and_bytes() {
        assert_eq!([64, 1200, 65_507, 0].map(train), [64, 54, 1, 64]);
    }

    #[test]
    fn nobody_there_is_an_error() {
        let gone = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut one = Udp::connect(gone).unwrap();
        one.send(&[7; 64], 64).unwrap();
        let error = loop {
            match one.receive(&mut [0; 64]) {
                Err(error) => break error,
                Ok(received) => assert!(received.is_none()),
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
