//! See `dq_fuzz::decoders::fsm_snapshot`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| dq_fuzz::decoders::fsm_snapshot(input));
