//! See `dq_fuzz::decoders::snapshot_meta`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| dq_fuzz::decoders::snapshot_meta(input));
