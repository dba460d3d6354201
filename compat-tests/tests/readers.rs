//! Readers that last while everything that they read is replaced: what is kept for them is bounded, the
//! oldest are told so, and nobody else notices.

use compat_tests::hostile::{Answer, DATABASE, Vitals, Wire, encoded, exec, query, serves};
use compat_tests::servers::{Kind, Options, Server};
use dq_wire::request::Request;

const MIB: u64 = 1 << 20;

/// What may be kept for readers.
const KEPT: u64 = 16 * MIB;

/// What the databases have: several times that.
const DATA: u64 = 48 * MIB;

/// What an allocator may keep.
const SLACK: u64 = 64 * MIB;

const FAILURE: u8 = 0;
const RESULT: u8 = 6;
const ROWS: u8 = 7;

/// How ROWS end if more follow.
const MORE: [u8; 8] = [0xee; 8];

const ALL: &[u8] = b"SELECT a, b FROM t ORDER BY a";

fn server() -> Option<Server> {
    Kind::Ours.available_or_skip().then(|| {
        let mut options = Options::default();
        options.arguments.push("--old-pages-mib=16".to_owned());
        let server = Server::start(Kind::Ours, options).expect("starts");
        server.wait_leader(server.address()).expect("leads");
        serves(&server).expect("serves");
        server
    })
}

fn ask(wire: &mut Wire, request: &[u8], kind: u8) -> Answer {
    let answer = wire.ask(request).expect("answered");
    assert_eq!(answer.kind, kind, "{:?}", answer.failure());
    answer
}

/// Rows of 64 KiB.
fn rows() -> u64 {
    DATA / (64 << 10)
}

/// Replaces all rows, in transactions of 2 MiB.
fn rewrite(wire: &mut Wire) {
    for first in (0..rows()).step_by(32) {
        let sql = format!(
            "UPDATE t SET b = randomblob(64000) WHERE a BETWEEN {first} AND {}",
            first + 31
        );
        ask(wire, &exec(sql.as_bytes()), RESULT);
    }
}

/// Reads rows on to their end, or to a failure.
fn read_on(wire: &mut Wire, mut answer: Answer) -> Answer {
    while answer.kind == ROWS && answer.body.ends_with(&MORE) {
        answer = wire.answer().expect("answered");
    }
    answer
}

fn is_told(answer: &Answer) {
    let (code, text) = answer.failure().expect("a failure");
    assert_eq!(code, 10, "{text}");
    assert!(text.contains("lasted too long"), "{text}");
}

#[test]
fn what_is_kept_for_readers_is_bounded_and_the_oldest_are_told() {
    let Some(server) = server() else {
        return;
    };
    let mut writer = Wire::open(&server).expect("opens");
    ask(
        &mut writer,
        &exec(b"CREATE TABLE t (a INTEGER PRIMARY KEY, b BLOB)"),
        RESULT,
    );
    let fill = format!(
        "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {}) \
         INSERT INTO t SELECT i, randomblob(64000) FROM n",
        rows()
    );
    ask(&mut writer, &exec(fill.as_bytes()), RESULT);
    rewrite(&mut writer);
    let before = Vitals::of(&server).expect("runs");

    // In mid-stream, with a client that does not read.
    let mut stream = Wire::open(&server).expect("opens");
    let first = ask(&mut stream, &query(ALL), ROWS);
    assert!(first.body.ends_with(&MORE));
    // Idle in a transaction.
    let mut idle = Wire::open(&server).expect("opens");
    ask(&mut idle, &exec(b"BEGIN"), RESULT);
    let counted = ask(
        &mut idle,
        &query(b"SELECT count(*), sum(length(b)) FROM t"),
        ROWS,
    );
    // In mid-stream in a transaction.
    let mut both = Wire::open(&server).expect("opens");
    ask(&mut both, &exec(b"BEGIN"), RESULT);
    let begun = ask(&mut both, &query(ALL), ROWS);
    // At work on a thread of its own.
    let mut busy = Wire::open(&server).expect("opens");
    let endless = b"SELECT sum(length(x.b) + length(y.b)) FROM t x, t y, t z, t w";
    busy.send(&query(endless)).expect("sent");
    // A dump that is not read.
    let mut dump = Wire::open(&server).expect("opens");
    dump.send(&encoded(&Request::Dump { name: DATABASE }))
        .expect("sent");

    for round in 0..4 {
        rewrite(&mut writer);
        let now = Vitals::of(&server).expect("runs");
        assert!(
            now.rss < before.rss + KEPT + SLACK,
            "round {round}: {before:?} {now:?}"
        );
        serves(&server).expect("serves others");
    }

    is_told(&read_on(&mut stream, first));
    is_told(&read_on(&mut both, begun));
    is_told(&busy.answer().expect("answered"));
    is_told(
        &idle
            .ask(&query(b"SELECT count(*) FROM t"))
            .expect("answered"),
    );
    assert!(dump.is_hung_up(), "a dump has no place for a failure");
    // Their transactions are gone, their connections are not.
    for wire in [&mut idle, &mut both] {
        let (code, text) = wire
            .ask(&exec(b"COMMIT"))
            .expect("answered")
            .failure()
            .expect("there is nothing to commit");
        assert_eq!(code, 1, "{text}");
        let again = ask(
            wire,
            &query(b"SELECT count(*), sum(length(b)) FROM t"),
            ROWS,
        );
        assert_eq!(again, counted, "as many rows of the same size");
    }
    for wire in [&mut stream, &mut busy] {
        let answer = ask(wire, &query(ALL), ROWS);
        assert_ne!(read_on(wire, answer).kind, FAILURE, "all rows");
    }
    drop((stream, idle, both, busy, dump));
    before.returns(&server, SLACK).expect("nothing remains");
}

#[test]
fn a_reader_that_keeps_less_is_not_ended() {
    let Some(server) = server() else {
        return;
    };
    let mut writer = Wire::open(&server).expect("opens");
    for sql in [
        "CREATE TABLE t (a INTEGER PRIMARY KEY, b BLOB)",
        "CREATE TABLE counter (n)",
        "INSERT INTO counter VALUES (0)",
        "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 400) \
         INSERT INTO t SELECT i, randomblob(64000) FROM n",
    ] {
        ask(&mut writer, &exec(sql.as_bytes()), RESULT);
    }
    let mut stream = Wire::open(&server).expect("opens");
    let first = ask(&mut stream, &query(ALL), ROWS);
    let mut idle = Wire::open(&server).expect("opens");
    ask(&mut idle, &exec(b"BEGIN"), RESULT);
    ask(&mut idle, &query(b"SELECT n FROM counter"), ROWS);
    // One page, more often than the limit has pages: it is kept once.
    let bump = exec(b"UPDATE counter SET n = n + 1");
    for _ in 0..(2 * KEPT / 4096) {
        ask(&mut writer, &bump, RESULT);
    }
    let last = read_on(&mut stream, first);
    assert_eq!(last.kind, ROWS, "{:?}", last.failure());
    let seen = ask(&mut idle, &query(b"SELECT n FROM counter"), ROWS);
    assert_eq!(seen.body[24..32], 0u64.to_le_bytes(), "{seen:?}");
    ask(&mut idle, &exec(b"COMMIT"), RESULT);
    drop((stream, idle));
    serves(&server).expect("serves");
}
