//! Random operations on a buffer and its model.

use proptest::prelude::*;

use crate::queue::{Model, Op};

proptest! {
    #![proptest_config(config())]

    #[test]
    fn behaves_like_a_queue_of_bytes(ops in prop::collection::vec(op(), 1..200)) {
        let mut model = Model::default();
        for op in ops {
            model.run(op);
        }
        model.finish();
    }
}

fn config() -> ProptestConfig {
    ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() }
}

/// Mostly small, sometimes more than a block.
fn size() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 0..40_usize, 3 => 400..5_000_usize, 1 => 60_000..140_000_usize]
}

fn op() -> impl Strategy<Value = Op> {
    let byte = 0..8_u8;
    prop_oneof![
        4 => size().prop_map(Op::Write),
        1 => Just(Op::WriteByte),
        1 => size().prop_map(Op::WriteString),
        2 => size().prop_map(Op::WriteShared),
        2 => (size(), size()).prop_map(|(n, remain)| Op::WriteDirect(n, remain)),
        2 => size().prop_map(Op::Malloc),
        2 => size().prop_map(Op::MallocAck),
        2 => size().prop_map(Op::Put),
        1 => Just(Op::PutByte),
        1 => Just(Op::ChunkMut),
        1 => size().prop_map(Op::AppendCopy),
        1 => size().prop_map(Op::AppendShared),
        8 => Just(Op::Flush),
        3 => size().prop_map(Op::Peek),
        3 => size().prop_map(Op::Next),
        2 => size().prop_map(Op::Skip),
        1 => size().prop_map(Op::Consume),
        2 => byte.clone().prop_map(Op::Until),
        2 => byte.clone().prop_map(Op::Find),
        3 => prop::collection::vec(byte, 0..7).prop_map(Op::FindBytes),
        2 => (size(), size()).prop_map(|(at, n)| Op::FindPart(at, n)),
        2 => Just(Op::FindAgain),
        2 => (size(), size()).prop_map(|(there, n)| Op::FindArriving(there, n)),
        3 => size().prop_map(Op::Slice),
        3 => size().prop_map(Op::SliceAndAppend),
        1 => size().prop_map(Op::ReadString),
        2 => size().prop_map(Op::ReadBytes),
        1 => Just(Op::ReadByte),
        2 => size().prop_map(Op::CopyTo),
        1 => size().prop_map(Op::CopyToBytes),
        1 => size().prop_map(Op::ReadBytesCharged),
        2 => any::<bool>().prop_map(Op::Charge),
        1 => any::<bool>().prop_map(Op::ChargeAdded),
        2 => any::<bool>().prop_map(Op::ChargeSlice),
        4 => (size(), size()).prop_map(|(max, arrives)| Op::Fill(max, arrives)),
        2 => (0..6_usize).prop_map(Op::Gather),
        1 => Just(Op::Chunks),
        1 => Just(Op::Release),
        2 => Just(Op::Compact),
        1 => Just(Op::Clear),
    ]
}
