//! See `dq_fuzz::session::run`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    dq_fuzz::session::run(input);
});
