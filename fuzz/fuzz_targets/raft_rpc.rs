//! A message that decodes is encoded to something that decodes to the same.

#![no_main]

use dq_wire::raft_rpc::{Message, Preamble};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Ok(preamble) = Preamble::decode(input) else {
        return;
    };
    // The size that it says matters only to whoever reads from a socket.
    let header = &input[Preamble::SIZE..];
    if let Ok(message) = Message::decode(preamble.kind, header) {
        let mut out = Vec::new();
        // Padding may make it longer than what was received, and so too large.
        if message.encode(preamble.seq, &mut out).is_err() {
            return;
        }
        let again = Preamble::decode(&out).expect("an encoded preamble");
        assert_eq!((again.kind, again.seq), (preamble.kind, preamble.seq));
        assert_eq!(
            Message::decode(again.kind, &out[Preamble::SIZE..]),
            Ok(message)
        );
    }
});
