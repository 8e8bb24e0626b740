//! What the kernel measures on one TCP connection: `TCP_INFO`.

use std::io::{self, Error, ErrorKind};
use std::os::fd::BorrowedFd;
use std::time::Duration;

use nix::libc;

use super::raw;

/// What the kernel knew of a TCP connection at the moment of the call (`TCP_INFO`).
///
/// It is about what this end sends. A segment is at most [`send_mss`](Self::send_mss) bytes.
/// With a filter, such as TLS, these are the bytes on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct TcpInfo {
    /// The smoothed round trip time. 0 before the first measurement.
    pub rtt: Duration,
    /// The mean deviation of the round trip time.
    pub rtt_variance: Duration,
    /// The least round trip time of the last minutes (`net.ipv4.tcp_min_rtt_wlen`). 0 as above.
    pub min_rtt: Duration,
    /// How long the kernel waits for an acknowledgement before it sends again.
    pub retransmission_timeout: Duration,
    /// How many segments may be on their way at a time.
    pub congestion_window: u32,
    /// The most bytes of one segment.
    pub send_mss: u32,
    /// Segments that were sent and are not acknowledged.
    pub unacked: u32,
    /// Segments that were sent again, since the connection began.
    pub retransmits: u32,
    /// Bytes that the socket has taken and not sent yet. Those that wait in this process are
    /// [`Handle::pending`](crate::Handle::pending).
    pub notsent_bytes: u32,
    /// How fast the peer acknowledged the latest data, in bytes per second. If the connection had
    /// little to send, the path can do more.
    pub delivery_rate: u64,
}

/// The length of the kernel's answer up to `tcpi_delivery_rate`, which it has since Linux 4.9.
const LENGTH: usize = 168;

/// Asks the kernel.
///
/// # Errors
/// The system's; `Unsupported` on a Unix socket.
pub(crate) fn tcp_info(fd: BorrowedFd<'_>) -> io::Result<TcpInfo> {
    let mut answer = [0; LENGTH];
    let length =
        raw::option(fd, (libc::IPPROTO_TCP, libc::TCP_INFO), &mut answer).map_err(explained)?;
    if length < LENGTH {
        let old = "TCP_INFO of this kernel is too short; Linux 4.9 or later has all of it";
        return Err(Error::new(ErrorKind::Unsupported, old));
    }
    Ok(understand(&answer))
}

fn explained(error: Error) -> Error {
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) => {
            Error::new(ErrorKind::Unsupported, "a Unix socket has no TCP_INFO; only TCP has")
        }
        _ => error,
    }
}

/// Reads `struct tcp_info` of `linux/tcp.h` by its offsets, which are the same on every
/// architecture and only grow at the end. That of libc is cut off differently by each C library.
fn understand(answer: &[u8; LENGTH]) -> TcpInfo {
    let micros = |at| Duration::from_micros(number(answer, at).into());
    TcpInfo {
        retransmission_timeout: micros(8),
        send_mss: number(answer, 16),
        unacked: number(answer, 24),
        rtt: micros(68),
        rtt_variance: micros(72),
        congestion_window: number(answer, 80),
        retransmits: number(answer, 100),
        notsent_bytes: number(answer, 144),
        min_rtt: min_rtt(number(answer, 148)),
        delivery_rate: large_number(answer, 160),
    }
}

/// The kernel has the largest number where it has measured none.
fn min_rtt(micros: u32) -> Duration {
    if micros == u32::MAX { Duration::ZERO } else { Duration::from_micros(micros.into()) }
}

fn number(answer: &[u8; LENGTH], at: usize) -> u32 {
    let chunk = answer.get(at..).and_then(<[u8]>::first_chunk);
    chunk.map_or(0, |it| u32::from_ne_bytes(*it))
}

fn large_number(answer: &[u8; LENGTH], at: usize) -> u64 {
    let chunk = answer.get(at..).and_then(<[u8]>::first_chunk);
    chunk.map_or(0, |it| u64::from_ne_bytes(*it))
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    /// libc of each C library has the first part of the struct.
    #[test]
    fn the_offsets_are_those_of_the_struct() {
        let mut answer = [0; LENGTH];
        let offsets = [
            offset_of!(libc::tcp_info, tcpi_rto),
            offset_of!(libc::tcp_info, tcpi_snd_mss),
            offset_of!(libc::tcp_info, tcpi_unacked),
            offset_of!(libc::tcp_info, tcpi_rtt),
            offset_of!(libc::tcp_info, tcpi_rttvar),
            offset_of!(libc::tcp_info, tcpi_snd_cwnd),
            offset_of!(libc::tcp_info, tcpi_total_retrans),
        ];
        // What follows in `linux/tcp.h`: four u64, two u32, then these two, two u32 more, a u64.
        let after = offset_of!(libc::tcp_info, tcpi_total_retrans) + 4 + 4 * 8 + 2 * 4;
        let later = [after, after + 4];
        for (value, at) in offsets.into_iter().chain(later).enumerate() {
            answer[at..at + 4].copy_from_slice(&(value as u32 + 1).to_ne_bytes());
        }
        let rate = after + 4 * 4;
        answer[rate..rate + 8].copy_from_slice(&(1_u64 << 40).to_ne_bytes());
        let wanted = TcpInfo {
            retransmission_timeout: Duration::from_micros(1),
            send_mss: 2,
            unacked: 3,
            rtt: Duration::from_micros(4),
            rtt_variance: Duration::from_micros(5),
            congestion_window: 6,
            retransmits: 7,
            notsent_bytes: 8,
            min_rtt: Duration::from_micros(9),
            delivery_rate: 1 << 40,
        };
        assert_eq!(understand(&answer), wanted);
    }

    #[test]
    fn a_round_trip_that_was_never_measured_is_zero() {
        assert_eq!(understand(&[0xff; LENGTH]).min_rtt, Duration::ZERO);
    }
}
