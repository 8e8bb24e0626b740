//! What each codec should do, as plainly as possible over one contiguous slice; and how to feed a
//! stream to a decoder in pieces. The fuzz targets use it too.

use netpoll_buffer::LinkBuffer;
use netpoll_codec::{
    ByteOrder, Decode, Delimited, Fault, FixedLength, FrameError, LengthField, LengthFieldOptions,
    LengthPrefix, Lines, Over, VarintLength,
};

/// A codec and its parameters.
#[derive(Clone, Debug)]
pub(crate) enum Shape {
    Lines { max: usize, keep: bool, late: bool },
    Delimited { delimiters: Vec<Vec<u8>>, max: usize, keep: bool, late: bool },
    Fixed(usize),
    Field(LengthFieldOptions),
    Prefix { width: usize, little: bool, itself: bool, max: usize, late: bool },
    Varint { max: usize, late: bool },
    Over(Box<Shape>, Box<Shape>),
}

/// All frames and errors of a stream.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) frames: Vec<Result<Vec<u8>, FrameError>>,
    /// The frame that the stream ended in.
    pub(crate) torn: Option<FrameError>,
}

impl Shape {
    /// The codec; `None` when there is none with these parameters.
    pub(crate) fn decoder(&self) -> Option<Box<dyn Decode>> {
        Some(match self.clone() {
            Self::Lines { max, keep, late } => {
                let lines = Lines::new(max).ok()?;
                let lines = if keep { lines.keep_ending() } else { lines };
                Box::new(if late { lines.fail_late() } else { lines })
            }
            Self::Delimited { delimiters, max, keep, late } => {
                let delimiters: Vec<&[u8]> = delimiters.iter().map(|one| &one[..]).collect();
                let codec = Delimited::new(&delimiters, max).ok()?;
                let codec = if keep { codec.keep_delimiter() } else { codec };
                Box::new(if late { codec.fail_late() } else { codec })
            }
            Self::Fixed(length) => Box::new(FixedLength::new(length).ok()?),
            Self::Field(options) => Box::new(LengthField::new(options).ok()?),
            Self::Prefix { width, little, itself, max, late } => {
                let codec = LengthPrefix::new(width, max).ok()?;
                let codec = if little { codec.little_endian() } else { codec };
                let codec = if itself { codec.counting_itself() } else { codec };
                Box::new(if late { codec.fail_late() } else { codec })
            }
            Self::Varint { max, late } => {
                let codec = VarintLength::new(max).ok()?;
                Box::new(if late { codec.fail_late() } else { codec })
            }
            Self::Over(outer, inner) => Box::new(Over::new(outer.decoder()?, inner.decoder()?)),
        })
    }

    /// The frames and errors that a stream should give.
    pub(crate) fn expected(&self, stream: &[u8]) -> Outcome {
        match self {
            Self::Lines { max, keep, late } => {
                terminated(stream, &[b"\r\n", b"\n"], *max, *keep, *late)
            }
            Self::Delimited { delimiters, max, keep, late } => {
                let delimiters: Vec<&[u8]> = delimiters.iter().map(|one| &one[..]).collect();
                terminated(stream, &delimiters, *max, *keep, *late)
            }
            Self::Fixed(length) => {
                let frames = stream.chunks_exact(*length);
                let rest = frames.remainder().len();
                let torn = (rest > 0).then(|| torn_at(stream.len() - rest, stream));
                Outcome { frames: frames.map(|frame| Ok(frame.to_vec())).collect(), torn }
            }
            Self::Field(options) => field(stream, options, 0),
            Self::Prefix { width, little, itself, max, late } => {
                let options = LengthFieldOptions {
                    width: *width,
                    offset: 0,
                    adjustment: if *itself { -(width.cast_signed() as i32) } else { 0 },
                    strip: *width,
                    order: if *little { ByteOrder::Little } else { ByteOrder::Big },
                    max: *max,
                    fail_fast: !late,
                };
                field(stream, &options, *width)
            }
            Self::Varint { max, late } => varint(stream, *max, *late),
            Self::Over(outer, inner) => over(stream, outer, inner),
        }
    }

