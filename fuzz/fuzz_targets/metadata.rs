//! Metadata that decode are encoded to the same bytes; names to the same name.

#![no_main]

use dq_wire::disk::metadata::Metadata;
use dq_wire::disk::names::FileName;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Ok(metadata) = Metadata::decode(input) {
        assert_eq!(metadata.encode(), input);
    }
    if let Ok(name) = str::from_utf8(input)
        && let Some(meaning) = FileName::parse(name)
    {
        assert_eq!(meaning.to_string(), name);
    }
});
