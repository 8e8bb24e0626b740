//! CONNECT: what a client asks for, and the answer.

use std::time::Duration;

use netpoll::Bytes;

use crate::broker::Message;
use crate::packet::{CONNACK, Fields, short};
use crate::topic::is_topic;

/// The longest id of a client, in bytes.
pub(crate) const ID_MAX: usize = 64;

const ACCEPTED: u8 = 0;
const UNKNOWN_VERSION: u8 = 1;
const ID_REJECTED: u8 = 2;
const UNAVAILABLE: u8 = 3;

const RESERVED: u8 = 0x01;
const CLEAN: u8 = 0x02;
const WILL: u8 = 0x04;
const WILL_QOS: u8 = 0x18;
const WILL_RETAIN: u8 = 0x20;
const PASSWORD: u8 = 0x40;
const USER: u8 = 0x80;

pub(crate) struct Connect<'a> {
    level: u8,
    is_clean: bool,
    pub(crate) id: &'a str,
    /// How long the client may be silent: one and a half of what it said.
    pub(crate) keep_alive: Option<Duration>,
    pub(crate) will: Option<Message>,
}

impl<'a> Connect<'a> {
    /// Takes it apart; `None` where it is malformed. A name and a password are read past: all may
    /// come in.
    pub(crate) fn of(mut body: Fields<'a>) -> Option<Self> {
        if body.text()? != "MQTT" {
            return None;
        }
        let (level, flags, seconds) = (body.byte()?, body.byte()?, body.number()?);
        let keep_alive = (seconds > 0).then(|| Duration::from_millis(1500 * u64::from(seconds)));
        let is_clean = flags & CLEAN != 0;
        if level != 4 {
            return Some(Self { level, is_clean, id: "", keep_alive, will: None });
        }
        let id = body.text()?;
        let will = if flags & WILL != 0 { Some(will(flags, &mut body)?) } else { None };
        for has_field in [flags & USER != 0, flags & PASSWORD != 0] {
            has_field.then(|| body.data()).map_or(Some(()), |it| it.map(drop))?;
        }
        let is_whole = body.0.is_empty() && flags & RESERVED == 0;
        is_whole.then_some(Self { level, is_clean, id, keep_alive, will })
    }

    /// Whether it is accepted, and the answer.
    pub(crate) fn answer(&self) -> (bool, Vec<u8>) {
        let code = match self {
            Self { level, .. } if *level != 4 => UNKNOWN_VERSION,
            Self { id, .. } if id.len() > ID_MAX => ID_REJECTED,
            Self { is_clean: false, .. } => UNAVAILABLE, // no session is kept here
            _ => ACCEPTED,
        };
        (code == ACCEPTED, short(CONNACK, &[0, code]))
    }
}

/// The message that others get when the connection ends without leave.
fn will(flags: u8, body: &mut Fields<'_>) -> Option<Message> {
    let (topic, payload) = (body.text()?, body.data()?);
    let qos = (flags & WILL_QOS) >> 3;
    (is_topic(topic) && qos <= 2).then(|| Message {
        topic: topic.to_owned(),
        payload: Bytes::copy_from_slice(payload),
        qos,
        is_retained: flags & WILL_RETAIN != 0,
    })
}
