//! A response that decodes is encoded to something that decodes to the same.

#![no_main]

use dq_wire::response::Dialect;
use dq_wire::{Header, Response};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Ok(header) = Header::decode(input) else {
        return;
    };
    let body = &input[Header::SIZE..];
    let body = &body[..body.len() / 8 * 8];
    // The field that nobody looks at chooses what the client asked for.
    let dialect = Dialect {
        legacy: header.extra & 1 != 0,
        cluster_format: u64::from(header.extra >> 1 & 1),
    };
    let Ok(response) = Response::decode_dialect(&header, body, dialect) else {
        return;
    };
    // A file whose size is not a multiple of 8 can be received, but not sent.
    if let Response::Files { list } = &response
        && list.iter().any(|file| file.data.len() % 8 != 0)
    {
        return;
    }
    let mut out = Vec::new();
    response.encode(&mut out);
    let header = Header::decode(&out).expect("an encoded header");
    let back = Response::decode_dialect(&header, &out[Header::SIZE..], dialect);
    assert_eq!(back, Ok(response));
});