    /// How many bytes may be left undecoded.
    fn bound(&self) -> usize {
        match self {
            Self::Lines { max, .. } => max + 2,
            Self::Delimited { delimiters, max, .. } => {
                max + delimiters.iter().map(Vec::len).max().unwrap_or(0)
            }
            Self::Fixed(length) => *length,
            Self::Field(options) => options.max,
            Self::Prefix { width, max, .. } => width + max,
            Self::Varint { max, .. } => 5 + max,
            Self::Over(outer, _) => outer.bound(),
        }
    }

    /// Feeds a stream to a decoder in pieces of these sizes, over and over, and checks that no more
    /// bytes are left than must be. `None` when there is no such codec.
    pub(crate) fn decoded(&self, stream: &[u8], pieces: &[usize]) -> Option<Outcome> {
        let mut decoder = self.decoder()?;
        let mut input = LinkBuffer::new();
        let mut outcome = Outcome::default();
        let mut sizes = pieces.iter().copied().cycle();
        let mut left = stream;
        while !left.is_empty() {
            let size = sizes.next().unwrap_or(usize::MAX).clamp(1, left.len());
            let (now, later) = left.split_at(size);
            // Behind the last one in its block, or in a block of its own.
            if size % 2 == 0 {
                input.write_bytes(now);
            } else {
                input.append(LinkBuffer::from(now.to_vec()));
            }
            input.flush();
            left = later;
            drain(&mut *decoder, &mut input, &mut outcome.frames);
            assert!(input.len() <= self.bound(), "{} bytes are left of {self:?}", input.len());
        }
        outcome.torn = decoder.finish(&input).err();
        Some(outcome)
    }
}

/// Takes all frames that there are, each in another way.
fn drain(
    decoder: &mut dyn Decode,
    input: &mut LinkBuffer,
    frames: &mut Vec<Result<Vec<u8>, FrameError>>,
) {
    loop {
        let frame = match decoder.decode(input) {
            Ok(None) => return,
            Err(error) => Err(error),
            Ok(Some(mut frame)) => Ok(match frames.len() % 4 {
                0 => frame.bytes().to_vec(),
                1 => frame.into_bytes().to_vec(),
                2 => frame.into_buffer().chunks().flatten().copied().collect(),
                _ => frame.peek(frame.len()).expect("all of it").to_vec(),
            }),
        };
        frames.push(frame);
    }
}

fn torn_at(position: usize, stream: &[u8]) -> FrameError {
    let received = (stream.len() - position) as u64;
    FrameError::TruncatedFrame { position: position as u64, received }
}

fn terminated(stream: &[u8], delimiters: &[&[u8]], max: usize, keep: bool, late: bool) -> Outcome {
    let mut outcome = Outcome::default();
    let longest = delimiters.iter().map(|one| one.len()).max().expect("there is one");
    let mut begin = 0;
    while begin < stream.len() {
        let position = begin as u64;
        let too_long = |length: usize| {
            let length = late.then_some(length as u64);
            Err(FrameError::FrameTooLong { position, length, max })
        };
        let ending = (begin + 1..=stream.len()).find_map(|end| {
            let ends = delimiters.iter().filter(|one| stream[begin..end].ends_with(one));
            ends.map(|one| one.len()).max().map(|length| (end, length))
        });
        let Some((end, delimiter)) = ending else {
            if !late && stream.len() - begin >= max + longest {
                outcome.frames.push(too_long(0));
            }
            outcome.torn = Some(torn_at(begin, stream));
            return outcome;
        };
        let payload = end - delimiter - begin;
        outcome.frames.push(if payload > max {
            too_long(payload)
        } else {
            Ok(stream[begin..if keep { end } else { end - delimiter }].to_vec())
        });
        begin = end;
    }
    outcome
}

