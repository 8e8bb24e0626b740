//! The manifest, which describes the sockets of a hand-over: bytes, without a socket.
//!
//! ```text
//!   a manifest is records        tag u8 · length u32 · as many bytes; numbers are little-endian
//!   a listener begins with       LISTENER: how many sockets it has, u32
//!   datagrams begin with         DATAGRAMS: how many sockets they have, u32, and their features
//!   the other records follow     in any order; a record that is missing means the default
//! ```
//! A record with an unknown tag is skipped, so that a later version can say more. Datagrams come
//! before listeners: a version that does not know them finds no listener for the records behind,
//! and refuses the manifest, since it would lose what is sent to them.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

use netpoll_core::socket::{BindOptions, DatagramFeatures, Keepalive, SocketOptions};

use crate::proxy::{ProxyProtocol, TrustedProxies};
use crate::service::Service;

/// One listener, or one address of datagrams.
#[derive(Debug, Default)]
pub(crate) struct Entry {
    /// How many sockets it has: one, or one for each loop.
    pub(crate) sockets: usize,
    /// What its sockets say beside payloads, if they are for datagrams. Of the service they have
    /// the name alone.
    pub(crate) datagrams: Option<DatagramFeatures>,
    pub(crate) service: Service,
    /// The path that it made, with device and inode.
    pub(crate) file: Option<(PathBuf, (u64, u64))>,
    /// How further sockets on its address are opened, if each loop has one.
    pub(crate) again: Option<SocketOptions>,
}

/// A manifest that says more sockets of one listener is refused.
const SOCKETS_MAX: usize = 4096;

const LISTENER: u8 = 0;
const NAME: u8 = 1;
const MAX_CONNECTIONS: u8 = 2;
const PROXY: u8 = 3;
const FILE: u8 = 4;
/// Three flags: `reuse_address`, `nodelay`, and `only_v6`, which has a third value for "not set".
const AGAIN: u8 = 5;
const BACKLOG: u8 = 6;
const RECEIVE_BUFFER: u8 = 7;
const SEND_BUFFER: u8 = 8;
const KEEPALIVE: u8 = 9;
const DEFER_ACCEPT: u8 = 10;
const FAST_OPEN: u8 = 11;
const DEVICE: u8 = 12;
/// Whether other peers are clients, u8, then the networks, separated by spaces.
const TRUSTED: u8 = 13;

/// It had a filter, which the other process has to set, too.
const FILTER: u8 = 14;
const NOTSENT_LOWAT: u8 = 15;
/// A record of nothing else: it is on.
const FREEBIND: u8 = 16;
/// A record of nothing else: all loops accept on it.
const IDLE_LOOP_ACCEPTS: u8 = 17;

/// Six flags behind the number, of which two have a third value for "not set".
const DATAGRAMS: u8 = 18;

const NOT_SAID: u8 = 2;

/// Writes a manifest. A closure, `before_bind`, cannot be written: its listener is handed over with
/// the sockets that it has, and no further ones are opened.
pub(crate) fn encode(entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::new();
    for entry in entries {
        let sockets = (entry.sockets as u32).to_le_bytes();
        match entry.datagrams {
            Some(it) => record(&mut out, DATAGRAMS, &[&sockets[..], &flags_of(it)].concat()),
            None => record(&mut out, LISTENER, &sockets),
        }
        if let Some(name) = &entry.service.name {
            record(&mut out, NAME, name.as_bytes());
        }
        if let Some(connections) = entry.service.max_connections {
            numbers(&mut out, MAX_CONNECTIONS, [connections as u64]);
        }
        if let Some(ProxyProtocol { deadline, limit, trusted }) = &entry.service.proxy {
            numbers(&mut out, PROXY, [millis(*deadline), *limit as u64]);
            if let Some(trusted) = trusted {
                let flag = [trusted.are_others_clients().into()];
                record(&mut out, TRUSTED, &[&flag, trusted.to_string().as_bytes()].concat());
            }
        }
        if entry.service.filter.is_some() || entry.service.needs_filter {
            record(&mut out, FILTER, &[]);
        }
        if entry.service.idle_loop_accepts {
            record(&mut out, IDLE_LOOP_ACCEPTS, &[]);
        }
        if let Some((path, (device, inode))) = &entry.file {
            let identity = [device.to_le_bytes(), inode.to_le_bytes()].concat();
            record(&mut out, FILE, &[&identity, path.as_os_str().as_bytes()].concat());
        }
        match &entry.again {
            Some(options) if options.bind.before_bind.is_none() => {
                encode_options(&mut out, options);
            }
            _ => {}
        }
    }
    out
}

