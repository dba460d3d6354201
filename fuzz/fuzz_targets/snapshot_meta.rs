//! The file of a snapshot that decodes is encoded to something that decodes to the same.

#![no_main]

use dq_wire::disk::checksum::checksum;
use dq_wire::disk::snapshot_meta::SnapshotMetaFile;
use libfuzzer_sys::fuzz_target;

fn check(file: &[u8]) {
    if let Ok(meta) = SnapshotMetaFile::decode(file) {
        assert_eq!(SnapshotMetaFile::decode(&meta.encode()), Ok(meta));
    }
}

fuzz_target!(|input: &[u8]| {
    check(input);
    // No fuzzer finds a checksum by itself.
    let mut file = input.to_vec();
    if file.len() >= 32 {
        let checksum = u64::from(checksum(&file[16..]));
        file[8..16].copy_from_slice(&checksum.to_le_bytes());
        check(&file);
    }
});
