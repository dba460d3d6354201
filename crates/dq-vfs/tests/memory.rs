//! Pages and versions are freed when nobody needs them. The counters are those of the process, so
//! these tests take turns.

mod common;

use std::sync::{Mutex, MutexGuard, PoisonError};

use common::{Node, Random, execute, next_number};
use dq_vfs::{Page, PageNo, Step, Version, live_pages, resident_bytes};

static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Pages of versions of empty databases that were made elsewhere, and the page of zeros.
fn slack() -> usize {
    8
}

#[test]
fn all_pages_are_freed_with_the_last_holder() {
    let _turn = turn();
    let before = live_pages();
    {
        let mut node = Node::new();
        let mut db = node.open();
        node.must(&mut db, "CREATE TABLE t (x)");
        for _ in 0..50 {
            node.must(&mut db, "INSERT INTO t VALUES (zeroblob(100000))");
        }
        let versions = [node.head.clone(), node.head.clone()];
        assert!(live_pages() >= before + node.head.page_count() as usize);
        drop(versions);
    }
    assert!(
        live_pages() <= before + slack(),
        "{before} before, {} after",
        live_pages()
    );
}

#[test]
fn an_idle_connection_pins_nothing() {
    let _turn = turn();
    let mut node = Node::new();
    let mut writer = node.open();
    node.must(
        &mut writer,
        "CREATE TABLE t (x); INSERT INTO t VALUES (zeroblob(4000000))",
    );
    let mut idle: Vec<_> = (0..10).map(|_| node.open()).collect();
    for db in &mut idle {
        node.must(db, "SELECT length(x) FROM t");
        assert_eq!(db.pinned(), None);
    }
    node.log.clear();
    let full = live_pages();
    assert!(full > 900);
    node.must(&mut writer, "DELETE FROM t; VACUUM");
    node.log.clear();
    assert!(
        live_pages() < full - 900,
        "{full} before, {} after",
        live_pages()
    );
}

#[test]
fn a_reader_holds_its_version_until_its_statement_ends() {
    let _turn = turn();
    let mut node = Node::new();
    let (mut writer, mut reader) = (node.open(), node.open());
    node.must(
        &mut writer,
        "CREATE TABLE t (x); INSERT INTO t VALUES (1), (zeroblob(4000000))",
    );
    reader.grant(node.read_grant());
    let mut stmt = reader
        .prepare(b"SELECT length(x) FROM t")
        .unwrap()
        .stmt
        .unwrap();
    assert_eq!(stmt.step().unwrap(), Step::Row);
    reader.release();
    let pinned = node.head.number();
    node.must(&mut writer, "DELETE FROM t; VACUUM");
    node.log.clear();
    assert_eq!(reader.pinned(), Some(pinned));
    let held = live_pages();
    assert_eq!(stmt.step().unwrap(), Step::Row);
    assert_eq!(stmt.column(0), dq_vfs::ColumnRef::Integer(4_000_000));
    stmt.reset();
    assert_eq!(reader.pinned(), None);
    assert!(
        live_pages() < held - 900,
        "{held} before, {} after",
        live_pages()
    );
}

#[test]
fn a_large_transaction_leaves_nothing_behind_in_its_connection() {
    let _turn = turn();
    let mut node = Node::new();
    let mut db = node.open();
    node.must(&mut db, "CREATE TABLE t (x)");
    node.must(&mut db, "INSERT INTO t VALUES (zeroblob(4000000))");
    let mut other = node.open();
    node.must(&mut other, "DELETE FROM t; VACUUM");
    node.log.clear();
    assert!(
        live_pages() < 200,
        "{} pages of a database of {}",
        live_pages(),
        node.head.page_count()
    );
    drop(db);
}

#[test]
fn shrinking_an_idle_connection_drops_its_frames_and_harms_nothing() {
    let _turn = turn();
    let mut node = Node::new();
    let mut db = node.open();
    node.must(&mut db, "CREATE TABLE t (x)");
    for i in 0..100 {
        node.must(&mut db, "INSERT INTO t VALUES (1)");
        if i % 3 == 0 {
            db.shrink();
        }
        db.grant(node.read_grant());
        assert_eq!(
            execute(&mut db, "SELECT x FROM t", &[]).unwrap().len(),
            i + 1
        );
        db.release();
    }
    node.log.clear();
    db.shrink();
    assert!(live_pages() <= node.head.page_count() as usize + slack());
    node.must(&mut db, "BEGIN IMMEDIATE; INSERT INTO t VALUES (2)");
    db.shrink();
    node.must(&mut db, "INSERT INTO t VALUES (3); COMMIT");
    assert_eq!(
        node.must(&mut db, "PRAGMA integrity_check"),
        [["ok".into()]]
    );
}

#[test]
fn memory_goes_back_to_the_operating_system() {
    let _turn = turn();
    let before = resident_bytes();
    let pages = 20_000;
    let mut version = Version::empty(next_number());
    let content: Vec<_> = (2..=pages)
        .map(|n| (PageNo(n), Page::copy_from(&n.to_be_bytes())))
        .collect();
    version = version.successor(next_number(), &content, pages);
    drop(content);
    let full = resident_bytes();
    assert!(full >= pages as usize * 4096);
    // Keep every hundredth page, so that hardly any slab is free as a whole.
    let mut random = Random::new(3);
    let kept: Vec<Page> = version
        .pages()
        .filter(|_| random.one_in(100))
        .cloned()
        .collect();
    drop(version);
    let after = resident_bytes();
    assert!(
        after < before + (kept.len() + 2000) * 4096,
        "{before}, {full}, {after}"
    );
    #[cfg(target_os = "linux")]
    {
        // What the kernel says: every page that is left keeps its own 4096 bytes, and each slab
        // the page with its counts.
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        let resident: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
        assert!(
            resident < 15_000,
            "{resident} pages of the process are resident"
        );
    }
    let contents: Vec<_> = kept.iter().map(|page| page.bytes()[..4].to_vec()).collect();
    drop(Version::from_pages(next_number(), kept.iter().cloned()));
    assert!(
        kept.iter()
            .zip(contents)
            .all(|(page, bytes)| page.bytes()[..4] == bytes)
    );
}
