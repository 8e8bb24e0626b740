//! The model of a `LinkBuffer`: a `VecDeque<u8>` that does the same. Shared with `fuzz/`.

use std::collections::VecDeque;
use std::io::{IoSlice, Read};

use bytes::{Buf, BufMut, Bytes};
use netpoll_buffer::{Account, LinkBuffer, Shortfall};

#[derive(Clone, Debug)]
pub(crate) enum Op {
    Write(usize),
    WriteByte,
    WriteString(usize),
    WriteShared(usize),
    WriteDirect(usize, usize),
    Malloc(usize),
    MallocAck(usize),
    /// Through `BufMut`: looks for room, writes to it, and takes it in, piece by piece.
    Put(usize),
    PutByte,
    /// Room that nothing is written to.
    ChunkMut,
    AppendCopy(usize),
    AppendShared(usize),
    Flush,
    Peek(usize),
    Next(usize),
    Skip(usize),
    Consume(usize),
    Until(u8),
    Find(u8),
    FindBytes(Vec<u8>),
    /// For a needle that begins as the bytes at an offset do, and may go on differently.
    FindPart(usize, usize),
    /// For the needle of the last `FindPart`.
    FindAgain,
    /// For a needle of which the first bytes are there, and again when the others arrive.
    FindArriving(usize, usize),
    Slice(usize),
    SliceAndAppend(usize),
    ReadString(usize),
    ReadBytes(usize),
    ReadByte,
    CopyTo(usize),
    CopyToBytes(usize),
    ReadBytesCharged(usize),
    /// The buffer, to the account of all or to one within.
    Charge(bool),
    /// The buffer's last blocks.
    ChargeAdded(bool),
    /// What was cut off last.
    ChargeSlice(bool),
    Fill(usize, usize),
    Gather(usize),
    Chunks,
    Release,
    Compact,
    Clear,
}

/// The same queue, kept as simply as possible.
#[derive(Default)]
pub(crate) struct Model {
    buffer: LinkBuffer,
    readable: VecDeque<u8>,
    pending: Vec<u8>,
    /// What was cut off and has to stay as it is until the end.
    slices: Vec<(LinkBuffer, Vec<u8>)>,
    bytes: Vec<(Bytes, Vec<u8>)>,
    needle: Vec<u8>,
    accounts: Accounts,
    counter: u32,
}

/// The accounts that are charged with all that the model holds and ever held.
struct Accounts {
    all: Account,
    one: Account,
}

impl Default for Accounts {
    fn default() -> Self {
        let all = Account::new();
        Self { one: Account::within(&all), all }
    }
}

impl Accounts {
    fn pick(&self, one: bool) -> &Account {
        if one { &self.one } else { &self.all }
    }
}

impl Model {
    /// Bytes with few values, so that searches find something, and no short period.
    fn data(&mut self, n: usize) -> Vec<u8> {
        let next = || {
            self.counter = self.counter.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (self.counter >> 24) as u8 % 8
        };
        std::iter::repeat_with(next).take(n).collect()
    }

    /// The data as memory that the test keeps as well, and checks in the end.
    fn shared(&mut self, data: &[u8]) -> Bytes {
        let bytes = Bytes::copy_from_slice(data);
        self.bytes.push((bytes.clone(), data.to_vec()));
        bytes
    }

    fn take(&mut self, n: usize) -> Vec<u8> {
        self.readable.drain(..n).collect()
    }

    fn expected(&mut self, n: usize) -> Result<Vec<u8>, Shortfall> {
        let available = self.readable.len();
        if n > available {
            return Err(Shortfall { requested: n, available });
        }
        Ok(self.take(n))
    }

    fn position(&mut self, needle: &[u8]) -> Option<usize> {
        let all = self.readable.make_contiguous();
        if needle.is_empty() {
            return Some(0);
        }
        all.windows(needle.len()).position(|window| window == needle)
    }

    /// Does the same to both, and compares what they return and what is left.
    pub(crate) fn run(&mut self, op: Op) {
        self.write(op);
        self.check();
    }

