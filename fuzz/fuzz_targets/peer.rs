//! Other nodes of a cluster: see `dq_fuzz::peer`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| dq_fuzz::peer::run(input));
