//! Searches for the end of a delimited frame, without looking twice at the same bytes.

use std::sync::Arc;

use netpoll_buffer::LinkBuffer;

use crate::automaton::{Automaton, Place};

/// What ends a frame, and how far the search has come.
#[derive(Clone, Debug)]
pub(crate) enum Search {
    /// `\n` or `\r\n`.
    Newline,
    /// One delimiter; the buffer remembers how far it looked, and looks with SIMD.
    One(Arc<[u8]>),
    /// Several delimiters.
    Several { automaton: Arc<Automaton>, place: Place, looked: usize, longest: usize },
}

/// The end of a frame that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ending {
    pub(crate) payload: usize,
    pub(crate) delimiter: usize,
}

impl Search {
    /// The delimiter that is complete first; the longest one if several end there.
    #[inline]
    pub(crate) fn find(&mut self, input: &mut LinkBuffer) -> Option<Ending> {
        match self {
            Self::Newline => {
                let at = input.find(b'\n')?;
                let carriage = at.checked_sub(1).is_some_and(|at| byte(input, at) == Some(b'\r'));
                let delimiter = 1 + usize::from(carriage);
                Some(Ending { payload: at + 1 - delimiter, delimiter })
            }
            Self::One(delimiter) => {
                let payload = input.find_bytes(delimiter)?;
                Some(Ending { payload, delimiter: delimiter.len() })
            }
            Self::Several { automaton, place, looked, .. } => {
                let mut start = 0; // of the chunk, in the input
                for chunk in input.chunks() {
                    let skip = looked.saturating_sub(start).min(chunk.len());
                    if let Some((end, delimiter)) = automaton.run(place, &chunk[skip..]) {
                        (*place, *looked) = (Place::default(), 0);
                        let payload = (start + skip + end).saturating_sub(delimiter);
                        return Some(Ending { payload, delimiter });
                    }
                    start += chunk.len();
                }
                *looked = start;
                None
            }
        }
    }

    /// How many bytes the longest delimiter has.
    pub(crate) fn longest(&self) -> usize {
        match self {
            Self::Newline => 2,
            Self::One(delimiter) => delimiter.len(),
            Self::Several { longest, .. } => *longest,
        }
    }

    /// The first `n` bytes, in which no delimiter was found, were removed.
    pub(crate) fn consumed(&mut self, n: usize) {
        // For the others the buffer keeps how far it has looked, and adjusts it itself.
        if let Self::Several { looked, .. } = self {
            *looked = looked.saturating_sub(n);
        }
    }
}

#[inline]
fn byte(input: &LinkBuffer, mut at: usize) -> Option<u8> {
    for chunk in input.chunks() {
        if let Some(byte) = chunk.get(at) {
            return Some(*byte);
        }
        at -= chunk.len();
    }
    None
}
