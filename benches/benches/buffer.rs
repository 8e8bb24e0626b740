//! `LinkBuffer` beside the usual alternatives: `BytesMut`, `VecDeque<u8>`, a ring.
//!
//! `cargo bench -p netpoll-benches --bench buffer`. Figures of one run can be compared with each
//! other; `docs/buffer.md` has those of ours.

use std::collections::VecDeque;
use std::hint::black_box;
use std::io::{IoSlice, IoSliceMut, Read};
use std::mem;

use bytes::{Buf, BytesMut};
use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use netpoll_buffer::LinkBuffer;

criterion_group!(benches, write_then_read, backlog, owned, frames, forward, echo);
criterion_main!(benches);

/// A message is copied in and copied out.
fn write_then_read(criterion: &mut Criterion) {
    for size in [64, 1 << 10, 16 << 10, 1 << 20] {
        let mut group = criterion.benchmark_group(format!("write_then_read/{size}"));
        group.throughput(Throughput::Bytes(size as u64));
        write_then_read_with::<LinkBuffer>(&mut group, size);
        write_then_read_with::<BytesMut>(&mut group, size);
        write_then_read_with::<VecDeque<u8>>(&mut group, size);
        write_then_read_with::<Ring>(&mut group, size);
        group.finish();
    }
}

fn write_then_read_with<Q: Queue>(group: &mut BenchmarkGroup<'_, WallTime>, size: usize) {
    let message = vec![b'x'; size];
    let mut out = vec![0; size];
    let mut queue = Q::default();
    group.bench_function(Q::NAME, |bencher| {
        bencher.iter(|| {
            queue.write(black_box(&message));
            queue.read(&mut out);
            black_box(&mut out);
        });
    });
}

/// The same with a queue that never runs empty, so that no block is given back and taken again.
fn backlog(criterion: &mut Criterion) {
    for size in [64, 1 << 10] {
        let mut group = criterion.benchmark_group(format!("backlog/{size}"));
        group.throughput(Throughput::Bytes(size as u64));
        backlog_with::<LinkBuffer>(&mut group, size);
        backlog_with::<BytesMut>(&mut group, size);
        backlog_with::<VecDeque<u8>>(&mut group, size);
        backlog_with::<Ring>(&mut group, size);
        group.finish();
    }
}

fn backlog_with<Q: Queue>(group: &mut BenchmarkGroup<'_, WallTime>, size: usize) {
    let message = vec![b'x'; size];
    let mut out = vec![0; size];
    let mut queue = Q::default();
    for _ in 0..8 {
        queue.write(&message);
    }
    group.bench_function(Q::NAME, |bencher| {
        bencher.iter(|| {
            queue.write(black_box(&message));
            queue.read(&mut out);
            black_box(&mut out);
        });
    });
}

/// A message is cut off as a value of its own, for another thread or a later time.
fn owned(criterion: &mut Criterion) {
    for size in [64, 1 << 10, 16 << 10] {
        let message = vec![b'x'; size];
        let mut group = criterion.benchmark_group(format!("owned/{size}"));
        group.throughput(Throughput::Bytes(size as u64));
        let mut buffer = LinkBuffer::new();
        group.bench_function("LinkBuffer::slice", |bencher| {
            bencher.iter(|| {
                buffer.write_bytes(black_box(&message));
                buffer.flush();
                black_box(buffer.slice(size).expect("it was written"));
            });
        });
        let mut buffer = BytesMut::new();
        group.bench_function("BytesMut::split_to", |bencher| {
            bencher.iter(|| {
                buffer.extend_from_slice(black_box(&message));
                black_box(buffer.split_to(size));
            });
        });
        group.finish();
    }
}

