//! Directories in states that a crash or damage leaves of C dqlite's, given to ours: each is either
//! read without losing or inventing an entry, or refused without being touched, and `dq-server check`
//! says beforehand which. The states in all their variants are `dq-raft`'s `tests/disk/damage.rs`; here
//! the bytes are C's own and the node is a process.

use std::fs;
use std::ops::RangeInclusive;
use std::path::Path;

use compat_tests::directory::{self, files};
use compat_tests::servers::{Kind, Server};
use dq_client::{Config, MemStore};

const ROWS: i64 = 40;

/// A directory that C has written and been killed over.
fn written_by_c() -> Option<Server> {
    rows_by_c(ROWS)
}

/// The same with so many rows, each in an entry of its own.
fn rows_by_c(rows: i64) -> Option<Server> {
    if !Kind::C.available_or_skip() || !Kind::Ours.available_or_skip() {
        return None;
    }
    let mut server = Server::start_single(Kind::C).expect("C starts");
    let pool = Config::new()
        .connect(MemStore::new([server.address()]), "crash")
        .expect("connects");
    pool.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b)", ())
        .expect("created");
    for a in 0..rows {
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
    starts_with(server, ROWS..=ROWS);
}

fn starts_with(server: &mut Server, expected: RangeInclusive<i64>) {
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
    assert!(expected.contains(&rows[0]), "{rows:?}, not {expected:?}");
    let sound: Vec<String> = pool
        .query("PRAGMA integrity_check", (), |row| row.get(0))
        .expect("it can be checked");
    assert_eq!(sound, ["ok"]);
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

/// C takes a snapshot each 1024 entries.
const ROWS_WITH_SNAPSHOT: i64 = 1100;

/// The log of a directory with a snapshot: its index, and the closed segments, ascending.
fn snapshot_and_closed(dir: &Path) -> (u64, Vec<String>) {
    let names: Vec<String> = files(dir).into_keys().collect();
    let index = |name: &String| name.strip_suffix(".meta")?.split('-').nth(2)?.parse().ok();
    let snapshot = names.iter().filter_map(index).max();
    let closed = |name: &&String| name.len() == 33 && name.as_bytes()[16] == b'-';
    let closed = names.iter().filter(closed).cloned().collect();
    (snapshot.expect("C has taken a snapshot"), closed)
}

#[test]
fn entries_that_c_would_number_anew_are_refused_and_what_an_installation_left_is_finished() {
    let Some(mut server) = rows_by_c(ROWS_WITH_SNAPSHOT) else {
        return;
    };
    let dir = server.data_dir();
    let (snapshot, closed) = snapshot_and_closed(&dir);
    let open = open_in_use(&dir);
    let whole = files(&dir);
    let last = |name: &String| name[17..].parse::<u64>().expect("an index");
    assert!(
        closed.len() > 1 && last(&closed[0]) < snapshot,
        "{closed:?}"
    );
    starts_with(&mut server, ROWS_WITH_SNAPSHOT..=ROWS_WITH_SNAPSHOT);
    server.stop().expect("stops");

    // C installed a snapshot and was killed before the old log was gone, was started, took entries, and was
    // killed again: it gives them the indexes that follow the old log.
    let mut renumbered = whole.clone();
    renumbered.retain(|name, _| !closed[1..].contains(name));
    directory::restore(&dir, &renumbered);
    directory::is_refused(&mut server, &open);

    // Killed before it took any: the snapshot is all there is, and whole.
    let mut installed = renumbered;
    installed.retain(|name, _| !name.starts_with("open-"));
    directory::restore(&dir, &installed);
    let applied = i64::try_from(snapshot).expect("small");
    starts_with(&mut server, applied - 16..=applied);
    server.stop().expect("stops");

    // Nothing but the snapshot and what follows it, as after an installation that was finished.
    let mut finished = whole;
    finished.retain(|name, _| !closed.contains(name));
    directory::restore(&dir, &finished);
    starts_with(&mut server, ROWS_WITH_SNAPSHOT..=ROWS_WITH_SNAPSHOT);
}
