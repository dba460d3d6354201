//! See `dq_fuzz::decoders::raft_rpc`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| dq_fuzz::decoders::raft_rpc(input));
