//! Names of sockets as the kernel writes them, and what each errno means.

use proptest::prelude::*;

use super::*;

fn inet(text: &str) -> Address {
    Address::Inet(text.parse().expect("an address"))
}

#[test]
fn an_address_is_written_as_the_kernel_reads_it() {
    let addresses = [
        inet("192.0.2.1:53"),
        inet("[2001:db8::1]:65535"),
        Address::Inet(SocketAddrV6::new(Ipv6Addr::LOCALHOST, 1, 0x0a_0b0c, 3).into()),
        Address::unix("/run/a.sock"),
        Address::unix("@name"),
        Address::Abstract(b"with\0zeros\0"[..].into()),
    ];
    for address in addresses {
        let name = Name::of(&address).expect("a name");
        assert_eq!(address_of(name.bytes()), address);
        let raw: socket2::SockAddr = match &address {
            Address::Inet(inet) => (*inet).into(),
            other => super::super::binding::raw_address(other).expect("an address"),
        };
        assert_eq!(raw.len() as usize, name.bytes().len(), "{address}");
    }
}

#[test]
fn a_name_that_no_socket_can_have_is_refused() {
    let long = "x".repeat(109);
    for text in ["", &long, &format!("@{long}"), "a\0b"] {
        assert!(Name::of(&Address::unix(text)).is_err(), "{text:?}");
    }
    assert!(Name::of(&Address::Unnamed).is_err());
    assert!(Name::of(&Address::unix(&long[..107])).is_ok());
    assert!(Name::of(&Address::Abstract(long.as_bytes()[..107].into())).is_ok());
}

#[test]
fn each_errno_of_a_send_has_its_refusal() {
    let of = |errno, in_segments, connected| {
        refusal(&io::Error::from_raw_os_error(errno), in_segments, connected)
    };
    for (errno, plain, in_segments, connected) in [
        (libc::EAGAIN, Refusal::Full, Refusal::Full, Refusal::Full),
        (libc::EIO, Refusal::OfThis, Refusal::NoSegments, Refusal::OfThis),
        (libc::EMSGSIZE, Refusal::OfThis, Refusal::OneByOne, Refusal::OfAnother),
        (libc::EINVAL, Refusal::OfThis, Refusal::OneByOne, Refusal::OfThis),
        (libc::ECONNREFUSED, Refusal::OfThis, Refusal::OfThis, Refusal::OfAnother),
        (libc::EHOSTUNREACH, Refusal::OfThis, Refusal::OfThis, Refusal::OfAnother),
        (libc::ENETUNREACH, Refusal::OfThis, Refusal::OfThis, Refusal::OfAnother),
        (libc::EPERM, Refusal::OfThis, Refusal::OfThis, Refusal::OfThis),
        (libc::ENOBUFS, Refusal::OfThis, Refusal::OfThis, Refusal::OfThis),
        (libc::ENOMEM, Refusal::OfThis, Refusal::OfThis, Refusal::OfThis),
        (libc::EADDRNOTAVAIL, Refusal::OfThis, Refusal::OfThis, Refusal::OfThis),
        (libc::EPIPE, Refusal::OfThis, Refusal::OfThis, Refusal::OfThis),
    ] {
        let found = (of(errno, false, false), of(errno, true, false), of(errno, false, true));
        assert_eq!(found, (plain, in_segments, connected), "errno {errno}");
    }
}

#[test]
fn each_errno_of_a_receive_has_its_failure() {
    for (errno, expected) in [
        (libc::EAGAIN, Failure::Drained),
        (libc::ENOSYS, Failure::NotInBatches),
        (libc::ECONNREFUSED, Failure::OfSent),
        (libc::EHOSTUNREACH, Failure::OfSent),
        (libc::EMSGSIZE, Failure::OfSent),
        (libc::ENOMEM, Failure::ForNow),
        (libc::ENOBUFS, Failure::ForNow),
        (libc::EPERM, Failure::ForNow),
    ] {
        assert_eq!(failure(&io::Error::from_raw_os_error(errno)), expected, "errno {errno}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_as_a_name_without_a_panic(name: Vec<u8>) {
        address_of(&name);
    }

    #[test]
    fn any_name_of_a_family_is_read(
        family in prop::sample::select(vec![libc::AF_INET, libc::AF_INET6, libc::AF_UNIX, 77]),
        rest in prop::collection::vec(any::<u8>(), 0..120),
    ) {
        let family = libc::sa_family_t::try_from(family).expect("it is small");
        let mut name = family.to_ne_bytes().to_vec();
        name.extend(&rest);
        let address = address_of(&name);
        if address.inet().is_some() {
            prop_assert_eq!(address_of(Name::of(&address).unwrap().bytes()), address);
        }
    }
}
