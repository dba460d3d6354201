//! See `dq_fuzz::decoders::params`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| dq_fuzz::decoders::params(input));
