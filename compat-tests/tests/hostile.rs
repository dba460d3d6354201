//! Clients that mean harm, or are broken: whatever one of them does, the others are served, and when
//! it is gone the server holds no more than before.

use std::time::Duration;

use compat_tests::hostile::{
    Answer, DATABASE, HANDSHAKE, Vitals, Wire, encoded, exec, query, serves,
};
use compat_tests::load::process::Usage;
use compat_tests::servers::{Kind, Options, Server};
use dq_wire::ParamsBuf;
use dq_wire::ValueRef;
use dq_wire::raft_rpc;
use dq_wire::request::Request;

const MIB: u64 = 1 << 20;

/// What an allocator may keep, and a debug build wastes.
const SLACK: u64 = 64 * MIB;

const RESULT: u8 = 6;
const ROWS: u8 = 7;
const EMPTY: u8 = 8;

/// How ROWS end if more follow.
const MORE: [u8; 8] = [0xee; 8];

/// Counts for hours.
const ENDLESS: &[u8] = b"WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM c \
    WHERE n < 1000000000000) SELECT sum(n) FROM c";

/// Counts for longer than the event loop lends itself, but not for long.
const SLOW: &[u8] = b"WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM c \
    WHERE n < 200000) SELECT sum(n) FROM c";

/// Rows without end.
const STREAM: &[u8] = b"WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM c) \
    SELECT randomblob(1000) FROM c";

/// A server that has served, and what it holds then.
fn server() -> Option<(Server, Vitals)> {
    Kind::Ours.available_or_skip().then(|| {
        let server = Server::start_single(Kind::Ours).expect("starts");
        serves(&server).expect("serves");
        let vitals = Vitals::of(&server).expect("runs");
        (server, vitals)
    })
}

/// As [`server`], with this much memory for clients' requests, and as much for answers.
fn small_server(mib: u64) -> Option<(Server, Vitals)> {
    Kind::Ours.available_or_skip().then(|| {
        let options = Options {
            arguments: vec![format!("--client-memory-mib={mib}")],
            ..Options::default()
        };
        let server = Server::start(Kind::Ours, options).expect("starts");
        server.wait_leader(server.address()).expect("leads");
        serves(&server).expect("serves");
        let vitals = Vitals::of(&server).expect("runs");
        (server, vitals)
    })
}

/// The same numbers each time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }
}

#[test]
fn noise_is_hung_up_on_or_ignored() {
    let Some((server, before)) = server() else {
        return;
    };
    let mut random = Random(7);
    for round in 0..200 {
        let mut wire = Wire::connect(&server).expect("connects");
        let size = random.next() as usize % 300;
        let mut noise = random.bytes(size);
        if round % 2 == 0 {
            noise.splice(..0, HANDSHAKE);
        }
        // The server may have hung up already.
        let _ = wire.send(&noise);
        let _ = wire.end_sending();
        assert!(wire.is_hung_up(), "round {round}");
    }
    before.returns(&server, SLACK).expect("nothing remains");
}

#[test]
fn bodies_that_are_announced_and_too_large_or_empty_end_the_connection() {
    let Some((server, before)) = server() else {
        return;
    };
    for words in [0, 0x0080_0001, 0x0fff_ffff, 0x7fff_ffff, u32::MAX] {
        for kind in [0u8, 3, 4, 8, 255] {
            let mut wire = Wire::open(&server).expect("opens");
            let mut header = words.to_le_bytes().to_vec();
            header.extend([kind, 0, 0, 0]);
            wire.send(&header).expect("sent");
            assert!(wire.is_hung_up(), "{words} words, type {kind}");
        }
    }
    // As much as is allowed, of which nothing comes.
    let waiting: Vec<Wire> = (0..100)
        .map(|_| {
            let mut wire = Wire::open(&server).expect("opens");
            let mut header = 0x007f_ffff_u32.to_le_bytes().to_vec();
            header.extend([8, 0, 0, 0]);
            wire.send(&header).expect("sent");
            wire
        })
        .collect();
    serves(&server).expect("serves");
    let now = Vitals::of(&server).expect("runs");
    assert!(now.rss < before.rss + SLACK, "{before:?} {now:?}");
    drop(waiting);
    before.returns(&server, SLACK).expect("nothing remains");
}

