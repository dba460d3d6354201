//! Databases that no SQLite wrote, as a broken snapshot or a hostile peer might bring them: errors,
//! never a crash, and nothing that nodes could disagree on.
//!
//! `DQ_VFS_SEED` and `DQ_VFS_STEPS` choose another run.

mod common;

use common::{Node, Random, execute, next_number, seed_and_steps};
use dq_vfs::{Db, Page, PageNo, Version};

/// A database with tables, an index, overflow pages and free pages.
fn sound() -> Node {
    let mut node = Node::new();
    let mut db = node.open();
    node.must(
        &mut db,
        "PRAGMA auto_vacuum = 1; VACUUM; CREATE TABLE t (k INTEGER PRIMARY KEY, v); \
         CREATE INDEX i ON t (v); CREATE TABLE u (x PRIMARY KEY) WITHOUT ROWID; \
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100) \
         INSERT INTO t SELECT i, printf('%.*c', i * 20, 'x') FROM n; \
         INSERT INTO u SELECT v FROM t WHERE k < 50; DELETE FROM t WHERE k % 5 = 0",
    );
    node
}

/// The same database with a few bytes changed.
fn damaged(version: &Version, random: &mut Random) -> Version {
    let mut version = version.clone();
    for _ in 0..1 + random.below(3) {
        let last = u64::from(version.page_count());
        let number = PageNo(if random.one_in(3) {
            1
        } else {
            1 + random.below(last) as u32
        });
        let mut bytes = *version.page(number).unwrap().bytes();
        for _ in 0..1 + random.below(20) {
            // Headers of files and of pages are at the start.
            let end = if random.one_in(2) { 120 } else { 4096 };
            let value = random.next() as u8;
            bytes[random.below(end) as usize] = if random.one_in(3) { 255 } else { value };
        }
        let size = if random.one_in(10) {
            1 + random.below(last)
        } else {
            last
        } as u32;
        version = version.successor(next_number(), &[(number, Page::copy_from(&bytes))], size);
    }
    version
}

#[test]
fn damaged_databases_give_errors_and_no_transaction_of_theirs_has_an_unclear_size() {
    let (seed, steps) = seed_and_steps(60);
    println!("DQ_VFS_SEED={seed} DQ_VFS_STEPS={steps}");
    let mut random = Random::new(seed);
    let mut node = sound();
    let sound = node.head.clone();
    let mut errors = 0;
    for _ in 0..steps {
        node.head = damaged(&sound, &mut random);
        errors += u64::from(node.head.quick_check(&node.vfs).is_err());
        let Ok(mut db) = Db::open(&node.vfs, b"damaged", node.head.clone()) else {
            continue;
        };
        for sql in [
            "PRAGMA integrity_check",
            "SELECT sum(length(v)), count(*) FROM t; SELECT max(x) FROM u",
            "INSERT INTO t (v) VALUES (zeroblob(30000)); DELETE FROM t WHERE k < 9",
            "UPDATE t SET v = k || v; DELETE FROM u",
            "PRAGMA writable_schema = 1; DROP TABLE t",
            "PRAGMA incremental_vacuum",
            "VACUUM",
        ] {
            db.grant(node.grant());
            let _ = execute(&mut db, sql, &[]);
            let mut head = node.head.clone();
            for capture in db.take_captures() {
                // The node refuses what does not pass; what passes must apply.
                if !head.check_size(&capture.pages, capture.page_count) {
                    break;
                }
                let applied = head.apply(next_number(), &capture.pages).unwrap();
                head = head.successor(next_number(), &capture.pages, capture.page_count);
                assert_eq!(applied.fingerprint(), head.fingerprint());
                db.published(&head);
            }
            db.release();
            db.rollback();
        }
    }
    assert!(errors > steps / 3, "{errors} of {steps} were found damaged");
}

#[test]
fn random_bytes_are_no_database() {
    let mut random = Random::new(5);
    let node = Node::new();
    for _ in 0..50 {
        let bytes: Vec<u8> = (0..4096).map(|_| random.next() as u8).collect();
        let version = Version::from_pages(next_number(), [Page::copy_from(&bytes)]);
        assert!(version.quick_check(&node.vfs).is_err());
        assert!(Db::open(&node.vfs, b"random", version).is_err());
    }
}
