//! See `dq_fuzz::peer::run`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    dq_fuzz::peer::run(input);
});