/// One request of every type, all valid.
fn session() -> Vec<u8> {
    let values = [ValueRef::Integer(1), ValueRef::Text(b"text")];
    let params = ParamsBuf::from_values(&values);
    let prepare = |sql| Request::Prepare {
        schema: 0,
        db: 0,
        sql,
    };
    let mut bytes = HANDSHAKE.to_vec();
    for request in [
        Request::Leader,
        Request::Client { id: 7 },
        Request::Open {
            name: DATABASE,
            flags: 0,
            vfs: b"",
        },
        prepare(b"INSERT INTO alive VALUES (?1 + length(?2))"),
        Request::Exec {
            db: 0,
            stmt: 0,
            params: params.as_params(),
        },
        prepare(b"SELECT ?1, ?2, n FROM alive"),
        Request::Query {
            db: 0,
            stmt: 1,
            params: params.as_params(),
        },
        Request::Finalize { db: 0, stmt: 1 },
        Request::Interrupt { db: 0 },
        Request::Cluster { format: 1 },
        Request::Describe { format: 0 },
        Request::Weight { weight: 0 },
        Request::Dump { name: DATABASE },
    ] {
        request.encode(&mut bytes);
    }
    bytes.extend(exec(b"BEGIN IMMEDIATE; DELETE FROM alive; ROLLBACK"));
    bytes.extend(query(b"SELECT * FROM alive"));
    bytes
}

#[test]
fn a_session_may_be_cut_anywhere() {
    let Some((server, before)) = server() else {
        return;
    };
    let session = session();
    for end in 0..session.len() {
        let mut wire = Wire::connect(&server).expect("connects");
        wire.send(&session[..end]).expect("sent");
        if end % 3 == 0 {
            wire.end_sending().expect("connected");
            assert!(wire.is_hung_up(), "cut at {end}");
        }
    }
    before.returns(&server, SLACK).expect("nothing remains");
}

#[test]
fn a_session_may_arrive_byte_by_byte() {
    let Some((server, before)) = server() else {
        return;
    };
    let mut wire = Wire::connect(&server).expect("connects");
    for byte in session() {
        wire.send(&[byte]).expect("sent");
    }
    let kinds: Vec<u8> = (0..15)
        .map(|_| wire.answer().expect("answered").kind)
        .collect();
    assert_eq!(kinds, [1, 2, 4, 5, 6, 5, 7, 8, 8, 3, 10, 8, 9, 6, 7]);
    drop(wire);
    before.returns(&server, SLACK).expect("nothing remains");
}

#[test]
fn thousands_of_statements_go_with_their_connection() {
    let Some((server, before)) = server() else {
        return;
    };
    let mut wire = Wire::open(&server).expect("opens");
    let prepare = encoded(&Request::Prepare {
        schema: 0,
        db: 0,
        sql: b"SELECT n FROM alive WHERE n = ?",
    });
    for id in 0..5000u32 {
        let answer = wire.ask(&prepare).expect("answered");
        assert_eq!(answer.body[4..8], id.to_le_bytes());
    }
    drop(wire);
    before.returns(&server, SLACK).expect("nothing remains");
}

