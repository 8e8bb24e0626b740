//! One round of a server on frames: decodes what is buffered, and calls back for each frame.

use std::io;

use netpoll_buffer::Source;
use netpoll_codec::{Decode, Encode, Frame};
use netpoll_core::{Connection, Error, Result};

use super::replies::ReplyOptions;
use super::{FrameState, Out};

/// Answers are sent when this many bytes of them have gathered, in bytes, though more frames are
/// there: what one arrival makes a callback write must not grow without a bound.
const GATHERED_MAX: usize = 64 << 10;

/// Why decoding paused.
enum Pause {
    /// No whole frame is left.
    Drained,
    /// The peer does not read.
    Congested,
    /// As many replies are outstanding as may be.
    Full,
    Closing,
}

pub(super) fn serve<C, S>(
    session: &mut S,
    state: &mut FrameState<C>,
    options: ReplyOptions,
    conn: &mut Connection,
    callback: &impl Fn(&mut S, Frame<'_>, &mut Out<'_, C>) -> Result<()>,
) -> Result<()>
where
    C: Decode + Encode,
{
    if state.is_closing {
        close(state, conn);
        return Ok(());
    }
    if state.must_wait() {
        return Ok(());
    }
    loop {
        match decode(session, state, options, conn, callback)? {
            Pause::Closing => {
                close(state, conn);
                return Ok(());
            }
            Pause::Congested => {
                // The frames that are buffered bring no event: this one is kept until the peer
                // has read.
                conn.wake();
                return Ok(());
            }
            // The reply that makes room has `on_request` run.
            Pause::Full => return Ok(()),
            Pause::Drained => {
                if !more(&mut state.decoder, conn)? {
                    return Ok(());
                }
            }
        }
    }
}

/// Closes behind all replies; while some are outstanding, the last of them brings it here again.
fn close<C>(state: &mut FrameState<C>, conn: &mut Connection) {
    state.is_closing = true;
    if state.replies.as_ref().is_none_or(|replies| replies.have_left()) {
        conn.close();
    }
}

/// Decodes frames and calls back for each.
fn decode<C, S>(
    session: &mut S,
    state: &mut FrameState<C>,
    options: ReplyOptions,
    conn: &mut Connection,
    callback: &impl Fn(&mut S, Frame<'_>, &mut Out<'_, C>) -> Result<()>,
) -> Result<Pause>
where
    C: Decode + Encode,
{
    let (mut reader, writer, handles) = conn.split_with_handles();
    let FrameState { decoder, encoder, replies, .. } = state;
    let mut out = Out { writer, encoder, replies, handles, options, closing: false };
    loop {
        let outcome = match decoder.decode(reader.buffered()) {
            Ok(Some(frame)) => callback(session, frame, &mut out),
            Ok(None) => {
                out.settle()?;
                return Ok(Pause::Drained);
            }
            Err(error) => Err(io::Error::from(error).into()),
        };
        if let Err(error) = outcome {
            // What came before it is answered, however the peer's bytes happened to arrive.
            let _ = out.flush();
            return Err(error);
        }
        if out.closing {
            out.settle()?;
            return Ok(Pause::Closing);
        }
        if out.writer.malloc_len() >= GATHERED_MAX {
            out.flush()?;
        }
        if out.writer.is_congested() {
            out.settle()?;
            return Ok(Pause::Congested);
        }
        if out.replies.as_ref().is_some_and(|replies| replies.must_wait()) {
            out.settle()?;
            return Ok(Pause::Full);
        }
    }
}

/// Whether there is more to decode though no whole frame was buffered. Says so if there never will
/// be: the peer has ended its stream inside a frame, or the frame can't be buffered.
fn more(decoder: &mut impl Decode, conn: &mut Connection) -> Result<bool> {
    let peer_is_there = conn.is_active();
    let (mut reader, mut writer) = conn.split();
    let buffered = reader.len();
    if buffered == 0 || (peer_is_there && buffered < reader.limit()) {
        return Ok(false);
    }
    let outcome = match reader.try_peek(buffered + 1) {
        Ok(_) => return Ok(true),
        Err(Error::WouldBlock) => return Ok(false),
        Err(Error::EndOfStream) => match decoder.finish(reader.buffered()) {
            Ok(()) => return Ok(false),
            Err(torn) => io::Error::from(torn).into(),
        },
        Err(error) => error,
    };
    let _ = writer.flush();
    Err(outcome)
}