    fn write(&mut self, op: Op) {
        match op {
            Op::Write(n) => {
                let data = self.data(n);
                self.buffer.write_bytes(&data);
                self.pending.extend(data);
            }
            Op::WriteByte => {
                self.buffer.write_byte(7);
                self.pending.push(7);
            }
            Op::WriteString(n) => {
                let data = String::from_utf8(self.data(n)).unwrap();
                self.buffer.write_string(&data);
                self.pending.extend(data.into_bytes());
            }
            Op::WriteShared(n) => {
                let data = self.data(n);
                let bytes = self.shared(&data);
                self.buffer.write_shared(bytes);
                self.pending.extend(data);
            }
            Op::WriteDirect(n, remain) => {
                let data = self.data(n);
                let done = self.buffer.write_direct(data.clone().into(), remain);
                assert_eq!(done.is_ok(), remain <= self.pending.len());
                if done.is_ok() {
                    let at = self.pending.len() - remain;
                    self.pending.splice(at..at, data);
                }
            }
            Op::Malloc(n) => {
                let data = self.data(n);
                let room = self.buffer.malloc(n);
                assert!(room.len() == n && room.iter().all(|&byte| byte == 0));
                room.copy_from_slice(&data);
                self.pending.extend(data);
            }
            Op::MallocAck(n) => {
                let done = self.buffer.malloc_ack(n);
                assert_eq!(done.is_ok(), n <= self.pending.len());
                self.pending.truncate(n.max(if done.is_ok() { 0 } else { usize::MAX }));
            }
            Op::Put(_) | Op::PutByte | Op::ChunkMut => self.put(op),
            Op::AppendCopy(n) => {
                let data = self.data(n);
                let mut other = LinkBuffer::new();
                other.write_bytes(&data);
                self.buffer.append(other);
                self.pending.extend(data);
            }
            Op::AppendShared(n) => {
                let data = self.data(n);
                let bytes = self.shared(&data);
                self.buffer.append(bytes.into());
                self.pending.extend(data);
            }
            Op::Flush => {
                self.buffer.flush();
                self.readable.extend(self.pending.drain(..));
            }
            Op::Fill(max, arrives) => self.fill(max, arrives),
            other => self.read(other),
        }
    }

    fn put(&mut self, op: Op) {
        match op {
            Op::Put(n) => {
                let data = self.data(n);
                self.buffer.put(&data[..]);
                self.pending.extend(data);
            }
            Op::PutByte => {
                self.buffer.put_u8(6);
                self.pending.push(6);
            }
            Op::ChunkMut => {
                assert!(self.buffer.has_remaining_mut());
                assert!(self.buffer.chunk_mut().len() > 0, "there is always room");
            }
            other => unreachable!("{other:?} is handled above"),
        }
    }

    fn fill(&mut self, max: usize, arrives: usize) {
        let data = self.data(arrives);
        let mut source = &data[..];
        let filled = self.buffer.fill(max, |space| source.read_vectored(space)).unwrap();
        assert!(filled.read <= max && filled.read <= filled.reserved);
        assert!(
            filled.read == filled.reserved || filled.read == arrives,
            "{filled:?} of {arrives}"
        );
        self.readable.extend(self.pending.drain(..));
        self.readable.extend(&data[..filled.read]);
    }

    fn read(&mut self, op: Op) {
        match op {
            Op::Peek(n) => {
                let peeked = self.buffer.peek(n).map(<[u8]>::to_vec);
                let all = self.readable.make_contiguous();
                assert_eq!(peeked.ok().as_deref(), all.get(..n));
            }
            Op::Next(n) => {
                let expected = self.expected(n);
                assert_eq!(self.buffer.next(n).map(<[u8]>::to_vec), expected);
            }
            Op::Skip(n) => {
                let expected = self.expected(n);
                assert_eq!(self.buffer.skip(n), expected.map(drop));
            }
            Op::Consume(n) => {
                self.buffer.consume(n);
                self.take(n.min(self.readable.len()));
            }
            Op::Until(byte) => {
                let expected = self.position(&[byte]).map(|at| self.take(at + 1));
                assert_eq!(self.buffer.until(byte).map(<[u8]>::to_vec), expected);
            }
            Op::Find(byte) => assert_eq!(self.buffer.find(byte), self.position(&[byte])),
            Op::FindBytes(needle) => {
                assert_eq!(self.buffer.find_bytes(&needle), self.position(&needle));
            }
            Op::FindPart(..) | Op::FindAgain | Op::FindArriving(..) => self.find(op),
            Op::ReadString(n) => {
                let expected = self.expected(n).map(|data| Ok(String::from_utf8(data).unwrap()));
                assert_eq!(self.buffer.read_string(n), expected);
            }
            Op::ReadByte => {
                let expected = self.expected(1).map(|data| data[0]);
                assert_eq!(self.buffer.read_byte(), expected);
            }
            Op::CopyTo(n) => {
                let mut out = vec![0; n];
                let copied = self.buffer.copy_to(&mut out);
                assert_eq!(out[..copied], self.take(n.min(self.readable.len())));
            }
            Op::Gather(n) => {
                let mut out = [IoSlice::new(&[]); 6];
                let n = self.buffer.gather(&mut out[..n]);
                let gathered: Vec<u8> = out[..n].iter().flat_map(|chunk| chunk.to_vec()).collect();
                assert!(self.readable.make_contiguous().starts_with(&gathered));
            }
            Op::Chunks => {
                assert!(self.buffer.chunks().all(|chunk| !chunk.is_empty()));
                assert!(same(self.buffer.chunks(), self.readable.make_contiguous()));
            }
            Op::Release => self.buffer.release(),
            Op::Compact => {
                let before = self.buffer.held();
                self.buffer.compact();
                assert!(self.buffer.held() <= before);
            }
            Op::Clear => {
                self.buffer.clear();
                self.readable.clear();
                self.pending.clear();
            }
            other => self.cut(other),
        }
    }