fn encode_options(out: &mut Vec<u8>, options: &SocketOptions) {
    let only_v6 = options.bind.only_v6.map_or(NOT_SAID, u8::from);
    record(out, AGAIN, &[options.bind.reuse_address.into(), options.nodelay.into(), only_v6]);
    let mut number = |tag, value: Option<u64>| {
        if let Some(value) = value {
            numbers(out, tag, [value]);
        }
    };
    number(BACKLOG, options.backlog.map(u64::from));
    number(RECEIVE_BUFFER, options.bind.receive_buffer.map(|it| it as u64));
    number(SEND_BUFFER, options.bind.send_buffer.map(|it| it as u64));
    number(NOTSENT_LOWAT, options.notsent_lowat.map(|it| it as u64));
    number(DEFER_ACCEPT, options.defer_accept.map(|it| it.as_secs()));
    number(FAST_OPEN, options.fast_open.map(u64::from));
    if let Some(Keepalive { idle, interval, count }) = options.keepalive {
        numbers(out, KEEPALIVE, [idle.as_secs(), interval.as_secs(), count.into()]);
    }
    if options.bind.freebind {
        record(out, FREEBIND, &[]);
    }
    if let Some(device) = &options.bind.device {
        record(out, DEVICE, device.as_bytes());
    }
}

fn flags_of(features: DatagramFeatures) -> [u8; 6] {
    let or_not_said = |it: Option<bool>| it.map_or(NOT_SAID, u8::from);
    [
        features.receive_joined.into(),
        features.send_joined.into(),
        features.receive_tos.into(),
        features.timestamps.into(),
        or_not_said(features.packet_info),
        or_not_said(features.errors),
    ]
}

fn features_in(flags: &[u8]) -> Option<DatagramFeatures> {
    let &[receive_joined, send_joined, receive_tos, timestamps, packet_info, errors] =
        flags.first_chunk()?;
    let said = |flag| (flag != NOT_SAID).then_some(flag != 0);
    Some(DatagramFeatures {
        receive_joined: receive_joined != 0,
        send_joined: send_joined != 0,
        packet_info: said(packet_info),
        receive_tos: receive_tos != 0,
        timestamps: timestamps != 0,
        errors: said(errors),
    })
}