fn field(stream: &[u8], options: &LengthFieldOptions, uncounted: usize) -> Outcome {
    let end = options.offset + options.width;
    framed(stream, options.max, !options.fail_fast, |rest| {
        let mut digits = rest.get(options.offset..end)?.to_vec();
        if options.order == ByteOrder::Little {
            digits.reverse();
        }
        let length = digits.iter().fold(0_i128, |length, byte| length * 256 + i128::from(*byte));
        let total = length + i128::from(options.adjustment) + end as i128;
        Some(if length >= 1 << 63 {
            Header::Corrupted(Fault::NegativeLength, end)
        } else if total < end as i128 {
            Header::Corrupted(Fault::ShorterThanHeader, end)
        } else {
            let total = u64::try_from(total).expect("not below `end`");
            let counted = total.saturating_sub(uncounted as u64);
            Header::Frame { total, counted, strip: options.strip }
        })
    })
}

fn varint(stream: &[u8], max: usize, late: bool) -> Outcome {
    framed(stream, max, late, |rest| {
        let bytes = &rest[..rest.len().min(5)];
        let last = bytes.iter().position(|byte| byte & 0x80 == 0);
        let Some(last) = last else {
            return (bytes.len() == 5).then_some(Header::Corrupted(Fault::LongVarint, 5));
        };
        let length =
            bytes[..=last].iter().rev().fold(0, |all, byte| all << 7 | u64::from(byte & 0x7F));
        if length > u64::from(u32::MAX) {
            return Some(Header::Corrupted(Fault::LongVarint, 5));
        }
        let total = length + last as u64 + 1;
        Some(Header::Frame { total, counted: length, strip: last + 1 })
    })
}

/// What the header at the front of a stream holds.
enum Header {
    Frame {
        total: u64,
        counted: u64,
        strip: usize,
    },
    /// The header is wrong in this way, and as many bytes must be skipped.
    Corrupted(Fault, usize),
}

fn framed(
    stream: &[u8],
    max: usize,
    late: bool,
    header: impl Fn(&[u8]) -> Option<Header>,
) -> Outcome {
    let mut outcome = Outcome::default();
    let mut begin = 0;
    while begin < stream.len() {
        let position = begin as u64;
        let corrupted = |fault| Err(FrameError::CorruptedFrame { position, fault });
        let rest = &stream[begin..];
        let torn = Some(torn_at(begin, stream));
        match header(rest) {
            None => return Outcome { torn, ..outcome },
            Some(Header::Corrupted(fault, skip)) => {
                outcome.frames.push(corrupted(fault));
                begin += skip;
            }
            Some(Header::Frame { total, counted, strip }) => {
                let complete = rest.len() as u64 >= total;
                let too_long = counted > max as u64;
                if too_long && (complete || !late) {
                    let length = Some(counted);
                    outcome.frames.push(Err(FrameError::FrameTooLong { position, length, max }));
                }
                if !complete {
                    return Outcome { torn, ..outcome };
                }
                let frame = &rest[..total as usize];
                if !too_long {
                    let payload = frame.get(strip..).map(|payload| Ok(payload.to_vec()));
                    let short = || corrupted(Fault::ShorterThanStripped);
                    outcome.frames.push(payload.unwrap_or_else(short));
                }
                begin += frame.len();
            }
        }
    }
    outcome
}

fn over(stream: &[u8], outer: &Shape, inner: &Shape) -> Outcome {
    let mut frames = Vec::new();
    let mut between = Vec::new();
    let mut told = 0;
    let Outcome { frames: outer_frames, torn } = outer.expected(stream);
    for frame in outer_frames {
        match frame {
            Ok(payload) => between.extend(payload),
            Err(error) => frames.push(Err(error)),
        }
        let all = inner.expected(&between).frames;
        frames.extend_from_slice(&all[told..]);
        told = all.len();
    }
    Outcome { frames, torn: torn.or(inner.expected(&between).torn) }
}
