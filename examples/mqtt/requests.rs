//! What each packet after CONNECT asks for.

use netpoll::{Bytes, Writer};

use crate::broker::{Broker, Member, Message};
use crate::packet::{self, Fields, Packet, short};
use crate::topic::{is_filter, is_topic};

/// What stands beside the kind in SUBSCRIBE and UNSUBSCRIBE.
const MARK: u8 = 2;
/// The answer to a subscription that is refused.
const REFUSED: u8 = 0x80;

/// Any packet after CONNECT; `None` where it is malformed, or none that is served.
pub(crate) fn obey(
    broker: &Broker,
    of: &Member,
    packet: Packet<'_>,
    writer: &mut Writer<'_>,
) -> Option<()> {
    let Packet { kind, flags, mut body } = packet;
    let mut answer = Vec::new();
    match (kind, flags) {
        (packet::PUBLISH, _) => return publish(broker, flags, body, writer),
        (packet::PINGREQ, 0) => answer = short(packet::PINGRESP, &[]),
        (packet::PUBACK, 0) => broker.answered(of, body.number()?),
        (packet::SUBSCRIBE, MARK) => {
            let mut codes = body.number()?.to_be_bytes().to_vec();
            loop {
                let (filter, qos) = (body.text()?, body.byte().filter(|&qos| qos <= 2)?.min(1));
                let is_taken = is_filter(filter) && broker.subscribe(of, filter, qos);
                codes.push(if is_taken { qos } else { REFUSED });
                if body.0.is_empty() {
                    break;
                }
            }
            answer = short(packet::SUBACK, &codes);
        }
        (packet::UNSUBSCRIBE, MARK) => {
            let id = body.number()?;
            while !body.0.is_empty() {
                broker.unsubscribe(of, body.text()?);
            }
            answer = short(packet::UNSUBACK, &id.to_be_bytes());
        }
        _ => return None,
    }
    writer.write_bytes(&answer);
    Some(())
}

/// PUBLISH of `QoS` 0 or 1.
fn publish(
    broker: &Broker,
    flags: u8,
    mut body: Fields<'_>,
    writer: &mut Writer<'_>,
) -> Option<()> {
    let (qos, is_retained) = (flags >> 1 & 3, flags & 1 != 0);
    let topic = body.text().filter(|topic| is_topic(topic))?.to_owned();
    match qos {
        0 => {}
        1 => writer.write_bytes(&short(packet::PUBACK, &body.number()?.to_be_bytes())),
        _ => return None,
    }
    // A copy: a slice would keep the block of the input.
    let payload = Bytes::copy_from_slice(body.0);
    broker.publish(Message { topic, payload, qos, is_retained });
    Some(())
}
