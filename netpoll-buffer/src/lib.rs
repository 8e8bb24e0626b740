//! Linked, counted, zero-copy buffers: chains of pooled blocks.
//!
//! A [`LinkBuffer`] is a queue of bytes in linked blocks of memory. Slicing it and appending it to
//! another passes blocks on, so bytes that arrive from one socket can leave through another without
//! a copy. Dropping a buffer releases its blocks, so no call can be forgotten.
//!
//! ```
//! use netpoll_buffer::LinkBuffer;
//!
//! # let socket = &b"\x05hello, and more"[..];
//! # use std::io::Read;
//! # let mut socket = socket;
//! let (mut input, mut output) = (LinkBuffer::new(), LinkBuffer::new());
//! input.fill(1 << 20, |space| socket.read_vectored(space))?;
//!
//! let length = input.read_byte()?;
//! let message = input.slice(length.into())?; // shares the block that it lies in
//! output.append(message); // moves it
//! output.flush();
//! assert_eq!(output.chunk(), b"hello");
//! # std::io::Result::Ok(())
//! ```
//!
//! # The life of a byte
//!
//! ```text
//!  socket ──readv──▶ room of a pooled block      fill: reserves as much as the traffic suggests
//!                    │ input
//!                    ▼
//!           peek, until, next ────▶ parsed       in place; copied only where it spans blocks
//!                    │ slice
//!                    ▼
//!           a segment of the same block          one reference more
//!                    │ append, flush
//!                    ▼ output
//!  socket ◀─sendmsg─ the same block              gather
//!                    │ consume
//!                    ▼
//!             the thread's pool                  when the last reference goes
//! ```
//!
//! # Memory
//!
//! Blocks come in classes of 512 B, 4 KiB, 16 KiB, 64 KiB, 256 KiB and 1 MiB, larger ones in their
//! exact size. Reading starts with 4 KiB and goes up to four blocks of 64 KiB at a time; writing
//! starts with 4 KiB and goes up to 64 KiB; only [`malloc`](LinkBuffer::malloc) and pull-ups, which
//! must be contiguous, take larger ones. Blocks that no buffer holds rest in a cache of each
//! thread, and in a store that all threads share:
//!
//! | class | in each thread's cache | in the store |
//! |---|---|---|
//! | 512 B | 64 | 1024 |
//! | 4 KiB | 64 | 2048 |
//! | 16 KiB | 16 | 512 |
//! | 64 KiB | 8 | 256 |
//! | 256 KiB | 1 | 16 |
//! | 1 MiB | 1 | 8 |
//! | larger | none | none |
//!
//! With the headers of the blocks and the lists for chains of several that is at most 2.5 MiB for
//! each thread and 47 MiB for all of them together. A thread that is going to wait for long moves
//! its cache to the store ([`share_cache`]); [`shrink_store`] frees what no thread has needed for a
//! while, [`trim`] everything. [`stats`] says how many blocks buffers hold, how much memory these
//! and the resting ones have, and how much was copied.
//!
//! Blocks of 4 KiB and more are mapped, up to 64 of a class at a time. A block that is freed gives
//! its pages back to the system at once, whether or not its neighbours are in use; where the system
//! refuses a mapping, the block comes from the allocator. With `--cfg system_allocator` all blocks
//! do, for tools that watch the allocator.
//!
//! A slice keeps its block alive, however large that is, if it has more than 4 KiB itself. A
//! smaller slice is copied where it would keep more than 4 KiB and more than 64 times its size; so
//! a slice of one byte pins at most a block of 4 KiB, and 10 000 of them, each of another block, 40
//! MiB. For linked foreign memory the same holds, by the size of its `Bytes`.
//!
//! A program that passes slices to code that may keep them can count their memory: an [`Account`]
//! is charged with the blocks of a buffer until the last owner of each drops it.
//!
//! The former bytes of a block are never exposed to its next use: memory from `malloc` is zeroed,
//! other room can't be read before it was written, and the one exception,
//! [`fill`](LinkBuffer::fill), passes it to a system call.
//!
//! # Features
//!
//! None: `bytes`, `memchr` and `nix` are the only dependencies. `--cfg loom` replaces the atomics
//! for models.

mod account;
mod block;
mod chain;
mod class;
mod foreign;
mod ledger;
mod link_buffer;
mod pool;
mod receive_block;
mod shortfall;
mod sink;
mod slab;
mod source;
mod stats;
mod sync;

pub use account::{Account, Charge};
pub use chain::Chunks;
pub use foreign::released;
pub use link_buffer::{Filled, LinkBuffer};
pub use pool::{bytes_stored, rests_much, share_cache, shrink_store, trim};
pub use receive_block::ReceiveBlock;
pub use shortfall::Shortfall;
pub use sink::{AsWrite, FromWrite, Sink};
pub use source::{AsRead, FromRead, Source};
pub use stats::{Stats, bytes_existing, stats};
