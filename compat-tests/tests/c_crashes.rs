//! Directories in states that a crash or damage leaves of C dqlite's, given to ours: each is either
//! read without losing or inventing an entry, or refused without being touched, and `dq-server check`
//! says beforehand which. The states in all their variants are `dq-raft`'s `tests/disk/damage.rs`; here
//! the bytes are C's own and the node is a process.

use std::fs;
use std::path::Path;

use compat_tests::directory::{self, files};
use compat_tests::servers::{Kind, Server};
use dq_client::{Config, MemStore};

const ROWS: i64 = 40;

/// A directory that C has written and been killed over; the server is still of kind C.
fn written_by_c() -> Option<Server> {
    if !Kind::C.available_or_skip() || !Kind::Ours.available_or_skip() {
        return None;
    }
    let mut server = Server::start_single(Kind::C).expect("C starts");
    let pool = Config::new()
        .connect(MemStore::new([server.address()]), "crash")
        .expect("connects");
    pool.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b)", ())
        .expect("created");
    for a in 0..ROWS {
        pool.execute("INSERT INTO t VALUES (?, hex(randomblob(20)))", (a,))
            .expect("inserted");
    }
    drop(pool);
    server.kill().expect("killed");
    server.change_kind(Kind::Ours).expect("it is down");
    Some(server)
}

/// The open segment that entries are in, as C names it.
fn open_in_use(dir: &Path) -> String {
    let used = |(name, bytes): &(&String, &Vec<u8>)| {
        name.starts_with("open-") && bytes.iter().any(|&byte| byte != 0)
    };
    let files = files(dir);
    let found: Vec<_> = files
        .iter()
        .filter(used)
        .map(|(name, _)| name.clone())
        .collect();
    assert_eq!(
        found.len(),
        1,
        "one open segment is in use: {:?}",
        files.keys()
    );
    found[0].clone()
}

fn starts_with_all_rows(server: &mut Server) {
    let (starts, text) = directory::check(server);
    assert!(starts, "{text}");
    server.start_again().expect("it starts");
    server.wait_leader(server.address()).expect("it leads");
    let pool = Config::new()
        .connect(MemStore::new([server.address()]), "crash")
        .expect("connects");
    let rows = pool
        .query("SELECT count(*) FROM t WHERE length(b)=40", (), |row| {
            row.get::<i64>(0)
        })
        .expect("read");
    assert_eq!(rows, [ROWS]);
}

#[test]
fn what_c_had_acknowledged_when_it_was_killed_is_there() {
    let Some(mut server) = written_by_c() else {
        return;
    };
    starts_with_all_rows(&mut server);
}

#[test]
fn garbage_behind_what_c_has_written_is_cut_off() {
    let Some(mut server) = written_by_c() else {
        return;
    };
    let path = server.data_dir().join(open_in_use(&server.data_dir()));
    let mut bytes = fs::read(&path).expect("it can be read");
    let end = bytes
        .iter()
        .rposition(|&byte| byte != 0)
        .expect("it is in use");
    let from = (end + 1).next_multiple_of(8) + 4096;
    bytes[from..from + 100].fill(0xa5);
    fs::write(&path, bytes).expect("it can be written");
    starts_with_all_rows(&mut server);
}

#[test]
fn a_spoilt_open_segment_before_a_sound_one_is_refused() {
    let Some(mut server) = written_by_c() else {
        return;
    };
    let dir = server.data_dir();
    let name = open_in_use(&dir);
    let bytes = fs::read(dir.join(&name)).expect("it can be read");
    fs::write(dir.join("open-900"), &bytes).expect("it can be written");
    let mut spoilt = bytes;
    spoilt[8..64].fill(0x77);
    fs::write(dir.join(&name), spoilt).expect("it can be written");
    // C deletes the first and gives the second one's entries the indexes of the first's.
    directory::is_refused(&mut server, &name);
}

#[test]
fn a_closed_segment_with_more_entries_than_its_name_says_is_refused() {
    let Some(mut server) = written_by_c() else {
        return;
    };
    // A start and a clean stop of C close the segment.
    server.change_kind(Kind::C).expect("it is down");
    server.start_again().expect("C starts");
    server.stop().expect("C stops");
    server.change_kind(Kind::Ours).expect("it is down");
    let dir = server.data_dir();
    let closed = |name: &String| name.len() == 33 && name.as_bytes()[16] == b'-';
    let last = files(&dir)
        .into_keys()
        .rfind(closed)
        .expect("a closed segment");
    let (first, end) = last.split_once('-').expect("it has two numbers");
    let (first, end): (u64, u64) = (first.parse().expect("one"), end.parse().expect("two"));
    assert!(end > first, "{last} has several entries");
    let renamed = format!("{first:016}-{:016}", end - 1);
    fs::rename(dir.join(&last), dir.join(&renamed)).expect("it can be renamed");
    // C sets the file aside and starts without its entries.
    directory::is_refused(&mut server, &renamed);
}