/// Reads a manifest; `None` if the bytes can't be one.
pub(crate) fn decode(mut bytes: &[u8]) -> Option<Vec<Entry>> {
    let mut entries: Vec<Entry> = Vec::new();
    while let Some((&[tag], rest)) = bytes.split_first_chunk() {
        let (length, rest) = rest.split_first_chunk()?;
        let (value, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        bytes = rest;
        if tag == LISTENER || tag == DATAGRAMS {
            let (sockets, flags) = value.split_first_chunk()?;
            let sockets = u32::from_le_bytes(*sockets) as usize;
            if sockets == 0 || sockets > SOCKETS_MAX {
                return None;
            }
            let datagrams = if tag == DATAGRAMS { Some(features_in(flags)?) } else { None };
            entries.push(Entry { sockets, datagrams, ..Entry::default() });
        } else {
            decode_record(entries.last_mut()?, tag, value)?;
        }
    }
    Some(entries)
}

fn decode_record(entry: &mut Entry, tag: u8, value: &[u8]) -> Option<()> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
    let [first, second, third] = [0, 8, 16].map(|at| number_at(value, at));
    // The socket options stand behind the record AGAIN.
    let options = entry.again.as_mut();
    match tag {
        NAME => entry.service.name = Some(text(value)?),
        MAX_CONNECTIONS => entry.service.max_connections = Some(usize::try_from(first?).ok()?),
        PROXY => {
            let deadline = Duration::from_millis(first?);
            let limit = usize::try_from(second?).ok()?;
            entry.service.proxy = Some(ProxyProtocol { deadline, limit, trusted: None });
        }
        TRUSTED => entry.service.proxy.as_mut()?.trusted = Some(trusted(value)?),
        FILTER => entry.service.needs_filter = true,
        IDLE_LOOP_ACCEPTS => entry.service.idle_loop_accepts = true,
        FILE => {
            let path = OsString::from_vec(value.get(16..)?.to_vec());
            entry.file = Some((path.into(), (first?, second?)));
        }
        AGAIN => {
            let &[reuse_address, nodelay, only_v6] = value.first_chunk()?;
            let bind = BindOptions {
                reuse_address: reuse_address != 0,
                reuse_port: true,
                only_v6: (only_v6 != NOT_SAID).then_some(only_v6 != 0),
                ..BindOptions::default()
            };
            let nodelay = nodelay != 0;
            entry.again = Some(SocketOptions { bind, nodelay, ..SocketOptions::default() });
        }
        BACKLOG => options?.backlog = u32::try_from(first?).ok(),
        RECEIVE_BUFFER => options?.bind.receive_buffer = usize::try_from(first?).ok(),
        SEND_BUFFER => options?.bind.send_buffer = usize::try_from(first?).ok(),
        NOTSENT_LOWAT => options?.notsent_lowat = usize::try_from(first?).ok(),
        FREEBIND => options?.bind.freebind = true,
        DEFER_ACCEPT => options?.defer_accept = Some(Duration::from_secs(first?)),
        FAST_OPEN => options?.fast_open = u32::try_from(first?).ok(),
        KEEPALIVE => {
            let [idle, interval] = [first?, second?].map(Duration::from_secs);
            let count = u32::try_from(third?).ok()?;
            options?.keepalive = Some(Keepalive { idle, interval, count });
        }
        DEVICE => options?.bind.device = Some(text(value)?),
        _ => {}
    }
    Some(())
}

fn trusted(value: &[u8]) -> Option<TrustedProxies> {
    let (&others_are_clients, networks) = value.split_first()?;
    let trusted = TrustedProxies::new(str::from_utf8(networks).ok()?.split(' ')).ok()?;
    Some(if others_are_clients == 0 { trusted } else { trusted.others_are_clients() })
}

fn record(out: &mut Vec<u8>, tag: u8, value: &[u8]) {
    out.push(tag);
    out.extend((value.len() as u32).to_le_bytes());
    out.extend(value);
}

fn numbers<const N: usize>(out: &mut Vec<u8>, tag: u8, values: [u64; N]) {
    record(out, tag, &values.map(u64::to_le_bytes).concat());
}

