//! See `dq_fuzz::data_dir::run`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    dq_fuzz::data_dir::run(input);
});
