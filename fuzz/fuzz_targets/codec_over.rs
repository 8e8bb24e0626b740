//! `Over` gives the same frames and errors for every split of every stream as its plain model.
#![no_main]

use libfuzzer_sys::fuzz_target;

mod codec;

fuzz_target!(|bytes: &[u8]| codec::check(bytes, codec::over));
