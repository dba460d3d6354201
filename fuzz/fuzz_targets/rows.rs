//! See `dq_fuzz::decoders::rows`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| dq_fuzz::decoders::rows(input));
