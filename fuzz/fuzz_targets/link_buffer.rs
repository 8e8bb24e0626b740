//! Any sequence of operations on a `LinkBuffer` does what a queue of bytes does.
//!
//! The operations and the queue are those of the property test. With cargo-fuzz: `cargo +nightly
//! fuzz run link_buffer`; without, see `fuzz/README.md`.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../netpoll-buffer/tests/it/queue.rs"]
mod queue;

use queue::{Model, Op};

/// More operations find nothing new and take long.
const MAX_OPS: usize = 200;

fuzz_target!(|input: &[u8]| {
    let mut model = Model::default();
    for code in input.chunks_exact(4).take(MAX_OPS) {
        model.run(decode(code));
    }
    model.finish();
});

/// Every four bytes are an operation and its size: mostly small, sometimes more than a block.
fn decode(code: &[u8]) -> Op {
    let (kind, scale, low, high) = (code[0], code[1], code[2], code[3]);
    let n = match scale % 4 {
        0 => usize::from(low % 40),
        1 | 2 => usize::from(u16::from_le_bytes([low, high])) % 5_000,
        _ => usize::from(u16::from_le_bytes([low, high])) * 2,
    };
    let (byte, other) = (low % 8, usize::from(high) * 16);
    match kind % 40 {
        0 => Op::Write(n),
        1 => Op::WriteByte,
        2 => Op::WriteString(n),
        3 => Op::WriteShared(n),
        4 => Op::WriteDirect(n, other),
        5 => Op::Malloc(n),
        6 => Op::MallocAck(n),
        7 => Op::AppendCopy(n),
        8 => Op::AppendShared(n),
        9 => Op::Peek(n),
        10 => Op::Next(n),
        11 => Op::Skip(n),
        12 => Op::Consume(n),
        13 => Op::Until(byte),
        14 => Op::Find(byte),
        15 => Op::FindBytes(code[1..].iter().map(|byte| byte % 8).collect()),
        16 => Op::FindBytes(vec![byte, high % 8]),
        17 => Op::Slice(n),
        18 => Op::SliceAndAppend(n),
        19 => Op::ReadString(n),
        20 => Op::ReadBytes(n),
        21 => Op::ReadByte,
        22 => Op::CopyTo(n),
        23 => Op::CopyToBytes(n),
        24 => Op::Fill(n, other * 8),
        25 => Op::Gather(usize::from(low % 6)),
        26 => Op::Chunks,
        27 => Op::Release,
        28 if high == 0 => Op::Clear,
        29 => Op::Compact,
        30 => Op::Put(n),
        31 => Op::PutByte,
        32 => Op::ChunkMut,
        33 => Op::FindPart(n, low.into()),
        34 => Op::FindAgain,
        35 => Op::FindArriving(low.into(), high.into()),
        36 => Op::ReadBytesCharged(n),
        37 => Op::Charge(high % 2 == 0),
        38 => Op::ChargeSlice(high % 2 == 0),
        39 => Op::ChargeAdded(high % 2 == 0),
        _ => Op::Flush,
    }
}
