//! Clients: requests in any order, cut and split anywhere, damaged, from several connections that come
//! and go, while jobs and the disk take their time.

use arbitrary::{Result, Unstructured};
use dq_wire::header::PROTOCOL_V1;
use dq_wire::request::Request;
use dq_wire::{ParamsBuf, ValueRef};

use crate::reached::Reached;
use crate::shell::{Answer, Setup, Shell, exec, opening, query};
use crate::sql;

/// Things that happen, at most.
const EVENTS_MAX: usize = 300;

/// Connections at the same time, at most.
const CONNECTIONS_MAX: usize = 8;

/// What the corpus has to reach.
pub const REACHES: &[&str] = &[
    "answer: SQL error",
    "answer: busy",
    "answer: database",
    "answer: disk full",
    "answer: files",
    "answer: not found",
    "answer: not leader",
    "answer: result",
    "answer: rows",
    "answer: statement",
    "connection paused",
    "disk: append",
    "disk: prune",
    "job for a worker",
    "members asked how they are",
    "restart",
    "said: entries",
    "said: take over",
    "snapshot taken",
];

/// Runs a session; afterwards the node has to serve, and a start has to find on its disk what it
/// holds.
///
/// # Panics
/// If the node does, or breaks a promise.
pub fn run(bytes: &[u8]) -> Reached {
    let mut u = Unstructured::new(bytes);
    let choice: u8 = u.arbitrary().unwrap_or_default();
    let mut shell = Shell::start(Setup::of(choice, true));
    // It may have promised not to vote.
    shell.pass(10_000);
    if choice & 16 == 0 {
        begin(&mut shell);
    }
    let members = u.ratio(1, 8).unwrap_or(false);
    for _ in 0..EVENTS_MAX {
        if u.is_empty() || event(&mut u, &mut shell, members).is_err() {
            break;
        }
        assert_eq!(shell.fatal, None, "clients have stopped the node");
    }
    for id in shell.connections() {
        shell.close(id);
    }
    shell.settle();
    // Changes of members give up when those do not answer.
    shell.pass(60_000);
    shell.settle();
    let status = shell.machine.status();
    assert_eq!(
        (status.connections, status.client_memory),
        (0, 0),
        "members: {members}"
    );
    // One that has been made a spare, or was removed, need not serve.
    if !members {
        serves(&mut shell);
        shell.starts_again();
    }
    assert_eq!(shell.fatal, None, "clients have stopped the node");
    shell.reached
}

/// There are tables already, and a connection.
fn begin(shell: &mut Shell) {
    let id = shell.connect();
    let mut bytes = opening(b"d");
    for sql in sql::TABLES {
        exec(&mut bytes, sql.as_bytes());
    }
    shell.send(id, &bytes);
    shell.settle();
    assert_eq!(shell.answers(id), [4, 6, 6]);
}

/// A new client can write and read.
fn serves(shell: &mut Shell) {
    let id = shell.connect();
    let mut bytes = opening(b"afterwards");
    for sql in [
        &b"CREATE TABLE alive (n)"[..],
        b"INSERT INTO alive VALUES (1)",
    ] {
        exec(&mut bytes, sql);
    }
    query(&mut bytes, b"SELECT * FROM alive");
    shell.send(id, &bytes);
    shell.settle();
    assert_eq!(shell.answers(id), [4, 6, 6, 7]);
    shell.close(id);
}

