//! Frames out of a stream of bytes, and into one: the codecs of netpoll.
//!
//! A stream has no boundaries between messages; a protocol has. A [`Decode`] finds the next frame
//! in the bytes that have arrived and lends it out of their
//! [`LinkBuffer`](netpoll_buffer::LinkBuffer), without a copy; an [`Encode`] writes a frame.
//!
//! ```
//! use netpoll_buffer::LinkBuffer;
//! use netpoll_codec::{Decode, Encode, LengthPrefix};
//!
//! let mut codec = LengthPrefix::new(4, 1 << 20)?; // 4 bytes of length, payloads up to 1 MiB
//! let mut stream = LinkBuffer::new();
//! codec.encode(b"hello", &mut stream)?;
//! codec.encode(b"world", &mut stream)?;
//! stream.flush();
//!
//! while let Some(frame) = codec.decode(&mut stream)? {
//!     println!("{:?}", frame.bytes());
//! }
//! # std::io::Result::Ok(())
//! ```
//!
//! # Codecs
//!
//! | codec | on the wire | constructor |
//! |---|---|---|
//! | [`Lines`] | text, then `\n` or `\r\n` | `Lines::new(max)` |
//! | [`Delimited`] | bytes, then one of some delimiters | `Delimited::new(&[b"\0"], max)` |
//! | [`FixedLength`] | always as many bytes | `FixedLength::new(length)` |
//! | [`LengthPrefix`] | a length of 1 to 8 bytes, then so many | `LengthPrefix::new(width, max)` |
//! | [`LengthField`] | a length within a header; to decode only | `LengthField::new(options)` |
//! | [`VarintLength`] | a varint of Protocol Buffers, then so many | `VarintLength::new(max)` |
//! | [`Over`] | frames of one codec in those of another | `Over::new(outer, inner)` |
//! | `(D, E)` | what `E` writes, and `D` reads | a pair |
//!
//! The semantics are those of netty's decoders; netty's documented examples are among the tests.
//! Where netty's result depends on how the bytes happened to arrive, this crate's does not: **any
//! split of a stream gives the same frames and the same errors.**
//!
//! # What a peer can't do
//!
//! Every codec has a longest frame, up to [`MAX_FRAME`]. A longer frame, or a false length, costs
//! the peer its frame and the program nothing: no memory is reserved for a length that was only
//! announced, the frame is dropped as it arrives, [`FrameError::FrameTooLong`] is reported once,
//! and the next frame is found behind it. Every byte is looked at once, no matter how many pieces a
//! frame arrives in. So at most one frame, one delimiter and the bytes received behind them are
//! ever buffered.
//!
//! # Threads
//!
//! A codec is plain data: it has no thread, no lock and no clock, and never waits. Each stream has
//! a codec of its own, cloned from one that was checked by its constructor; a codec that has begun
//! to read a stream must get all of it. To wait for frames, use [`read_frame`]; for a server on
//! frames, `netpoll::on_frame`.

mod automaton;
mod counted;
mod decode;
mod delimited;
mod encode;
mod error;
mod fixed;
mod frame;
mod length_field;
mod length_prefix;
mod lines;
mod over;
mod search;
mod terminated;
mod varint;

pub use decode::{Decode, read_frame};
pub use delimited::Delimited;
pub use encode::Encode;
pub use error::{EncodeError, Fault, FrameError};
pub use fixed::FixedLength;
pub use frame::{Extent, Frame};
pub use length_field::{ByteOrder, LengthField, LengthFieldOptions};
pub use length_prefix::LengthPrefix;
pub use lines::Lines;
pub use over::Over;
pub use varint::VarintLength;

/// The largest `max` of any codec: 2 GiB less one byte.
pub const MAX_FRAME: usize = i32::MAX as usize;

/// The error of a codec that can't be made: one sentence that names the parameter.
fn refuse(sentence: String) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidInput, sentence)
}

/// Checks the longest frame of a codec.
fn check_max(codec: &str, max: usize) -> std::io::Result<()> {
    if (1..=MAX_FRAME).contains(&max) {
        return Ok(());
    }
    Err(refuse(format!("{codec}: max is {max}; it must be from 1 to {MAX_FRAME} bytes")))
}