/// A stream of length-prefixed frames arrives in two parts, cut at every place in turn.
fn frames(criterion: &mut Criterion) {
    let frame = [&60_u32.to_be_bytes()[..], &[b'x'; 60]].concat();
    let stream = frame.repeat(32);
    let mut group = criterion.benchmark_group("frames");
    group.throughput(Throughput::Bytes((stream.len() * stream.len()) as u64));
    frames_with::<LinkBuffer>(&mut group, &stream);
    frames_with::<BytesMut>(&mut group, &stream);
    frames_with::<VecDeque<u8>>(&mut group, &stream);
    frames_with::<Ring>(&mut group, &stream);
    group.finish();
}

fn frames_with<Q: Queue>(group: &mut BenchmarkGroup<'_, WallTime>, stream: &[u8]) {
    let mut queue = Q::default();
    let mut parse = |part: &[u8]| {
        queue.write(part);
        let mut parsed = 0;
        while queue.frame() {
            parsed += 1;
        }
        parsed
    };
    group.bench_function(Q::NAME, |bencher| {
        bencher.iter(|| {
            for cut in 0..stream.len() {
                let parsed = parse(&stream[..cut]) + parse(&stream[cut..]);
                assert_eq!(parsed, 32);
            }
        });
    });
}

/// A mebibyte passes from the reading side to the writing side.
fn forward(criterion: &mut Criterion) {
    const SIZE: usize = 1 << 20;
    let message = vec![b'x'; SIZE];
    let mut group = criterion.benchmark_group("forward/1MiB");
    group.throughput(Throughput::Bytes(SIZE as u64));
    let (mut from, mut to) = (LinkBuffer::new(), LinkBuffer::new());
    from.write_bytes(&message);
    from.flush();
    group.bench_function("LinkBuffer", |bencher| {
        bencher.iter(|| {
            to.append(from.slice(SIZE).expect("all of it is there"));
            to.flush();
            mem::swap(&mut from, &mut to);
        });
    });
    let (mut from, mut to) = (BytesMut::from(&message[..]), BytesMut::with_capacity(SIZE));
    group.bench_function("BytesMut, copying", |bencher| {
        bencher.iter(|| {
            to.extend_from_slice(&from);
            from.clear();
            mem::swap(&mut from, &mut to);
        });
    });
    let (mut from, mut to) = (Ring::default(), Ring::default());
    from.write(&message);
    group.bench_function("ring, copying", |bencher| {
        bencher.iter(|| {
            let (front, back) = from.halves();
            to.write(front);
            to.write(back);
            from.start = from.end;
            mem::swap(&mut from, &mut to);
        });
    });
    group.finish();
}

/// The cost of the buffers in an echo of 64 bytes: all of it except the system calls.
fn echo(criterion: &mut Criterion) {
    let (mut input, mut output) = (LinkBuffer::new(), LinkBuffer::new());
    criterion.bench_function("echo/64", |bencher| {
        bencher.iter(|| {
            input.fill(1 << 20, |space| Ok(arrive(space))).expect("it arrives");
            output.append(input.slice(input.len()).expect("all of it is there"));
            output.flush();
            let mut chunks = [IoSlice::new(&[]); 4];
            let count = black_box(output.gather(&mut chunks));
            black_box(&chunks[..count]);
            output.consume(64);
        });
    });
}