fn event(u: &mut Unstructured<'_>, shell: &mut Shell, members: bool) -> Result<()> {
    let connections = shell.connections();
    let kind = u.int_in_range(0..=23)?;
    if connections.is_empty() || kind == 0 && connections.len() < CONNECTIONS_MAX {
        return connect(u, shell);
    }
    let id = *u.choose(&connections)?;
    match kind {
        0..=9 => {
            let mut bytes = Vec::new();
            for _ in 0..u.int_in_range(1..=3)? {
                request(u, members, &mut bytes)?;
            }
            if u.ratio(1, 6)? {
                damage(u, &mut bytes)?;
            }
            send(u, shell, id, &bytes)?;
        }
        10 => {
            let count = u.int_in_range(0..=64)?.min(u.len());
            let bytes = u.bytes(count)?;
            shell.send(id, bytes);
        }
        11 => {
            // Most of a large request.
            let words: u32 = u.int_in_range(1..=1 << 15)?;
            let mut bytes = words.to_le_bytes().to_vec();
            bytes.extend([u.int_in_range(0..=20)?, 0, 0, 0]);
            bytes.resize(u.int_in_range(8..=8 * words as usize)?, 0);
            shell.send(id, &bytes);
        }
        12 => shell.close(id),
        13 => shell.end_sending(id),
        14 => shell.read(id, u.arbitrary()?),
        15 => shell.pass(u.int_in_range(0..=3000)?),
        16 => shell.turn(),
        17 => {
            shell.run_job();
        }
        18 => {
            shell.finish_disk();
        }
        19 => {
            shell.defer_jobs = u.arbitrary()?;
            shell.defer_disk = u.arbitrary()?;
        }
        20 => shell.disk_full(u.ratio(1, 4)?),
        21 if u.ratio(1, 4)? => shell.restart(),
        21 if members => shell.hand_over(),
        22 | 23 if members => members_answer(u, shell)?,
        _ => shell.turn(),
    }
    if u.ratio(1, 2)? {
        shell.turn();
    }
    Ok(())
}

/// The other members do what the node asks of them, mostly.
fn members_answer(u: &mut Unstructured<'_>, shell: &mut Shell) -> Result<()> {
    let weight = u.int_in_range(0..=3)?;
    let alive = u.ratio(3, 4)?;
    shell.answer_poll(|id| alive.then_some((id % 2, weight)));
    for _ in 0..u.int_in_range(1..=4)? {
        let answers = [
            Answer::Yes,
            Answer::Yes,
            Answer::Yes,
            Answer::No,
            Answer::YesLikeC,
            Answer::Nothing,
        ];
        if !shell.answer_oldest(*u.choose(&answers)?) {
            break;
        }
    }
    Ok(())
}

/// A new connection, which mostly begins well.
fn connect(u: &mut Unstructured<'_>, shell: &mut Shell) -> Result<()> {
    let id = shell.connect();
    let mut bytes = Vec::new();
    if u.ratio(15, 16)? {
        bytes.extend(PROTOCOL_V1.to_le_bytes());
    } else {
        let word: u64 = u.arbitrary()?;
        bytes.extend(word.to_le_bytes());
    }
    if u.ratio(7, 8)? {
        Request::Open {
            name: b"d",
            flags: 0,
            vfs: b"",
        }
        .encode(&mut bytes);
    }
    send(u, shell, id, &bytes)
}

/// Sends bytes in pieces.
fn send(u: &mut Unstructured<'_>, shell: &mut Shell, id: u64, bytes: &[u8]) -> Result<()> {
    let mut rest = bytes;
    for _ in 0..u.int_in_range(0..=3)? {
        let (piece, later) = rest.split_at(u.int_in_range(0..=rest.len())?);
        shell.send(id, piece);
        rest = later;
        if u.ratio(1, 4)? {
            shell.turn();
        }
    }
    if !rest.is_empty() && u.ratio(15, 16)? {
        shell.send(id, rest);
    }
    Ok(())
}

/// Changes a few bytes, or cuts.
pub(crate) fn damage(u: &mut Unstructured<'_>, bytes: &mut Vec<u8>) -> Result<()> {
    for _ in 0..u.int_in_range(1..=3)? {
        if bytes.is_empty() {
            return Ok(());
        }
        let at = u.choose_index(bytes.len())?;
        match u.int_in_range(0..=3)? {
            0 => bytes[at] = u.arbitrary()?,
            1 => bytes[at] ^= 1 << u.int_in_range(0..=7)?,
            2 => bytes.truncate(at),
            _ => bytes.insert(at, u.arbitrary()?),
        }
    }
    Ok(())
}