    fn find(&mut self, op: Op) {
        match op {
            Op::FindPart(at, n) => {
                let from = at.min(self.readable.len());
                self.needle = self.readable.iter().skip(from).take(n % 80).copied().collect();
                if let Some(last) = self.needle.last_mut().filter(|_| at % 2 == 1) {
                    *last ^= 1;
                }
                self.find_again();
            }
            Op::FindAgain => self.find_again(),
            Op::FindArriving(there, n) => {
                self.write(Op::Flush);
                let from = self.readable.len().saturating_sub(there % 40);
                let arriving = self.data(n % 40);
                self.needle = self.readable.range(from..).chain(&arriving).copied().collect();
                self.find_again();
                self.buffer.write_bytes(&arriving);
                self.pending.extend(arriving);
                self.write(Op::Flush);
                self.find_again();
            }
            other => unreachable!("{other:?} is handled above"),
        }
    }

    fn find_again(&mut self) {
        let needle = self.needle.clone();
        assert_eq!(self.buffer.find_bytes(&needle), self.position(&needle));
    }

    fn cut(&mut self, op: Op) {
        match op {
            Op::Slice(n) => {
                let expected = self.expected(n);
                let slice = self.buffer.slice(n);
                assert_eq!(slice.as_ref().err(), expected.as_ref().err());
                self.slices.extend(slice.ok().zip(expected.ok()));
            }
            Op::SliceAndAppend(n) => {
                if let Ok(mut slice) = self.buffer.slice(n) {
                    // A slice can be written to, and that changes no bytes of another buffer.
                    slice.write_bytes(b"tail");
                    self.buffer.append(slice);
                    let data = self.take(n);
                    self.pending.extend(data);
                    self.pending.extend(b"tail");
                }
            }
            Op::ReadBytes(n) => {
                let expected = self.expected(n);
                let bytes = self.buffer.read_bytes(n);
                assert_eq!(bytes.as_ref().err(), expected.as_ref().err());
                self.bytes.extend(bytes.ok().zip(expected.ok()));
            }
            Op::ReadBytesCharged(n) => {
                let expected = self.expected(n);
                let bytes = self.buffer.read_bytes_charged(n, &self.accounts.one);
                assert_eq!(bytes.as_ref().err(), expected.as_ref().err());
                self.bytes.extend(bytes.ok().zip(expected.ok()));
            }
            Op::Charge(one) => self.buffer.charge(self.accounts.pick(one)),
            Op::ChargeAdded(one) => self.buffer.charge_added(self.accounts.pick(one)),
            Op::ChargeSlice(one) => {
                if let Some((slice, _)) = self.slices.last_mut() {
                    slice.charge(self.accounts.pick(one));
                }
            }
            Op::CopyToBytes(n) => {
                let n = n.min(self.buffer.remaining());
                let bytes = self.buffer.copy_to_bytes(n);
                let data = self.take(n);
                self.bytes.push((bytes, data));
            }
            other => unreachable!("{other:?} is handled above"),
        }
    }

    fn check(&mut self) {
        assert_eq!(self.buffer.len(), self.readable.len());
        assert_eq!(self.buffer.malloc_len(), self.pending.len());
        assert!(self.readable.make_contiguous().starts_with(self.buffer.chunk()));
        assert_eq!(self.buffer.chunk().is_empty(), self.readable.is_empty());
        assert!(self.accounts.one.held() <= self.accounts.all.held());
    }

    /// Compares everything that is left, and what was cut off long ago; when it is dropped, no
    /// account is charged with anything.
    pub(crate) fn finish(mut self) {
        self.write(Op::Flush);
        assert!(same(self.buffer.chunks(), self.readable.make_contiguous()));
        for (slice, expected) in &self.slices {
            assert!(same(slice.chunks(), expected), "a slice changed");
        }
        for (bytes, expected) in &self.bytes {
            assert!(bytes == expected, "shared bytes changed");
        }
        let Self { accounts, buffer, slices, bytes, .. } = self;
        drop((buffer, slices, bytes));
        assert_eq!((accounts.one.held(), accounts.all.held()), (0, 0));
    }
}

/// Whether the chunks are the expected bytes. By slices: a fuzzer traces every other comparison.
fn same<'a>(chunks: impl Iterator<Item = &'a [u8]>, mut expected: &[u8]) -> bool {
    for chunk in chunks {
        match expected.strip_prefix(chunk) {
            Some(rest) => expected = rest,
            None => return false,
        }
    }
    expected.is_empty()
}
