//! What the fuzz targets of all codecs share: a codec and a stream out of the fuzzer's bytes.
//!
//! The first bytes are parameters, the next ones the sizes of the pieces in which the rest arrives.
//! The frames and errors must be those that the model of the property tests gives for the whole.

#[path = "../../netpoll-codec/tests/it/model.rs"]
mod model;

pub(crate) use model::Shape;

const PIECES: usize = 8;

/// The fuzzer's bytes, taken off the front; zeros once there are none.
pub(crate) struct Input<'a>(&'a [u8]);

impl Input<'_> {
    pub(crate) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    pub(crate) fn flag(&mut self) -> bool {
        self.byte() % 2 == 1
    }

    /// From 1 to 64.
    pub(crate) fn size(&mut self) -> usize {
        usize::from(self.byte() % 64) + 1
    }
}

/// Compares a codec with its model.
pub(crate) fn check(bytes: &[u8], shape: impl FnOnce(&mut Input<'_>) -> Shape) {
    let mut input = Input(bytes);
    let shape = shape(&mut input);
    let pieces: Vec<usize> = (0..PIECES).map(|_| usize::from(input.byte())).collect();
    let stream = input.0;
    if let Some(outcome) = shape.decoded(stream, &pieces) {
        assert_eq!(outcome, shape.expected(stream), "{shape:?} in pieces of {pieces:?}");
    }
}

pub(crate) fn lines(input: &mut Input<'_>) -> Shape {
    Shape::Lines { max: input.size(), keep: input.flag(), late: input.flag() }
}

pub(crate) fn delimited(input: &mut Input<'_>) -> Shape {
    let count = 1 + input.byte() % 3;
    let mut delimiters = Vec::new();
    for _ in 0..count {
        let length = 1 + input.byte() % 5;
        delimiters.push((0..length).map(|_| input.byte() % 4).collect());
    }
    Shape::Delimited { delimiters, max: input.size(), keep: input.flag(), late: input.flag() }
}

pub(crate) fn fixed(input: &mut Input<'_>) -> Shape {
    Shape::Fixed(input.size())
}

pub(crate) fn field(input: &mut Input<'_>) -> Shape {
    use netpoll_codec::{ByteOrder, LengthFieldOptions};
    let adjustment = i32::from(input.byte() as i8);
    Shape::Field(LengthFieldOptions {
        width: usize::from(input.byte() % 9),
        offset: usize::from(input.byte() % 16),
        adjustment: if input.flag() { adjustment } else { adjustment << 24 },
        strip: usize::from(input.byte() % 32),
        order: if input.flag() { ByteOrder::Little } else { ByteOrder::Big },
        max: input.size(),
        fail_fast: input.flag(),
    })
}

pub(crate) fn prefix(input: &mut Input<'_>) -> Shape {
    Shape::Prefix {
        width: usize::from(input.byte() % 9),
        little: input.flag(),
        itself: input.flag(),
        max: input.size(),
        late: input.flag(),
    }
}

pub(crate) fn varint(input: &mut Input<'_>) -> Shape {
    Shape::Varint { max: input.size(), late: input.flag() }
}

/// One codec over another.
pub(crate) fn over(input: &mut Input<'_>) -> Shape {
    let outer = any(input);
    Shape::Over(outer.into(), any(input).into())
}

fn any(input: &mut Input<'_>) -> Shape {
    match input.byte() % 6 {
        0 => lines(input),
        1 => delimited(input),
        2 => fixed(input),
        3 => field(input),
        4 => prefix(input),
        _ => varint(input),
    }
}
