//! One connection: CONNECT, what follows it, and how it ends.

use std::time::{Duration, Instant};

use netpoll::{Connection, Handle, Result, Writer};

use crate::broker::{Broker, Member, Message};
use crate::connect::Connect;
use crate::packet::{self, Fields, malformed};
use crate::requests::obey;

#[derive(Default)]
pub(crate) struct Session {
    member: Option<Member>,
    will: Option<Message>,
    keep_alive: Option<Duration>,
}

impl Session {
    /// Serves the packets that have arrived whole.
    pub(crate) fn serve(&mut self, broker: &Broker, conn: &mut Connection) -> Result<()> {
        let handle = conn.handle();
        let (mut reader, mut writer) = conn.split();
        loop {
            let packet = packet::next(&mut reader)?;
            let goes_on = match &self.member {
                None if packet.kind == packet::CONNECT => {
                    self.connect(broker, packet.body, &handle, &mut writer)?
                }
                None => return Err(malformed("a packet before CONNECT")),
                Some(_) if packet.kind == packet::DISCONNECT => {
                    self.will = None;
                    false
                }
                Some(member) => {
                    obey(broker, member, packet, &mut writer)
                        .ok_or_else(|| malformed("a packet that is not served"))?;
                    true
                }
            };
            if !goes_on {
                break;
            }
            // Each packet begins the time anew in which the next one must come.
            handle.close_at(self.keep_alive.map(|time| Instant::now() + time));
        }
        conn.close(); // behind the answers
        Ok(())
    }

    /// The connection has ended: the will is published, unless the client took leave.
    pub(crate) fn end(self, broker: &Broker) {
        self.member.iter().for_each(|member| broker.leave(member));
        self.will.into_iter().for_each(|will| broker.publish(will));
    }

    fn connect(
        &mut self,
        broker: &Broker,
        body: Fields<'_>,
        handle: &Handle,
        writer: &mut Writer<'_>,
    ) -> Result<bool> {
        let wanted = Connect::of(body).ok_or_else(|| malformed("a malformed CONNECT"))?;
        let (is_accepted, answer) = wanted.answer();
        writer.write_bytes(&answer);
        writer.flush()?; // before any message that the broker sends
        if is_accepted {
            self.member = Some(broker.join(wanted.id, handle.clone()));
            self.will = wanted.will;
            self.keep_alive = wanted.keep_alive;
        }
        Ok(is_accepted)
    }
}
