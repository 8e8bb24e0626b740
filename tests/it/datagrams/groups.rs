//! What is sent to several hosts: multicast and broadcast, which one loop serves once.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use netpoll::{DatagramBatch, DatagramOptions, Datagrams, Dispatch, Running};
use socket2::SockRef;

use super::{heard, inet, serve};
use crate::util::{Journal, PATIENCE};

const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// A server that notes what it gets, with the address that it was sent to.
fn noting(options: &DatagramOptions, loops: usize, journal: &Journal) -> Running {
    let journal = journal.clone();
    let socket = options.bind("udp4", "0.0.0.0:0").expect("a port");
    let server = socket.on_datagrams(move |(): &mut (), batch: &DatagramBatch<'_>| {
        for datagram in batch {
            let text = String::from_utf8_lossy(datagram.payload()).into_owned();
            journal.add(format!("{text} at {}", datagram.local().expect("it is known")));
            datagram.reply(b"seen")?;
        }
        Ok(())
    });
    serve(Dispatch::Inline, loops, server)
}

fn sender() -> UdpSocket {
    let sender = UdpSocket::bind((LOOPBACK, 0)).expect("a port");
    SockRef::from(&sender).set_multicast_if_v4(&LOOPBACK).expect("an option");
    sender.set_broadcast(true).expect("an option");
    sender.set_read_timeout(Some(PATIENCE)).expect("an option");
    sender
}

fn port_of(running: &Running) -> u16 {
    inet(running).port()
}

#[test]
fn what_is_sent_to_a_group_is_served_once_and_answered_from_an_own_address() {
    let group = Ipv4Addr::new(239, 255, 77, 1);
    let journal = Journal::default();
    let running = noting(&Datagrams::options().join(group.into(), "lo"), 4, &journal);
    let sender = sender();
    for number in 0..8 {
        let to = SocketAddr::from((group, port_of(&running)));
        sender.send_to(format!("{number}").as_bytes(), to).expect("a route");
        assert_eq!(heard(&sender), b"seen");
    }
    // What is sent to this host alone comes behind, on whichever loop.
    sender.send_to(b"last", (LOOPBACK, port_of(&running))).expect("a route");
    assert_eq!(heard(&sender), b"seen");
    let mut expected: Vec<_> = (0..8).map(|it| format!("{it} at {group}")).collect();
    expected.push("last at 127.0.0.1".to_owned());
    assert_eq!(journal.entries(), expected);
}

#[test]
fn what_is_broadcast_is_served_once() {
    let journal = Journal::default();
    let running = noting(&Datagrams::options(), 4, &journal);
    let sender = sender();
    let everywhere = Ipv4Addr::new(127, 255, 255, 255);
    for number in 0..8 {
        let to = (everywhere, port_of(&running));
        sender.send_to(format!("{number}").as_bytes(), to).expect("an option");
        assert_eq!(heard(&sender), b"seen");
    }
    assert_eq!(journal.len(), 8, "{:?}", journal.entries());
}

/// By the system's default the second one would get it, too.
#[test]
fn a_socket_gets_nothing_of_groups_that_others_have_joined() {
    let group = Ipv4Addr::new(239, 255, 77, 2);
    let (members, others) = (Journal::default(), Journal::default());
    let member = Datagrams::options().reuse_address(true).join(group.into(), "lo");
    let member = noting(&member, 1, &members);
    let port = port_of(&member);
    let beside = Datagrams::options().reuse_address(true).reuse_port(false);
    let socket = beside.bind("udp4", &format!("0.0.0.0:{port}")).expect("they share");
    let seen = others.clone();
    let other = serve(
        Dispatch::Inline,
        1,
        socket.on_datagrams(move |(): &mut (), batch: &DatagramBatch<'_>| {
            batch.iter().for_each(|it| seen.add(String::from_utf8_lossy(it.payload())));
            Ok(())
        }),
    );
    let sender = sender();
    sender.send_to(b"to the group", (group, port)).expect("a route");
    members.wait(1);
    // The socket that was bound last gets what is for one host, behind what came before.
    sender.send_to(b"to one host", (LOOPBACK, port)).expect("a route");
    assert_eq!(others.wait(1), ["to one host"]);
    drop((member, other));
}

#[test]
fn a_membership_begins_and_ends_while_the_socket_is_bound() {
    let group = IpAddr::from([239, 255, 77, 3]);
    let socket = Datagrams::bind("udp4", "0.0.0.0:0").expect("a port");
    socket.join(group, "lo").expect("a member");
    assert!(socket.join(group, "lo").is_err(), "it is one already");
    socket.leave(group, "lo").expect("it was one");
    let refused = socket.join([192, 0, 2, 1].into(), None).expect_err("no group");
    assert!(refused.to_string().contains("no multicast group"), "{refused}");
}
