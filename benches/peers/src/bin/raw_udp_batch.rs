//! Datagrams in batches by hand: `recvmmsg` with GRO, and answers that are merged into GSO trains
//! and leave in one `sendmmsg`. What a framework for datagrams could reach.
//!
//! ```text
//!   slots     [ 64 KiB | 64 KiB | ... ]   a datagram each, or a train of equal ones (GRO)
//!   answers   one for each slot; consecutive ones of a peer and a size are one message (GSO)
//! ```
//!
//! `--control few` asks for the size of trains and for the local address, which answers are sent
//! from; `--control all` for the type of service and for what was dropped, too.

#![expect(unsafe_code, reason = "the kernel is handed pointers to buffers")]

use std::mem::{self, MaybeUninit};
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::ptr;
use std::thread;

use libc::{c_int, c_uint, c_void, cmsghdr, iovec, mmsghdr, msghdr, sockaddr_in};
use netpoll_peers::{Arguments, Serve, Sink};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::{self, Errno};

/// Packets that one call receives. More do not help: 16 trains are a megabyte.
const SLOTS: usize = 16;
/// A train has no more bytes than a packet.
const SLOT: usize = 64 << 10;
/// Bytes of control messages for each packet.
const CONTROL: usize = 256;
/// Datagrams of one message (6.9 and later), and its bytes.
const SEGMENTS_MAX: usize = 128;
const MESSAGE_MAX: usize = 65_507;

static SINK: Sink = Sink::new();

/// Aligned as the kernel's headers of control messages are.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; CONTROL]);

/// What came in one slot.
#[derive(Clone, Copy)]
struct Packet {
    slot: usize,
    length: usize,
    /// Of each datagram but the last, which may be shorter.
    size: usize,
    local: Option<libc::in_addr>,
}

/// One message to send: some of the packets, in order.
#[derive(Clone, Copy)]
struct Merged {
    first: Packet,
    packets: usize,
    length: usize,
}

struct Loop {
    epoll: OwnedFd,
    socket: UdpSocket,
    serve: Serve,
    slots: Vec<u8>,
    peers: [sockaddr_in; SLOTS],
    controls: [Control; SLOTS],
    parts: [iovec; SLOTS],
    messages: [mmsghdr; SLOTS],
    packets: Vec<Packet>,
    merged: Vec<Merged>,
}

fn main() {
    let arguments = Arguments::read(&[Serve::OPTION, "--control"]);
    let serve = Serve::of(&arguments);
    let all = arguments.choice("--control", &[("few", false), ("all", true)]);
    let sockets = arguments.bind_on_each().into_iter();
    let threads = sockets.map(|socket| thread::spawn(move || Loop::new(socket, serve, all).run()));
    for thread in threads.collect::<Vec<_>>() {
        thread.join().expect("a loop does not panic").expect("it waits for ever");
    }
}

impl Loop {
    fn new(socket: UdpSocket, serve: Serve, all: bool) -> Self {
        socket.set_nonblocking(true).expect("a socket has this option");
        set(&socket, libc::SOL_UDP, libc::UDP_GRO);
        set(&socket, libc::IPPROTO_IP, libc::IP_PKTINFO);
        if all {
            set(&socket, libc::IPPROTO_IP, libc::IP_RECVTOS);
            set(&socket, libc::SOL_SOCKET, libc::SO_RXQ_OVFL);
        }
        let epoll = epoll::create(CreateFlags::CLOEXEC).expect("a descriptor");
        let watched = epoll::add(&epoll, &socket, EventData::new_u64(0), EventFlags::IN);
        watched.expect("epoll takes a socket");
        // SAFETY: all of these are plain structures of C, for which zeros are a value.
        let (peers, parts, messages) = unsafe { zeroed() };
        Self {
            epoll,
            socket,
            serve,
            slots: vec![0; SLOTS * SLOT],
            peers,
            controls: [Control([0; CONTROL]); SLOTS],
            parts,
            messages,
            packets: Vec::with_capacity(SLOTS),
            merged: Vec::with_capacity(SLOTS),
        }
    }

    fn run(mut self) -> io::Result<()> {
        let mut events: Vec<Event> = Vec::with_capacity(1);
        loop {
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
            while self.receive() == SLOTS {
                self.handle();
            }
            self.handle();
        }
    }

