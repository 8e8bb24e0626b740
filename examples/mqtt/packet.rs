//! Packets: cut out of the input, taken apart, and put together.

use std::io::{Error as IoError, ErrorKind};

use netpoll::{Bytes, Reader, Result};

/// The largest packet, in bytes.
pub(crate) const PACKET_MAX: usize = 128 << 10;
/// A length is a number of at most so many bytes, seven bits in each.
const LENGTH_WIDTH_MAX: usize = 4;

pub(crate) const CONNECT: u8 = 1;
pub(crate) const CONNACK: u8 = 2;
pub(crate) const PUBLISH: u8 = 3;
pub(crate) const PUBACK: u8 = 4;
pub(crate) const SUBSCRIBE: u8 = 8;
pub(crate) const SUBACK: u8 = 9;
pub(crate) const UNSUBSCRIBE: u8 = 10;
pub(crate) const UNSUBACK: u8 = 11;
pub(crate) const PINGREQ: u8 = 12;
pub(crate) const PINGRESP: u8 = 13;
pub(crate) const DISCONNECT: u8 = 14;

/// One packet, lent out of the input.
#[derive(Clone, Copy)]
pub(crate) struct Packet<'a> {
    pub(crate) kind: u8,
    /// The lower half of the first byte.
    pub(crate) flags: u8,
    pub(crate) body: Fields<'a>,
}

/// The next packet; `WouldBlock` while it has not arrived whole: then nothing of it is consumed.
pub(crate) fn next<'a>(reader: &'a mut Reader<'_>) -> Result<Packet<'a>> {
    let (mut length, mut width) = (0, 0);
    loop {
        width += 1;
        let byte = reader.try_peek(1 + width)?[width];
        length |= usize::from(byte & 0x7f) << (7 * (width - 1));
        if byte & 0x80 == 0 {
            break;
        }
        if width == LENGTH_WIDTH_MAX {
            return Err(malformed("a length of five bytes"));
        }
    }
    if length > PACKET_MAX {
        return Err(malformed("a packet that is too long"));
    }
    let packet = reader.try_next(1 + width + length)?;
    let (kind, flags) = (packet[0] >> 4, packet[0] & 0x0f);
    Ok(Packet { kind, flags, body: Fields(&packet[1 + width..]) })
}

/// What a client sent that is no packet; it ends the connection.
pub(crate) fn malformed(what: &str) -> netpoll::Error {
    IoError::new(ErrorKind::InvalidData, what).into()
}

/// What is left of a packet. A field is `None` where the packet is too short for it.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn byte(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    pub(crate) fn number(&mut self) -> Option<u16> {
        let bytes = self.take(2)?;
        Some(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// A length, and so many bytes.
    pub(crate) fn data(&mut self) -> Option<&'a [u8]> {
        let length = self.number()?;
        self.take(length.into())
    }

    /// The same, which must be UTF-8 without a null.
    pub(crate) fn text(&mut self) -> Option<&'a str> {
        let text = str::from_utf8(self.data()?).ok()?;
        (!text.contains('\0')).then_some(text)
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }
}

/// A packet that is short.
pub(crate) fn short(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![kind << 4];
    put_length(&mut packet, body.len());
    packet.extend_from_slice(body);
    packet
}

/// A message for a subscriber; `id` is there for `QoS` 1.
pub(crate) fn publish(topic: &str, payload: &[u8], id: Option<u16>, is_retained: bool) -> Bytes {
    let length = 2 + topic.len() + if id.is_some() { 2 } else { 0 } + payload.len();
    let mut packet = Vec::with_capacity(1 + LENGTH_WIDTH_MAX + length);
    packet.push(PUBLISH << 4 | u8::from(id.is_some()) << 1 | u8::from(is_retained));
    put_length(&mut packet, length);
    packet.extend_from_slice(&(topic.len() as u16).to_be_bytes());
    packet.extend_from_slice(topic.as_bytes());
    packet.extend(id.into_iter().flat_map(u16::to_be_bytes));
    packet.extend_from_slice(payload);
    packet.into()
}

fn put_length(packet: &mut Vec<u8>, mut length: usize) {
    while length > 0x7f {
        packet.push(length as u8 & 0x7f | 0x80);
        length >>= 7;
    }
    packet.push(length as u8);
}
