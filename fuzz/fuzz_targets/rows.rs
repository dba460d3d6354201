//! Rows that decode to their end are encoded to rows that decode to the same.

#![no_main]

use dq_wire::{DecodeError, Header, Rows, RowsEncoder};
use libfuzzer_sys::fuzz_target;

/// The batch as it would be sent, if it can be read to its end.
fn encode_again(body: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let mut rows = Rows::decode(body)?;
    let mut encoder = RowsEncoder::begin(Vec::new(), rows.columns().iter().copied());
    let mut row = Vec::new();
    while rows.next_row(&mut row)? {
        encoder.push_row(&row);
    }
    Ok(encoder.finish(rows.end().expect("rows that are over have an end")))
}

fuzz_target!(|body: &[u8]| {
    if let Ok(once) = encode_again(body) {
        let twice = encode_again(&once[Header::SIZE..]).expect("encoded rows");
        assert_eq!(once, twice);
    }
});