fn number_at(value: &[u8], at: usize) -> Option<u64> {
    value.get(at..)?.first_chunk().map(|it| u64::from_le_bytes(*it))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::{any, proptest};

    use super::*;

    fn entries() -> [Entry; 3] {
        let keepalive =
            Keepalive { idle: Duration::from_secs(7), interval: Duration::from_secs(3), count: 5 };
        let bind = BindOptions {
            reuse_port: true,
            only_v6: Some(true),
            receive_buffer: Some(1 << 16),
            send_buffer: Some(1 << 17),
            freebind: true,
            device: Some("lo".to_owned()),
            ..BindOptions::default()
        };
        let options = SocketOptions {
            bind,
            backlog: Some(9),
            nodelay: false,
            notsent_lowat: Some(1 << 14),
            keepalive: Some(keepalive),
            defer_accept: Some(Duration::from_secs(2)),
            fast_open: Some(16),
        };
        let networks = TrustedProxies::new(["10.0.0.0/8", "::1", "unix"]).expect("networks");
        let trusted = Some(networks.others_are_clients());
        let proxy = ProxyProtocol { deadline: Duration::MAX, limit: usize::MAX, trusted };
        let service = Service {
            name: Some("two\nlines".to_owned()),
            max_connections: Some(usize::MAX),
            proxy: Some(proxy),
            filter: None,
            needs_filter: true,
            idle_loop_accepts: true,
        };
        let path = OsString::from_vec(b"/run/\xff\n".to_vec());
        let features = DatagramFeatures {
            receive_joined: false,
            packet_info: Some(true),
            timestamps: true,
            ..DatagramFeatures::default()
        };
        [
            Entry {
                sockets: 3,
                service,
                file: Some((path.into(), (1, u64::MAX))),
                ..Entry::default()
            },
            Entry { sockets: 1, again: Some(options), ..Entry::default() },
            Entry { sockets: 2, datagrams: Some(features), ..Entry::default() },
        ]
    }

    #[test]
    fn all_that_is_said_is_understood() {
        let entries = entries();
        let heard = decode(&encode(&entries)).expect("a manifest");
        assert_eq!(heard[0].sockets, 3);
        assert_eq!(heard[0].service.name, entries[0].service.name);
        assert_eq!(heard[0].service.max_connections, Some(usize::MAX));
        let [heard_proxy, said] = [&heard[..], &entries[..]].map(|it| it[0].service.proxy.clone());
        let (heard_proxy, said) = (heard_proxy.expect("said"), said.expect("said"));
        assert_eq!(heard_proxy.deadline, Duration::from_millis(u64::MAX));
        assert_eq!((heard_proxy.limit, heard_proxy.trusted), (usize::MAX, said.trusted));
        assert!(heard[0].service.needs_filter && !heard[1].service.needs_filter);
        let idle: Vec<_> = heard.iter().map(|it| it.service.idle_loop_accepts).collect();
        assert_eq!(idle, [true, false, false]);
        assert_eq!(heard[0].file, entries[0].file);
        assert!(heard[0].again.is_none() && heard[1].service.name.is_none());
        let (heard, said) = (heard[1].again.as_ref(), entries[1].again.as_ref());
        let (heard, said) = (heard.expect("said"), said.expect("said"));
        assert_eq!(heard.keepalive, said.keepalive);
        let (bind, said_bind) = (&heard.bind, &said.bind);
        assert_eq!(bind.device, said_bind.device);
        let flags = |it: &BindOptions| (it.reuse_address, it.reuse_port, it.only_v6, it.freebind);
        assert_eq!(flags(bind), flags(said_bind));
        assert_eq!((heard.nodelay, heard.notsent_lowat), (false, Some(1 << 14)));
        let sizes = |it: &BindOptions| (it.receive_buffer, it.send_buffer);
        assert_eq!((sizes(bind), heard.backlog), (sizes(said_bind), said.backlog));
        assert_eq!((heard.defer_accept, heard.fast_open), (said.defer_accept, said.fast_open));
    }

    #[test]
    fn what_datagrams_say_beside_payloads_is_understood() {
        let heard = decode(&encode(&entries())).expect("a manifest");
        assert_eq!((heard[2].sockets, heard[2].datagrams), (2, entries()[2].datagrams));
        assert!(heard[2].datagrams.is_some() && heard[0].datagrams.is_none());
        for cut in [1, 6] {
            let mut bytes = Vec::new();
            record(&mut bytes, DATAGRAMS, &[1, 0, 0, 0, 1, 1, 1, 1, 2, 2][..10 - cut]);
            assert!(decode(&bytes).is_none(), "its flags are cut off");
        }
    }

    /// A version that knows no datagrams would lose what is sent to them.
    #[test]
    fn datagrams_first_are_refused_by_a_version_that_does_not_know_them() {
        let mut bytes = Vec::new();
        record(&mut bytes, 200, b"what a later version begins with");
        assert!(decode(&bytes).is_none());
    }

    #[test]
    fn what_only_a_later_version_says_is_skipped() {
        let mut bytes = encode(&entries());
        record(&mut bytes, 200, b"news");
        assert_eq!(decode(&bytes).expect("a manifest").len(), 3);
        assert!(decode(&bytes[..bytes.len() - 1]).is_none(), "it is cut off");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(mut noise in vec(any::<u8>(), 0..64), cut in 0_usize..200) {
            let _ = decode(&noise);
            let mut bytes = encode(&entries());
            bytes.truncate(cut);
            bytes.append(&mut noise);
            let _ = decode(&bytes);
        }
    }
}
