//! Frames out of a `LinkBuffer` by a codec, beside a loop written by hand over one slice.
//!
//! `cargo bench -p netpoll-benches --bench codec`. Three tasks, each with frames of 64 B and 1 KiB
//! behind a length of four bytes: to find the frames and look at none, to look at every byte of
//! them, and the same of bytes that arrive first, as they do from a socket. Figures of one run can
//! be compared with each other; `docs/codec.md` has those of ours.

use std::hint::black_box;
use std::io::IoSliceMut;

use bytes::Bytes;
use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use netpoll_buffer::LinkBuffer;
use netpoll_codec::{Decode, Delimited, FrameError, LengthPrefix, Lines, VarintLength};

criterion_group!(benches, lengths, others);
criterion_main!(benches);

/// About as much as one read brings.
const STREAM: usize = 64 << 10;

fn lengths(criterion: &mut Criterion) {
    for size in [64, 1 << 10] {
        let frame = [&u32::try_from(size).expect("small").to_be_bytes()[..], &vec![b'x'; size]];
        let stream = Bytes::from(frame.concat().repeat(STREAM / (size + 4)));
        let mut group = criterion.benchmark_group(format!("length/{size}"));
        group.throughput(Throughput::Elements((STREAM / (size + 4)) as u64));
        find_and_read(&mut group, "find", &stream, look_past);
        find_and_read(&mut group, "read", &stream, look_at);
        arrive_and_read(&mut group, "arrive/decode", &stream, by_decode);
        arrive_and_read(&mut group, "arrive/decode_each", &stream, by_decode_each);
        let mut vec = Vec::new();
        group.bench_function("arrive/slice", |bencher| {
            bencher.iter(|| {
                vec.clear();
                vec.extend_from_slice(black_box(&stream));
                by_hand(&vec, look_at);
            });
        });
        group.finish();
    }
}

fn find_and_read(
    group: &mut BenchmarkGroup<'_, WallTime>,
    task: &str,
    stream: &Bytes,
    look: fn(&[u8]),
) {
    group.bench_function(format!("{task}/decode"), |bencher| {
        bencher.iter(|| by_decode(&mut LinkBuffer::from(stream.clone()), look));
    });
    group.bench_function(format!("{task}/decode_each"), |bencher| {
        bencher.iter(|| by_decode_each(&mut LinkBuffer::from(stream.clone()), look));
    });
    group.bench_function(format!("{task}/slice"), |bencher| {
        bencher.iter(|| by_hand(black_box(stream), look));
    });
}

fn arrive_and_read(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    stream: &Bytes,
    decode: fn(&mut LinkBuffer, fn(&[u8])),
) {
    let mut input = LinkBuffer::new();
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            while input.len() < stream.len() {
                let rest = &stream[input.len()..];
                input.fill(rest.len(), |space| Ok(arrive(rest, space))).expect("it arrives");
            }
            decode(&mut input, look_at);
        });
    });
}

#[inline]
fn by_decode(input: &mut LinkBuffer, look: fn(&[u8])) {
    let mut codec = LengthPrefix::new(4, 1 << 20).expect("it can be");
    while let Some(frame) = codec.decode(input).expect("it is in order") {
        look(frame.bytes());
    }
}

#[inline]
fn by_decode_each(input: &mut LinkBuffer, look: fn(&[u8])) {
    let mut codec = LengthPrefix::new(4, 1 << 20).expect("it can be");
    let outcome = codec.decode_each(input, |payload| {
        look(payload);
        Ok::<(), FrameError>(())
    });
    outcome.expect("it is in order");
}

#[inline]
fn by_hand(mut stream: &[u8], look: fn(&[u8])) {
    while let Some((header, rest)) = stream.split_first_chunk() {
        let length = u32::from_be_bytes(*header) as usize;
        assert!(length <= 1 << 20, "too long");
        let Some((frame, next)) = rest.split_at_checked(length) else { break };
        look(frame);
        stream = next;
    }
}

fn look_past(frame: &[u8]) {
    black_box(frame);
}

/// Looks at every byte, as any use of them does.
fn look_at(frame: &[u8]) {
    black_box(frame.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)));
}

fn arrive(mut bytes: &[u8], space: &mut [IoSliceMut<'_>]) -> usize {
    let all = bytes.len();
    for piece in space {
        let (now, later) = bytes.split_at(bytes.len().min(piece.len()));
        piece[..now.len()].copy_from_slice(now);
        bytes = later;
    }
    all - bytes.len()
}

/// The other codecs, for frames of 64 B.
fn others(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("others/64");
    group.throughput(Throughput::Elements((STREAM / 65) as u64));
    let lines = Lines::new(1000).expect("it can be");
    others_with(&mut group, "Lines", b"\n", &lines);
    let one = Delimited::new(&[b"\0\0"], 1000).expect("it can be");
    others_with(&mut group, "Delimited, one", b"\0\0", &one);
    let two = Delimited::new(&[b"\0\0", b"\n"], 1000).expect("it can be");
    others_with(&mut group, "Delimited, two", b"\n", &two);
    let frame = [&[64][..], &[b'x'; 64]].concat();
    let varint = VarintLength::new(1000).expect("it can be");
    decode_all(&mut group, "VarintLength", &frame, &varint);
    group.finish();
}

fn others_with<D: Decode + Clone>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    delimiter: &[u8],
    codec: &D,
) {
    decode_all(group, name, &[&[b'x'; 64], delimiter].concat(), codec);
}

fn decode_all<D: Decode + Clone>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    frame: &[u8],
    codec: &D,
) {
    let stream = Bytes::from(frame.repeat(STREAM / 65));
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            let (mut codec, mut input) = (codec.clone(), LinkBuffer::from(stream.clone()));
            while let Some(frame) = codec.decode(&mut input).expect("it is in order") {
                look_past(frame.bytes());
            }
        });
    });
}
