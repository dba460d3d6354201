//! A snapshot that decodes is encoded to the same databases; WALs to frames of whole pages.

#![no_main]

use dq_wire::PAGE_SIZE;
use dq_wire::disk::fsm_snapshot::{
    DatabaseHead, WalFrames, decode_snapshot, encode_database_head, encode_snapshot_head,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    check_wal(input);
    let Ok(databases) = decode_snapshot(input) else {
        return;
    };
    let mut out = Vec::new();
    encode_snapshot_head(&mut out, databases.len() as u64);
    for database in &databases {
        assert_eq!(database.main.len() % PAGE_SIZE, 0);
        check_wal(database.wal);
        let head = DatabaseHead {
            name: database.name,
            main_size: database.main.len() as u64,
            wal_size: database.wal.len() as u64,
        };
        encode_database_head(&mut out, &head);
        out.extend_from_slice(database.main);
        out.extend_from_slice(database.wal);
    }
    assert_eq!(decode_snapshot(&out), Ok(databases));
});

fn check_wal(wal: &[u8]) {
    if let Ok(frames) = WalFrames::decode(wal) {
        assert_eq!(frames.database_pages().is_some(), frames.pages().len() > 0);
        for (number, page) in frames.pages() {
            assert_ne!(number, 0);
            assert_eq!(page.len(), PAGE_SIZE);
        }
    }
}
