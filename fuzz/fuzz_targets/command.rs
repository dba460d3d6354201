//! A command that decodes has its pages inside the entry, and FRAMES are encoded to the same.

#![no_main]

use dq_wire::{Command, PAGE_SIZE, encode_frames_header};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|entry: &[u8]| {
    let Ok(Command::Frames(frames)) = Command::decode(entry) else {
        return;
    };
    assert_eq!(frames.pages().len(), frames.len());
    let numbers: Vec<u32> = frames.pages().map(|(number, _)| number).collect();
    let mut out = encode_frames_header(frames.name, frames.tx_id, numbers.iter().copied());
    for (number, page) in frames.pages() {
        assert!((1..1 << 31).contains(&number));
        assert_eq!(page.len(), PAGE_SIZE);
        out.extend_from_slice(page);
    }
    let Ok(Command::Frames(back)) = Command::decode(&out) else {
        panic!("encoded frames");
    };
    assert_eq!((back.name, back.tx_id), (frames.name, frames.tx_id));
    assert!(back.pages().eq(frames.pages()));
});