    /// Receives what has come into the slots: how many packets. Fewer than all means that no more
    /// was there.
    fn receive(&mut self) -> usize {
        self.packets.clear();
        for slot in 0..SLOTS {
            let base = self.slots[slot * SLOT..].as_mut_ptr().cast::<c_void>();
            self.parts[slot] = iovec { iov_base: base, iov_len: SLOT };
            self.messages[slot].msg_hdr = self.header(slot, CONTROL);
            self.messages[slot].msg_hdr.msg_iov = &raw mut self.parts[slot];
            self.messages[slot].msg_hdr.msg_iovlen = 1;
        }
        let (fd, flags) = (self.socket.as_raw_fd(), libc::MSG_DONTWAIT);
        // SAFETY: each header points to an address, a part and a control buffer of `self`, which
        // are not touched before the call returns; it keeps none.
        let count = unsafe {
            libc::recvmmsg(fd, self.messages.as_mut_ptr(), SLOTS as c_uint, flags, ptr::null_mut())
        };
        // Nothing there, an interrupt, or what was sent to a peer that has gone is refused.
        let count = usize::try_from(count).unwrap_or(0);
        for slot in 0..count {
            let length = self.messages[slot].msg_len as usize;
            let (size, local) = self.control_of(slot);
            let size = size.filter(|&size| size > 0).unwrap_or(length);
            self.packets.push(Packet { slot, length, size, local });
        }
        count
    }

    /// A header for a slot's peer and control messages, without a part.
    fn header(&mut self, slot: usize, control: usize) -> msghdr {
        // SAFETY: it is a plain structure of C, for which zeros are a value.
        let mut header: msghdr = unsafe { mem::zeroed() };
        header.msg_name = (&raw mut self.peers[slot]).cast();
        header.msg_namelen = mem::size_of::<sockaddr_in>() as u32;
        header.msg_control = (&raw mut self.controls[slot].0).cast();
        header.msg_controllen = control;
        header
    }

    /// The size of a train's datagrams, and the address that it came to.
    fn control_of(&self, slot: usize) -> (Option<usize>, Option<libc::in_addr>) {
        let header = &self.messages[slot].msg_hdr;
        let (mut size, mut local) = (None, None);
        // SAFETY: the kernel has filled the header's control buffer, and has set its length.
        let mut message = unsafe { libc::CMSG_FIRSTHDR(header) };
        while !message.is_null() {
            // SAFETY: the macros return headers within the buffer, which lives in `self`.
            let found = unsafe { *message };
            // SAFETY: as above; what follows a header is its data, of its type.
            let data = unsafe { libc::CMSG_DATA(message) };
            match (found.cmsg_level, found.cmsg_type) {
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    // SAFETY: the kernel puts an int there.
                    let value = unsafe { ptr::read_unaligned(data.cast::<c_int>()) };
                    size = usize::try_from(value).ok();
                }
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    // SAFETY: the kernel puts this structure there.
                    let value = unsafe { ptr::read_unaligned(data.cast::<libc::in_pktinfo>()) };
                    local = Some(value.ipi_spec_dst);
                }
                _ => {}
            }
            // SAFETY: as for the first one.
            message = unsafe { libc::CMSG_NXTHDR(header, message) };
        }
        (size, local)
    }

    fn handle(&mut self) {
        match self.serve {
            Serve::Echo => self.echo(),
            Serve::Sink => self.count(),
        }
    }

    fn count(&mut self) {
        let (mut datagrams, mut bytes) = (0, 0);
        for packet in &self.packets {
            let payload = &self.slots[packet.slot * SLOT..][..packet.length];
            if SINK.is_asked(payload) {
                SINK.add(mem::take(&mut datagrams), mem::take(&mut bytes));
                let answer = SINK.count();
                let peer = std::net::SocketAddrV4::new(
                    u32::from_be(self.peers[packet.slot].sin_addr.s_addr).into(),
                    u16::from_be(self.peers[packet.slot].sin_port),
                );
                let _ = self.socket.send_to(&answer, peer);
            } else {
                datagrams += packet.length.div_ceil(packet.size.max(1)) as u64;
                bytes += packet.length as u64;
            }
        }
        SINK.add(datagrams, bytes);
        self.packets.clear();
    }

    /// Sends all packets back, in as few messages as they merge into.
    fn echo(&mut self) {
        self.merge();
        for index in 0..self.merged.len() {
            let Merged { first, packets, length } = self.merged[index];
            let control = self.write_control(first, length > first.size);
            let mut header = self.header(first.slot, control);
            header.msg_iov = &raw mut self.parts[first.slot];
            header.msg_iovlen = packets;
            self.messages[index].msg_hdr = header;
        }
        self.send();
        self.packets.clear();
    }

    fn merge(&mut self) {
        self.merged.clear();
        let mut last_is_whole = false;
        for packet in &self.packets {
            let Packet { slot, length, size, .. } = *packet;
            self.parts[slot].iov_len = length;
            let fits = self.merged.last().is_some_and(|merged| {
                let first = merged.first;
                let whole = merged.length + length;
                let same = same_peer(&self.peers[first.slot], &self.peers[slot]);
                let segments = whole.div_ceil(first.size.max(1));
                let size_fits = size == first.size || (length == size && size < first.size);
                let small = whole <= MESSAGE_MAX && segments <= SEGMENTS_MAX;
                last_is_whole && same && size_fits && small && length > 0
            });
            if let (true, Some(merged)) = (fits, self.merged.last_mut()) {
                merged.packets += 1;
                merged.length += length;
                last_is_whole = merged.length % merged.first.size == 0;
            } else {
                self.merged.push(Merged { first: *packet, packets: 1, length });
                last_is_whole = size > 0 && length % size == 0;
            }
        }
    }

    /// The control messages of an answer: how many bytes.
    fn write_control(&mut self, first: Packet, is_train: bool) -> usize {
        let buffer = &mut self.controls[first.slot].0;
        let mut used = 0;
        if let Some(local) = first.local {
            let mut info = MaybeUninit::<libc::in_pktinfo>::zeroed();
            // SAFETY: zeros are a value of it.
            unsafe { info.assume_init_mut() }.ipi_spec_dst = local;
            used += put(&mut buffer[used..], libc::IPPROTO_IP, libc::IP_PKTINFO, info);
        }
        if is_train {
            let size = MaybeUninit::new(first.size as u16);
            used += put(&mut buffer[used..], libc::SOL_UDP, libc::UDP_SEGMENT, size);
        }
        used
    }

    /// What the socket does not take is dropped, as a network would.
    fn send(&mut self) {
        let (fd, flags) = (self.socket.as_raw_fd(), libc::MSG_DONTWAIT);
        match self.merged.len() {
            0 => {}
            1 => {
                // SAFETY: the header points to what `self` has, and the call keeps nothing.
                unsafe { libc::sendmsg(fd, &self.messages[0].msg_hdr, flags) };
            }
            count => self.send_all(fd, count),
        }
    }

    fn send_all(&mut self, fd: RawFd, count: usize) {
        let mut sent = 0;
        while sent < count {
            let rest = &mut self.messages[sent..count];
            // SAFETY: the headers point to what `self` has, and the call keeps nothing.
            let taken = unsafe {
                libc::sendmmsg(fd, rest.as_mut_ptr(), rest.len() as c_uint, libc::MSG_DONTWAIT)
            };
            // It stops at a message that it does not take, which is left out.
            sent += usize::try_from(taken).unwrap_or(0).max(1);
        }
    }
}

