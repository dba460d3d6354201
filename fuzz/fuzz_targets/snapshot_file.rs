//! See `dq_fuzz::decoders::snapshot_file`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| dq_fuzz::decoders::snapshot_file(input));
