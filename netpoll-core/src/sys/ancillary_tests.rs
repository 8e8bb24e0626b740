//! Control messages as the kernel writes them, and any bytes in their place.

use proptest::prelude::*;

use super::*;

/// A control message.
fn message(level: i32, kind: i32, data: &[u8]) -> Vec<u8> {
    let mut bytes = (HEADER + data.len()).to_ne_bytes().to_vec();
    bytes.extend(level.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(data);
    bytes.resize(bytes.len().next_multiple_of(WORD), 0);
    bytes
}

fn joined(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

#[test]
fn every_control_message_is_read() {
    let pktinfo = joined(&[&7_i32.to_ne_bytes(), &[192, 0, 2, 1], &[255, 255, 255, 255]]);
    let stamp = joined(&[&5_i64.to_ne_bytes(), &6_i64.to_ne_bytes()]);
    let error = joined(&[&libc::ECONNREFUSED.to_ne_bytes(), &[2, 3, 3, 0], &[0; 8], &[0; 16]]);
    let control = joined(&[
        &message(libc::IPPROTO_UDP, UDP_GRO, &1200_i32.to_ne_bytes()),
        &message(libc::IPPROTO_IP, libc::IP_PKTINFO, &pktinfo),
        &message(77, 77, &[1, 2, 3]),
        &message(libc::IPPROTO_IP, libc::IP_TOS, &[2]),
        &message(libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS, &stamp),
        &message(libc::SOL_SOCKET, SO_RXQ_OVFL, &9_u32.to_ne_bytes()),
        &message(libc::IPPROTO_IP, libc::IP_RECVERR, &error),
    ]);
    let read = Ancillary::read(&control);
    let expected = Ancillary {
        stride: NonZeroU16::new(1200),
        destination: Some(Ipv4Addr::BROADCAST.into()),
        source: Some(Ipv4Addr::new(192, 0, 2, 1).into()),
        interface: Some(7),
        tos: Some(2),
        time: Some(SystemTime::UNIX_EPOCH + Duration::new(5, 6)),
        drops: Some(9),
        error: Some(Fault { errno: libc::ECONNREFUSED, from_network: true }),
    };
    assert_eq!(read, expected);
}

#[test]
fn those_of_ipv6_are_read() {
    let address: Ipv6Addr = "2001:db8::1".parse().unwrap();
    let pktinfo = joined(&[&address.octets(), &3_u32.to_ne_bytes()]);
    let control = joined(&[
        &message(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &pktinfo),
        &message(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &0xb9_i32.to_ne_bytes()),
    ]);
    let read = Ancillary::read(&control);
    assert_eq!((read.destination, read.source), (Some(address.into()), Some(address.into())));
    assert_eq!((read.interface, read.tos), (Some(3), Some(0xb9)));
    let group: Ipv6Addr = "ff02::1".parse().unwrap();
    let pktinfo = joined(&[&group.octets(), &3_u32.to_ne_bytes()]);
    let read = Ancillary::read(&message(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &pktinfo));
    assert_eq!((read.destination, read.source), (Some(group.into()), None), "no source of answers");
}

#[test]
fn a_stride_of_0_is_none_and_a_cut_message_ends_the_reading() {
    let gro = |size: i32| message(libc::IPPROTO_UDP, UDP_GRO, &size.to_ne_bytes());
    for size in [0, -1, 65536] {
        assert_eq!(Ancillary::read(&gro(size)).stride, None);
    }
    let whole = joined(&[&message(libc::IPPROTO_IP, libc::IP_TOS, &[1]), &gro(1200)]);
    for end in 0..whole.len() {
        let read = Ancillary::read(&whole[..end]);
        assert_eq!(read.stride.is_some(), end >= whole.len() - 4, "{end} bytes"); // less padding
    }
    let mut endless = gro(1200);
    for length in [0, 1, HEADER - 1, usize::MAX, usize::MAX - 7] {
        endless[..WORD].copy_from_slice(&length.to_ne_bytes());
        assert_eq!(Ancillary::read(&endless), Ancillary::default(), "a length of {length}");
    }
}

#[test]
fn a_time_before_the_epoch_or_far_ahead_is_none() {
    for (seconds, nanos) in [(-1_i64, 0_i64), (i64::MAX, i64::MAX), (0, -1)] {
        let stamp = joined(&[&seconds.to_ne_bytes(), &nanos.to_ne_bytes()]);
        let control = message(libc::SOL_SOCKET, SCM_TIMESTAMPNS_NEW, &stamp);
        assert_eq!(Ancillary::read(&control).time, None);
    }
    let short = joined(&[&5_i32.to_ne_bytes(), &6_i32.to_ne_bytes()]);
    let control = message(libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS, &short);
    let time = SystemTime::UNIX_EPOCH + Duration::new(5, 6);
    assert_eq!(Ancillary::read(&control).time, Some(time), "of a system of 32 bits");
}

#[test]
fn what_is_sent_is_laid_out_as_what_is_received() {
    let mut both = ToSend::NOTHING;
    both.segments(1200);
    both.source(Ipv4Addr::new(192, 0, 2, 1).into(), false);
    let read: Vec<_> =
        Messages { left: both.bytes() }.map(|it| (it.level, it.kind, it.data.to_vec())).collect();
    let pktinfo = joined(&[&[0; 4], &[192, 0, 2, 1], &[0; 4]]);
    let expected = [
        (libc::IPPROTO_UDP, UDP_SEGMENT, 1200_u16.to_ne_bytes().to_vec()),
        (libc::IPPROTO_IP, libc::IP_PKTINFO, pktinfo),
    ];
    assert_eq!(read, expected);
    let mut mapped = ToSend::NOTHING;
    mapped.segments(1);
    mapped.source(Ipv4Addr::new(192, 0, 2, 1).into(), true);
    let read = Ancillary::read(mapped.bytes());
    let address = Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped();
    assert_eq!(read.source, Some(address.into()));
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(control: Vec<u8>) {
        Ancillary::read(&control);
    }

    #[test]
    fn any_messages_are_read_and_none_is_read_beyond_its_buffer(
        messages in prop::collection::vec(
            (0..60_usize, 0..110_i32, prop::collection::vec(any::<u8>(), 0..40)), 0..8,
        ),
        cut in 0..400_usize,
    ) {
        let levels = [libc::IPPROTO_IP, libc::IPPROTO_IPV6, libc::IPPROTO_UDP, libc::SOL_SOCKET];
        let parts: Vec<_> = messages
            .iter()
            .map(|(level, kind, data)| message(levels[*level % 4], *kind, data))
            .collect();
        let whole = parts.concat();
        let cut = &whole[..cut.min(whole.len())];
        let found = Messages { left: cut }.count();
        prop_assert!(found <= messages.len());
        let all: Vec<_> = Messages { left: &whole }.map(|it| it.data.to_vec()).collect();
        let expected: Vec<_> = messages.iter().map(|it| it.2.clone()).collect();
        prop_assert_eq!(all, expected);
        Ancillary::read(cut);
    }
}