/// A text: one of the dictionary, some of them, or anything.
fn text(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let mut text = u.choose(sql::TEXTS)?.as_bytes().to_vec();
    match u.int_in_range(0..=9)? {
        0 => {
            for _ in 0..u.int_in_range(1..=20)? {
                text.push(b';');
                text.extend(u.choose(sql::TEXTS)?.as_bytes());
            }
        }
        1 => damage(u, &mut text)?,
        2 => {
            let count = u.int_in_range(0..=40)?.min(u.len());
            text = u.bytes(count)?.to_vec();
        }
        3 => text.extend(b";SELECT 1".repeat(u.int_in_range(0..=300)?)),
        _ => {}
    }
    text.retain(|&byte| byte != 0);
    Ok(text)
}

fn params(u: &mut Unstructured<'_>) -> Result<ParamsBuf> {
    let blob = vec![7; 3000];
    let mut values = Vec::new();
    if u.ratio(1, 32)? {
        // More than the older form of a tuple can count.
        values.resize(u.int_in_range(250..=300)?, ValueRef::Integer(3));
    }
    for _ in 0..u.int_in_range(0..=4)? {
        values.push(match u.int_in_range(0..=8)? {
            0 => ValueRef::Integer(u.arbitrary()?),
            1 => ValueRef::Float(u.arbitrary()?),
            2 => ValueRef::Text(b"text"),
            3 => ValueRef::Blob(&blob),
            4 => ValueRef::Null,
            5 => ValueRef::UnixTime(u.arbitrary()?),
            6 => ValueRef::Iso8601(b"2000-01-01 00:00:00"),
            7 => ValueRef::Boolean(u.arbitrary()?),
            _ => ValueRef::Integer(1),
        });
    }
    Ok(ParamsBuf::from_values(&values))
}

/// A request that is whole, appended.
fn request(u: &mut Unstructured<'_>, members: bool, out: &mut Vec<u8>) -> Result<()> {
    let db = u64::from(u.ratio(1, 30)?);
    let stmt = u.int_in_range(0..=4)?;
    let params = params(u)?;
    let params = params.as_params();
    let text = text(u)?;
    let sql = &text;
    let names: [&[u8]; 6] = [b"d", b"e", b"", b":memory:", b"d-wal", &[b'x'; 600]];
    let last = if members { 20 } else { 15 };
    let server = u.int_in_range(1..=3)?;
    let address = server.to_string().into_bytes();
    let request = match u.int_in_range(0..=last)? {
        0..=3 => Request::ExecSql { db, sql, params },
        4 | 5 => Request::QuerySql { db, sql, params },
        6 | 7 => Request::Prepare {
            schema: u.int_in_range(0..=1)?,
            db,
            sql,
        },
        8 => Request::Exec {
            db: db as u32,
            stmt,
            params,
        },
        9 => Request::Query {
            db: db as u32,
            stmt,
            params,
        },
        10 => Request::Finalize {
            db: db as u32,
            stmt,
        },
        11 => Request::Interrupt { db },
        12 => Request::Open {
            name: u.choose(&names)?,
            flags: u.arbitrary()?,
            vfs: b"",
        },
        13 => Request::Dump {
            name: u.choose(&names)?,
        },
        14 => Request::Cluster {
            format: u.int_in_range(0..=2)?,
        },
        15 => match u.int_in_range(0..=3)? {
            0 => Request::Leader,
            1 => Request::Client { id: 1 },
            2 => Request::Describe { format: db },
            _ => Request::Weight { weight: 3 },
        },
        16 => Request::Add {
            id: server,
            address: &address,
        },
        17 => Request::Assign {
            id: server,
            role: u.int_in_range(0..=3)?,
        },
        18 => Request::Promote { id: server },
        19 => Request::Remove { id: server },
        _ => Request::Transfer { id: server },
    };
    request.encode(out);
    Ok(())
}