fn same_peer(one: &sockaddr_in, other: &sockaddr_in) -> bool {
    one.sin_port == other.sin_port && one.sin_addr.s_addr == other.sin_addr.s_addr
}

/// Writes a control message: how many bytes it takes.
fn put<T>(buffer: &mut [u8], level: c_int, kind: c_int, value: MaybeUninit<T>) -> usize {
    let size = mem::size_of::<T>() as c_uint;
    // SAFETY: these compute sizes.
    let (length, space) = unsafe { (libc::CMSG_LEN(size), libc::CMSG_SPACE(size)) };
    assert!(buffer.len() >= space as usize, "the buffer has room for all of them");
    let header = cmsghdr { cmsg_len: length as usize, cmsg_level: level, cmsg_type: kind };
    let data = (length - size) as usize;
    // SAFETY: the buffer has room, as was asserted.
    unsafe { ptr::write_unaligned(buffer.as_mut_ptr().cast(), header) };
    // SAFETY: as above, behind the header.
    unsafe { ptr::write_unaligned(buffer[data..].as_mut_ptr().cast(), value) };
    space as usize
}

fn set(socket: &UdpSocket, level: c_int, option: c_int) {
    let on: c_int = 1;
    let size = mem::size_of::<c_int>() as u32;
    // SAFETY: the option is an int, which outlives the call.
    let done = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const on).cast(), size)
    };
    assert_eq!(done, 0, "a socket has this option");
}

type Zeroed = ([sockaddr_in; SLOTS], [iovec; SLOTS], [mmsghdr; SLOTS]);

/// # Safety
///
/// Zeros are a value of each of these, which are plain structures of C.
unsafe fn zeroed() -> Zeroed {
    // SAFETY: said above.
    unsafe { mem::zeroed() }
}
