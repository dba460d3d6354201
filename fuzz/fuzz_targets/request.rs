//! A request that decodes is encoded to something that decodes to the same.

#![no_main]

use dq_wire::{Header, Request};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Ok(header) = Header::decode(input) else {
        return;
    };
    // Servers read bodies of whole words only.
    let body = &input[Header::SIZE..];
    let body = &body[..body.len() / 8 * 8];
    if let Ok(request) = Request::decode(&header, body) {
        let mut out = Vec::new();
        request.encode(&mut out);
        let header = Header::decode(&out).expect("an encoded header");
        let back = Request::decode(&header, &out[Header::SIZE..]);
        assert_eq!(back, Ok(request));
    }
});
