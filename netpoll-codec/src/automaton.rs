//! Searches for several delimiters at once, byte by byte, without ever going back.

/// An automaton of Aho and Corasick (Efficient string matching, 1975), as a table.
///
/// Its state is the longest beginning of a delimiter that the last bytes match. That is all that
/// must be kept between two arrivals:
///
/// ```text
///   "\r\n", "\n":        \r         \n
///                ┌──▶ 0 ────▶ "\r" ────▶ "\r\n"  a delimiter of 2 bytes ends here
///                │    │ \n
///          other └──◀─┴─────▶ "\n"               a delimiter of 1 byte ends here
/// ```
#[derive(Debug)]
pub(crate) struct Automaton {
    states: Vec<State>,
}

#[derive(Clone, Debug)]
struct State {
    next: [u16; 256],
    /// How long the longest delimiter is that ends here; 0 if none does.
    ends: usize,
}

/// No state yet.
const NONE: u16 = u16::MAX;

/// The state of a run through the automaton. A run begins with the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place(u16);

impl Automaton {
    /// For delimiters that aren't empty and have less than 65535 bytes together.
    pub(crate) fn new(delimiters: &[&[u8]]) -> Self {
        let mut states = vec![State::new()];
        for delimiter in delimiters {
            let mut at = 0;
            for &byte in *delimiter {
                let next = states[at].next[usize::from(byte)];
                at = if next == NONE {
                    let new = states.len();
                    states[at].next[usize::from(byte)] = new as u16;
                    states.push(State::new());
                    new
                } else {
                    next.into()
                };
            }
            states[at].ends = delimiter.len();
        }
        fall_back(&mut states);
        Self { states }
    }

    /// Runs over `bytes` until a delimiter ends: behind how many of them, and how long it is.
    pub(crate) fn run(&self, place: &mut Place, bytes: &[u8]) -> Option<(usize, usize)> {
        let mut state = &self.states[usize::from(place.0)];
        for (index, &byte) in bytes.iter().enumerate() {
            place.0 = state.next[usize::from(byte)];
            state = &self.states[usize::from(place.0)];
            if state.ends > 0 {
                return Some((index + 1, state.ends));
            }
        }
        None
    }
}

impl State {
    fn new() -> Self {
        Self { next: [NONE; 256], ends: 0 }
    }
}

/// Gives every state a transition for every byte: where one delimiter does not go on, another may
/// have begun meanwhile. Breadth first, so that the states to fall back to are complete.
fn fall_back(states: &mut [State]) {
    let mut fallbacks = vec![0_u16; states.len()];
    let mut queue = vec![0_usize];
    let mut done = 0;
    while let Some(&at) = queue.get(done) {
        done += 1;
        let back = usize::from(fallbacks[at]);
        if states[at].ends == 0 {
            states[at].ends = states[back].ends;
        }
        for byte in 0..256 {
            let over_there = if at == 0 { 0 } else { states[back].next[byte] };
            let next = states[at].next[byte];
            if next == NONE {
                states[at].next[byte] = over_there;
            } else {
                fallbacks[usize::from(next)] = over_there;
                queue.push(next.into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The end of the first delimiter in `text`, and its length.
    fn first(delimiters: &[&[u8]], text: &[u8]) -> Option<(usize, usize)> {
        Automaton::new(delimiters).run(&mut Place::default(), text)
    }

    #[test]
    fn a_delimiter_that_fails_may_have_begun_again() {
        assert_eq!(first(&[b"aab"], b"aaab"), Some((4, 3)));
        assert_eq!(first(&[b"ababc"], b"abababc"), Some((7, 5)));
        assert_eq!(first(&[b"abcd", b"bcx"], b"abcx"), Some((4, 3)));
    }

    #[test]
    fn of_two_that_end_together_the_longer_is_found() {
        for delimiters in [[&b"\r\n"[..], b"\n"], [b"\n", b"\r\n"]] {
            assert_eq!(first(&delimiters, b"a\r\n"), Some((3, 2)));
            assert_eq!(first(&delimiters, b"a\n\r\n"), Some((2, 1)));
        }
    }

    #[test]
    fn a_run_goes_on_where_it_stood() {
        let automaton = Automaton::new(&[b"\r\n\r\n"]);
        let mut place = Place::default();
        for piece in [&b"abc\r"[..], b"\n", b"\r"] {
            assert_eq!(automaton.run(&mut place, piece), None);
        }
        assert_eq!(automaton.run(&mut place, b"\nd"), Some((1, 4)));
    }
}