#[test]
fn a_huge_value_is_taken_and_its_memory_comes_back_while_the_client_stays() {
    let Some((server, before)) = server() else {
        return;
    };
    let mut wire = Wire::open(&server).expect("opens");
    let blob = vec![1; 60 << 20];
    let params = ParamsBuf::from_values(&[ValueRef::Blob(&blob)]);
    let request = encoded(&Request::QuerySql {
        db: 0,
        sql: b"SELECT length(?)",
        params: params.as_params(),
    });
    for _ in 0..3 {
        let answer = wire.ask(&request).expect("answered");
        assert_eq!(answer.kind, ROWS, "{answer:?}");
    }
    serves(&server).expect("serves");
    let deadline = std::time::Instant::now() + compat_tests::hostile::PATIENCE;
    while Vitals::of(&server).expect("runs").rss > before.rss + SLACK {
        assert!(std::time::Instant::now() < deadline, "memory is kept");
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(wire);
    before.returns(&server, SLACK).expect("nothing remains");
}

#[test]
fn a_row_that_is_too_large_is_refused_and_changes_nothing() {
    let Some((server, before)) = server() else {
        return;
    };
    let mut wire = Wire::open(&server).expect("opens");
    let huge = b"zeroblob(900000000), zeroblob(900000000), zeroblob(900000000)";
    let refused = Some((18, "string or blob too big".to_owned()));
    let select = wire.ask(&query(&[b"SELECT ", &huge[..]].concat()));
    assert_eq!(select.expect("answered").failure(), refused);
    let insert = [b"INSERT INTO alive VALUES (5) RETURNING ", &huge[..]].concat();
    let insert = wire.ask(&query(&insert)).expect("answered");
    assert_eq!(insert.failure(), refused);
    let count = wire.ask(&query(b"SELECT count(*) AS c FROM alive"));
    let count = count.expect("answered");
    assert_eq!(count.kind, ROWS);
    assert_eq!(count.body[24..32], [0; 8], "{count:?}");
    let too_big = wire.ask(&query(b"SELECT zeroblob(2000000000)"));
    assert_eq!(too_big.expect("answered").failure(), refused);
    drop(wire);
    before.returns(&server, SLACK).expect("nothing remains");
}

#[test]
fn when_files_run_out_those_who_are_in_go_on_and_the_processor_rests() {
    if !Kind::Ours.available_or_skip() {
        return;
    }
    let options = Options {
        open_files_max: Some(128),
        ..Options::default()
    };
    let server = Server::start(Kind::Ours, options).expect("starts");
    server.wait_leader(server.address()).expect("leads");
    serves(&server).expect("serves");
    let before = Vitals::of(&server).expect("runs");
    let mut inside = Wire::open(&server).expect("opens");
    let crowd: Vec<_> = (0..300)
        .filter_map(|_| Wire::connect(&server).ok())
        .collect();
    let cpu = || Usage::of(&server.pid().into_iter().collect::<Vec<_>>()).cpu_us;
    // Enough to close segments of the log and open new ones.
    let row = exec(b"INSERT INTO alive SELECT randomblob(1000000)");
    for _ in 0..40 {
        let answer = inside.ask(&row).expect("answered");
        assert_eq!(answer.kind, RESULT, "{answer:?}");
    }
    let start = cpu();
    std::thread::sleep(Duration::from_secs(1)); // What it uses in a second is what is measured.
    let used = cpu() - start;
    assert!(used < 500_000, "{used} us of processor time in a second");
    let clear = inside.ask(&exec(b"DELETE FROM alive")).expect("answered");
    assert_eq!(clear.kind, RESULT, "{clear:?}");
    drop(crowd);
    drop(inside);
    before.returns(&server, 4 * SLACK).expect("nothing remains");
}

#[test]
fn readers_that_do_not_read_hold_little_and_are_waited_for() {
    let Some((server, before)) = server() else {
        return;
    };
    let mut lazy = Vec::new();
    for _ in 0..20 {
        let mut wire = Wire::open(&server).expect("opens");
        wire.send(&query(STREAM)).expect("sent");
        lazy.push(wire);
    }
    for _ in 0..50 {
        serves(&server).expect("serves");
    }
    let now = Vitals::of(&server).expect("runs");
    assert!(now.rss < before.rss + SLACK, "{before:?} {now:?}");
    // One that begins to read after all gets its rows.
    let first = &mut lazy[0];
    for _ in 0..200 {
        assert_eq!(first.answer().expect("answered").kind, ROWS);
    }
    drop(lazy);
    before.returns(&server, SLACK).expect("nothing remains");
}

#[test]
fn a_client_that_asks_and_never_reads_is_read_no_more() {
    let Some((server, before)) = server() else {
        return;
    };
    let quiet = Duration::from_secs(1);
    let mut clients = Vec::new();
    for request in [
        query(b"SELECT zeroblob(10000)"),
        query(b"SELECT 1"),
        encoded(&Request::Dump { name: DATABASE }),
        encoded(&Request::Leader),
        encoded(&Request::Cluster { format: 1 }),
        exec(b"SELECT no such column"),
    ] {
        let mut wire = Wire::open(&server).expect("opens");
        let count = wire
            .send_until_stuck(&request.repeat(100_000), quiet)
            .expect("sends");
        assert!(count > 0);
        serves(&server).expect("serves");
        clients.push(wire);
    }
    let now = Vitals::of(&server).expect("runs");
    assert!(now.rss < before.rss + SLACK, "{before:?} {now:?}");
    // Answers to all that was asked, in order, as soon as they are read.
    for _ in 0..2000 {
        assert_eq!(clients[0].answer().expect("answered").kind, ROWS);
    }
    drop(clients);
    before.returns(&server, SLACK).expect("nothing remains");
}

#[test]
fn a_false_peer_is_hung_up_on_and_cannot_depose_or_stop_the_leader() {
    let Some((server, before)) = server() else {
        return;
    };
    let mut hello = Vec::new();
    raft_rpc::encode_connect(&mut hello, 99, b"127.0.0.1:1");
    let mut random = Random(99);
    for round in 0..100 {
        let mut wire = Wire::connect(&server).expect("connects");
        let mut bytes = hello.clone();
        let size = random.next() as usize % 500;
        bytes.extend(random.bytes(size));
        let _ = wire.send(&bytes);
        let _ = wire.end_sending();
        assert!(wire.is_hung_up(), "round {round}");
    }
    // Each message type with headers of every size, all zero (term 0), then all ones.
    for kind in 0..=8u8 {
        for words in [0u64, 1, 4, 5, 8, 1 << 17, 1 << 28, u64::MAX / 8] {
            for fill in [0u8, 0xff] {
                let mut wire = Wire::connect(&server).expect("connects");
                let mut bytes = hello.clone();
                bytes.extend([kind, 0, 0, 0, 0, 0, 0, 0]);
                bytes.extend((words * 8).to_le_bytes());
                bytes.extend(vec![fill; (words.min(64) * 8) as usize]);
                let _ = wire.send(&bytes);
                let _ = wire.end_sending();
                assert!(wire.is_hung_up(), "type {kind}, {words} words of {fill}");
            }
        }
    }
    // CONNECT is a first request only, and nobody is node 0.
    let mut wire = Wire::open(&server).expect("opens");
    wire.send(&hello[8..]).expect("sent");
    assert!(wire.is_hung_up());
    let mut nobody = Vec::new();
    raft_rpc::encode_connect(&mut nobody, 0, b"127.0.0.1:1");
    let mut wire = Wire::connect(&server).expect("connects");
    wire.send(&nobody).expect("sent");
    assert!(wire.is_hung_up());
    server.wait_leader(server.address()).expect("still leads");
    before.returns(&server, SLACK).expect("nothing remains");
}

#[test]
fn a_storm_of_interrupts_ends_the_rows_and_each_is_answered() {
    let Some((server, before)) = server() else {
        return;
    };
    let interrupt = encoded(&Request::Interrupt { db: 0 });
    let mut wire = Wire::open(&server).expect("opens");
    for round in 0..10 {
        wire.send(&query(STREAM)).expect("sent");
        assert_eq!(wire.answer().expect("answered").kind, ROWS);
        wire.send(&interrupt.repeat(1000)).expect("sent");
        let mut empties = 0;
        while empties < 1000 {
            match wire.answer().expect("answered") {
                Answer { kind: EMPTY, .. } => empties += 1,
                Answer { kind: ROWS, .. } if empties == 0 => {}
                answer if empties == 0 && answer.failure().is_some_and(|(code, _)| code == 9) => {}
                other => panic!("round {round}: {other:?} after {empties}"),
            }
        }
        let next = wire.ask(&query(b"SELECT 1")).expect("answered");
        assert_eq!(next.kind, ROWS, "{next:?}");
    }
    drop(wire);
    before.returns(&server, SLACK).expect("nothing remains");
}

#[test]
fn every_malformed_text_is_answered_and_the_connection_goes_on() {
    let Some((server, before)) = server() else {
        return;
    };
    let mut wire = Wire::open(&server).expect("opens");
    let nested = |open: &[u8], close: &[u8], depth: usize| {
        [
            b"SELECT ",
            &open.repeat(depth)[..],
            b"1",
            &close.repeat(depth),
        ]
        .concat()
    };
    let mut texts = vec![
        b"\xff\xfe\xfd".to_vec(),
        b"SELECT '\xc3\x28'".to_vec(),
        b"SELECT \"\xed\xa0\x80\"".to_vec(),
        b"SELECT 'open".to_vec(),
        b"/* open".to_vec(),
        b"--".to_vec(),
        b";;;;".to_vec(),
        b"".to_vec(),
        b"SELECT ?99999".to_vec(),
        b"SELECT 1e999999, 0x, 99999999999999999999999".to_vec(),
        b"ATTACH 'x' AS y".to_vec(),
        b"SELECT load_extension('x')".to_vec(),
        b"PRAGMA writable_schema=1; DELETE FROM sqlite_schema".to_vec(),
        vec![b'('; 1 << 20],
        [b"SELECT ".to_vec(), vec![b'('; 1 << 20]].concat(),
        nested(b"(", b")", 50_000),
        nested(b"(SELECT ", b")", 50_000),
        nested(b"abs(", b")", 50_000),
        nested(b"-", b"", 500_000),
        [b"SELECT 1".to_vec(), b"+1".repeat(500_000)].concat(),
        [b"SELECT 1".to_vec(), b" UNION SELECT 1".repeat(50_000)].concat(),
        [b"SELECT 1".to_vec(), b",1".repeat(500_000)].concat(),
        [b"SELECT '".to_vec(), vec![0xff; 1 << 20], b"'".to_vec()].concat(),
        [b"SELECT 1 AS ".to_vec(), vec![b'x'; 1 << 20]].concat(),
    ];
    let mut random = Random(3);
    for _ in 0..300 {
        let size = random.next() as usize % 60;
        let mut text = random.bytes(size);
        text.retain(|&byte| byte != 0);
        texts.push(text);
    }
    for text in &texts {
        let shown = String::from_utf8_lossy(&text[..text.len().min(40)]).into_owned();
        for request in [
            encoded(&Request::Prepare {
                schema: 0,
                db: 0,
                sql: text,
            }),
            encoded(&Request::Prepare {
                schema: 1,
                db: 0,
                sql: text,
            }),
            exec(text),
            query(text),
        ] {
            let mut answer = wire.ask(&request).expect(&shown);
            while answer.kind == ROWS && answer.body.ends_with(&MORE) {
                answer = wire.answer().expect(&shown);
            }
            assert!(matches!(answer.kind, 0 | 5 | 6 | 7), "{shown}: {answer:?}");
        }
    }
    // A zero byte inside ends the text; what follows is read as the next field, and refused.
    let mut zeros = query(b"SELECT 1, 2, 3, 4, 5, 6");
    zeros[8 + 8 + 10] = 0;
    wire.send(&zeros).expect("sent");
    match wire.answer() {
        Ok(answer) => assert!(
            answer.failure().is_some() || answer.kind == ROWS,
            "{answer:?}"
        ),
        Err(_) => wire = Wire::open(&server).expect("opens"),
    }
    let still = wire.ask(&query(b"SELECT 1")).expect("answered");
    assert_eq!(still.kind, ROWS, "{still:?}");
    drop(wire);
    // Parsing leaves its mark on the allocator of each thread that has parsed.
    before.returns(&server, 4 * SLACK).expect("nothing remains");
}

#[test]
fn an_endless_read_delays_nobody_and_ends_when_its_client_has_gone() {
    let Some((server, before)) = server() else {
        return;
    };
    // More than there are workers for.
    let mut busy = Vec::new();
    for _ in 0..6 {
        let mut wire = Wire::open(&server).expect("opens");
        wire.send(&query(ENDLESS)).expect("sent");
        busy.push(wire);
    }
    for _ in 0..50 {
        serves(&server).expect("serves");
    }
    drop(busy);
    // This one needs a worker.
    let mut wire = Wire::open(&server).expect("opens");
    let answer = wire.ask(&query(SLOW)).expect("answered");
    assert_eq!(answer.kind, ROWS, "{answer:?}");
    drop(wire);
    before.returns(&server, SLACK).expect("nothing remains");
}

#[test]
fn a_client_that_only_says_it_sends_no_more_gets_its_answer() {
    let Some((server, before)) = server() else {
        return;
    };
    let mut wire = Wire::open(&server).expect("opens");
    wire.send(&query(
        b"WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM c \
        WHERE n < 20000) SELECT sum(n) FROM c",
    ))
    .expect("sent");
    wire.end_sending().expect("connected");
    let answer = wire.answer().expect("answered");
    assert_eq!(answer.kind, ROWS, "{answer:?}");
    assert!(wire.is_hung_up());
    before.returns(&server, SLACK).expect("nothing remains");
}

#[test]
fn a_stop_does_not_wait_for_an_endless_read() {
    let Some((mut server, _)) = server() else {
        return;
    };
    let mut wire = Wire::open(&server).expect("opens");
    wire.send(&query(ENDLESS)).expect("sent");
    serves(&server).expect("serves");
    server.stop().expect("stops in time");
    assert!(wire.is_hung_up());
}

#[test]
fn many_half_sent_requests_are_refused_from_the_largest_on_and_their_connections_go_on() {
    let Some((server, before)) = small_server(32) else {
        return;
    };
    let blob = vec![7; 20 << 20];
    let params = ParamsBuf::from_values(&[ValueRef::Blob(&blob)]);
    let request = encoded(&Request::QuerySql {
        db: 0,
        sql: b"SELECT length(?)",
        params: params.as_params(),
    });
    let (most, rest) = request.split_at(request.len() - 1000);
    // A small one that is sent in part before all others, and ended after them.
    let small = query(b"SELECT 1");
    let mut patient = Wire::open(&server).expect("opens");
    patient.send(&small[..20]).expect("sent");
    let mut senders: Vec<Wire> = (0..20)
        .map(|_| {
            let mut wire = Wire::open(&server).expect("opens");
            wire.send(most).expect("sent");
            wire
        })
        .collect();
    serves(&server).expect("serves");
    let now = Vitals::of(&server).expect("runs");
    assert!(
        now.rss < before.rss + 32 * MIB + SLACK,
        "{before:?} {now:?}"
    );
    let mut refused = 0;
    for wire in &mut senders {
        let answer = wire.ask(rest).expect("answered");
        match answer.failure() {
            Some((7, text)) => {
                assert_eq!(text, "too many large requests at the same time");
                refused += 1;
            }
            other => assert_eq!((other, answer.kind), (None, ROWS)),
        }
        let next = wire.ask(&small).expect("answered");
        assert_eq!(next.kind, ROWS, "{next:?}");
    }
    assert!((18..20).contains(&refused), "{refused} of 20 refused");
    let answer = patient.ask(&small[20..]).expect("answered");
    assert_eq!(answer.kind, ROWS, "{answer:?}");
    drop((senders, patient));
    before.returns(&server, SLACK).expect("nothing remains");
}

#[test]
fn large_answers_that_are_not_read_are_bounded_together() {
    let Some((server, before)) = small_server(32) else {
        return;
    };
    let large = query(b"SELECT zeroblob(40000000)");
    // Alone, an answer may be larger than all are meant to be.
    let mut reader = Wire::open(&server).expect("opens");
    let answer = reader.ask(&large).expect("answered");
    assert!(answer.body.len() > 40_000_000);
    let idle: Vec<Wire> = (0..20)
        .map(|_| {
            let mut wire = Wire::open(&server).expect("opens");
            wire.send(&large).expect("sent");
            wire
        })
        .collect();
    for _ in 0..20 {
        serves(&server).expect("serves");
    }
    // Two that are being made, one that waits.
    let bound = before.rss + 3 * 40 * MIB + 32 * MIB + SLACK;
    let now = Vitals::of(&server).expect("runs");
    assert!(now.rss < bound, "{before:?} {now:?}");
    let answer = reader.ask(&query(b"SELECT 1")).expect("answered");
    assert_eq!(answer.kind, ROWS, "{answer:?}");
    drop((idle, reader));
    before.returns(&server, 2 * SLACK).expect("nothing remains");
}

#[test]
fn what_a_large_request_carries_besides_is_not_kept() {
    let Some((server, before)) = server() else {
        return;
    };
    let padding = vec![b'x'; 30 << 20];
    let open = encoded(&Request::Open {
        name: DATABASE,
        flags: 0,
        vfs: &padding,
    });
    let opened: Vec<Wire> = (0..10)
        .map(|_| {
            let mut wire = Wire::connect(&server).expect("connects");
            wire.send(&HANDSHAKE).expect("sent");
            assert_eq!(wire.ask(&open).expect("answered").kind, 4);
            wire
        })
        .collect();
    serves(&server).expect("serves");
    let now = Vitals::of(&server).expect("runs");
    assert!(now.rss < before.rss + 2 * SLACK, "{before:?} {now:?}");
    drop(opened);
    before.returns(&server, SLACK).expect("nothing remains");
}

#[test]
fn a_text_of_a_hundred_thousand_statements_is_run_to_its_end() {
    let Some((server, before)) = server() else {
        return;
    };
    let mut wire = Wire::open(&server).expect("opens");
    // Had each to copy all that follows, this were a terabyte.
    let padding = [b"/*".to_vec(), vec![b'-'; 10 << 20], b"*/".to_vec()].concat();
    let mut text = b"SAVEPOINT a;RELEASE a;".repeat(50_000);
    text.extend(b"INSERT INTO alive VALUES (77);");
    text.extend(padding);
    let answer = wire.ask(&exec(&text)).expect("answered");
    assert_eq!(answer.kind, RESULT, "{answer:?}");
    let cleared = wire.ask(&exec(b"DELETE FROM alive WHERE n = 77"));
    assert_eq!(cleared.expect("answered").body[8..16], 1u64.to_le_bytes());
    drop(wire);
    before.returns(&server, SLACK).expect("nothing remains");
}

/// Three voters with short timeouts; the first leads.
fn cluster() -> Option<Vec<Server>> {
    Kind::Ours.available_or_skip().then(|| {
        let servers: Vec<Server> = (1..=3)
            .map(|id| {
                let options = Options {
                    id,
                    latency_ms: Some(100),
                    ..Options::default()
                };
                Server::start(Kind::Ours, options).expect("starts")
            })
            .collect();
        let leader = &servers[0];
        leader.wait_leader(leader.address()).expect("leads");
        let store = dq_client::MemStore::new([leader.address()]);
        let members = dq_client::Cluster::new(dq_client::Config::new(), store);
        for server in &servers[1..] {
            let added = members.add(server.id(), server.address(), dq_client::Role::Voter);
            added.expect("becomes a voter");
        }
        servers
    })
}

#[test]
fn long_statements_on_a_leader_neither_depose_it_nor_delay_others_and_end_on_request() {
    let Some(mut servers) = cluster() else {
        return;
    };
    let leader = &servers[0];
    serves(leader).expect("serves");
    let before = Vitals::of(leader).expect("runs");
    // Several times the election timeout of 1.5 s: one that reads and one that writes.
    let count = |sql: &str| {
        format!(
            "{sql} WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM c \
            WHERE n < 40000000) SELECT sum(n) FROM c"
        )
    };
    let mut reads = Wire::open(leader).expect("opens");
    reads.send(&query(count("").as_bytes())).expect("sent");
    let mut writes = Wire::open(leader).expect("opens");
    let created = writes
        .ask(&exec(b"CREATE TABLE sums (n)"))
        .expect("answered");
    assert_eq!(created.kind, RESULT, "{created:?}");
    let insert = count("INSERT INTO sums");
    writes.send(&exec(insert.as_bytes())).expect("sent");
    let mut others = Wire::open(leader).expect("opens");
    let mut served = 0;
    reads.set_patience(Duration::from_millis(1)).expect("set");
    while !reads.is_readable() {
        let answer = others
            .ask(&query(b"SELECT count(*) FROM alive"))
            .expect("answered");
        assert_eq!(answer.kind, ROWS, "{answer:?}");
        served += 1;
    }
    assert!(served > 10, "{served} others were served");
    reads
        .set_patience(compat_tests::hostile::PATIENCE)
        .expect("set");
    for (wire, kind) in [(&mut reads, ROWS), (&mut writes, RESULT)] {
        let answer = wire.answer().expect("answered");
        assert_eq!(answer.kind, kind, "{answer:?}");
    }
    // It has led without a break.
    for server in &servers {
        server.wait_leader(leader.address()).expect("still leads");
    }
    let log = leader.log();
    assert!(
        log.contains("leads term") && !log.contains("leadership ended"),
        "{log}"
    );
    // Endless ones end with their clients, and with the node.
    let endless: Vec<Wire> = (0..4)
        .map(|_| {
            let mut wire = Wire::open(leader).expect("opens");
            wire.send(&query(ENDLESS)).expect("sent");
            wire
        })
        .collect();
    serves(leader).expect("serves");
    drop(endless);
    let slow = others.ask(&query(SLOW)).expect("answered");
    assert_eq!(slow.kind, ROWS, "{slow:?}");
    drop((reads, writes));
    before.returns(leader, SLACK).expect("nothing remains");
    others.send(&query(ENDLESS)).expect("sent");
    serves(leader).expect("serves");
    servers[0].stop().expect("stops in time");
    assert!(others.is_hung_up());
}