fn arrive(space: &mut [IoSliceMut<'_>]) -> usize {
    space[0][..64].fill(b'x');
    64
}

/// What is compared.
trait Queue: Default {
    const NAME: &'static str;
    fn write(&mut self, bytes: &[u8]);
    /// Fills `out`.
    fn read(&mut self, out: &mut [u8]);
    /// Consumes a frame, if all of it is there, looking at its contiguous payload where it can.
    fn frame(&mut self) -> bool;
}

impl Queue for LinkBuffer {
    const NAME: &'static str = "LinkBuffer";

    fn write(&mut self, bytes: &[u8]) {
        self.write_bytes(bytes);
        self.flush();
    }

    fn read(&mut self, out: &mut [u8]) {
        self.copy_to(out);
    }

    fn frame(&mut self) -> bool {
        let Ok(header) = self.peek(4) else {
            return false;
        };
        let length = header.try_into().map_or(0, u32::from_be_bytes) as usize;
        if self.len() < 4 + length {
            return false;
        }
        let frame = self.next(4 + length).expect("it is there");
        black_box(&frame[4..]);
        true
    }
}

impl Queue for BytesMut {
    const NAME: &'static str = "BytesMut";

    fn write(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    fn read(&mut self, out: &mut [u8]) {
        self.copy_to_slice(out);
    }

    fn frame(&mut self) -> bool {
        let Some(header) = self.first_chunk() else {
            return false;
        };
        let length = u32::from_be_bytes(*header) as usize;
        if self.len() < 4 + length {
            return false;
        }
        black_box(&self[4..4 + length]);
        self.advance(4 + length);
        true
    }
}

impl Queue for VecDeque<u8> {
    const NAME: &'static str = "VecDeque";

    fn write(&mut self, bytes: &[u8]) {
        self.extend(bytes);
    }

    fn read(&mut self, out: &mut [u8]) {
        self.read_exact(out).expect("it was written");
    }

    fn frame(&mut self) -> bool {
        if self.len() < 4 {
            return false;
        }
        let header = [self[0], self[1], self[2], self[3]];
        let length = u32::from_be_bytes(header) as usize;
        if self.len() < 4 + length {
            return false;
        }
        let (front, back) = self.as_slices();
        black_box((front, back));
        self.drain(..4 + length);
        true
    }
}

/// The growing ring buffer of gnet, in short: a power of two, two copies at the seam.
struct Ring {
    bytes: Vec<u8>,
    /// Count up for ever; taken modulo the length.
    start: usize,
    end: usize,
}

impl Default for Ring {
    fn default() -> Self {
        Self { bytes: vec![0; 4 << 10], start: 0, end: 0 }
    }
}

impl Ring {
    fn len(&self) -> usize {
        self.end - self.start
    }

    fn halves(&self) -> (&[u8], &[u8]) {
        let start = self.start & (self.bytes.len() - 1);
        let front = self.len().min(self.bytes.len() - start);
        (&self.bytes[start..][..front], &self.bytes[..self.len() - front])
    }

    fn grow(&mut self, needed: usize) {
        let mut grown = vec![0; needed.next_power_of_two()];
        let length = self.len();
        let (front, back) = self.halves();
        grown[..front.len()].copy_from_slice(front);
        grown[front.len()..length].copy_from_slice(back);
        *self = Self { bytes: grown, start: 0, end: length };
    }
}

impl Queue for Ring {
    const NAME: &'static str = "ring";

    fn write(&mut self, bytes: &[u8]) {
        if self.len() + bytes.len() > self.bytes.len() {
            self.grow(self.len() + bytes.len());
        }
        let capacity = self.bytes.len();
        let end = self.end & (capacity - 1);
        let (front, back) = bytes.split_at(bytes.len().min(capacity - end));
        self.bytes[end..][..front.len()].copy_from_slice(front);
        self.bytes[..back.len()].copy_from_slice(back);
        self.end += bytes.len();
    }

    fn read(&mut self, out: &mut [u8]) {
        let (front, back) = self.halves();
        let n = front.len().min(out.len());
        out[..n].copy_from_slice(&front[..n]);
        let rest = out.len() - n;
        out[n..].copy_from_slice(&back[..rest]);
        self.start += out.len();
    }

    fn frame(&mut self) -> bool {
        if self.len() < 4 {
            return false;
        }
        let mut header = [0; 4];
        for (offset, byte) in header.iter_mut().enumerate() {
            *byte = self.bytes[(self.start + offset) & (self.bytes.len() - 1)];
        }
        let length = u32::from_be_bytes(header) as usize;
        if self.len() < 4 + length {
            return false;
        }
        black_box(self.halves());
        self.start += 4 + length;
        true
    }
}
