//! Other nodes, and those who say that they are: raft messages that are true, stale, foreign, damaged or
//! absurd, and snapshots, to one voter of three, which follows, stands, and leads others.
//!
//! A false leader may make the node give up, since it can commit what cannot be applied. It must not
//! make it panic, nor leave on its disk what the next start cannot read.

use arbitrary::{Result, Unstructured};
use dq_raft::{AppendEntries, EntryKind, LogEntry, Message, Stamp};
use dq_vfs::PAGE_SIZE;
use dq_wire::header::PROTOCOL_V1;
use dq_wire::request::Request;
use dq_wire::{ParamsBuf, Role};

use crate::reached::Reached;
use crate::session::damage;
use crate::shell::{Answer, Setup, Shell, encoded, hello, opening};

pub(crate) mod data;
mod messages;

/// Things that happen, at most.
const EVENTS_MAX: usize = 300;

/// Connections at the same time, at most.
const CONNECTIONS_MAX: usize = 8;

/// What the corpus has to reach.
pub const REACHES: &[&str] = &[
    "answer: files",
    "answer: leadership lost",
    "answer: not leader",
    "answer: result",
    "answer: rows",
    "disk: append",
    "disk: install a snapshot",
    "disk: prune",
    "disk: term and vote",
    "disk: truncate",
    "gave up",
    "leadership handed over",
    "led others",
    "log read back",
    "members asked how they are",
    "restart",
    "said: entries",
    "said: entries refused",
    "said: entries taken",
    "said: heartbeat",
    "said: take over",
    "said: vote",
    "said: vote granted",
    "said: vote refused",
    "said: would you vote",
    "snapshot arrived",
    "snapshot discarded",
    "snapshot refused",
    "snapshot taken",
];

/// Runs a node among others; afterwards a start has to find on its disk what it has made durable.
///
/// # Panics
/// If the node does, or breaks a promise.
pub fn run(bytes: &[u8]) -> Reached {
    let mut u = Unstructured::new(bytes);
    let setup = Setup::of(u.arbitrary().unwrap_or_default(), false);
    let mut shell = Shell::start(setup);
    shell.say(2, &beginning());
    shell.turn();
    for _ in 0..EVENTS_MAX {
        if u.is_empty() || shell.fatal.is_some() || event(&mut u, &mut shell).is_err() {
            break;
        }
    }
    for id in shell.connections() {
        shell.close(id);
    }
    shell.settle();
    // A leader that hears of nobody gives up what waits.
    shell.pass(60_000);
    shell.settle();
    let again = shell.reopened();
    if shell.fatal.is_none() {
        let status = shell.machine.status();
        assert_eq!(status.connections, 0);
        let found = again.machine.status();
        assert!(
            found.term >= status.term && found.last_index >= status.last_index,
            "there was {status:?}, and a start finds {found:?}"
        );
        asks(&mut shell);
    }
    shell.reached
}

/// A client is told who leads.
fn asks(shell: &mut Shell) {
    let id = shell.connect();
    let mut bytes = PROTOCOL_V1.to_le_bytes().to_vec();
    Request::Leader.encode(&mut bytes);
    shell.send(id, &bytes);
    assert_eq!(shell.answers(id), [1]);
}

/// What the first leader says: there are three voters, and a database.
fn beginning() -> Message {
    let entry = |index, kind, payload| LogEntry {
        index,
        term: 1,
        kind,
        payload,
    };
    let voters = data::servers(&[Role::Voter; 3]);
    let pages = data::image().len() / PAGE_SIZE;
    Message::AppendEntries(AppendEntries {
        term: 1,
        prev_index: 0,
        prev_term: 0,
        leader_commit: 2,
        entries: vec![
            entry(1, EntryKind::Change, data::configuration(&voters)),
            entry(2, EntryKind::Command, data::command(1, pages)),
        ],
        stamp: Stamp::default(),
    })
}

fn event(u: &mut Unstructured<'_>, shell: &mut Shell) -> Result<()> {
    let connections = shell.connections();
    let kind = u.int_in_range(0..=27)?;
    if connections.is_empty() || kind == 0 && connections.len() < CONNECTIONS_MAX {
        let peer = match u.int_in_range(0..=7)? {
            0 => u.arbitrary()?,
            _ => u.int_in_range(2..=3)?,
        };
        let id = shell.connect_peer(peer);
        let mut bytes = hello(peer);
        if u.ratio(1, 16)? {
            damage(u, &mut bytes)?;
        }
        return send(u, shell, id, &bytes);
    }
    let id = *u.choose(&connections)?;
    match kind {
        0..=9 => {
            let from = u.int_in_range(2..=3)?;
            let id = match u.ratio(3, 4)? {
                true => shell.connection_of(from).unwrap_or(id),
                false => id,
            };
            let (message, data) = messages::message(u, shell, from)?;
            let mut bytes = encoded(&message, data.len() as u64);
            bytes.extend(data);
            if u.ratio(1, 8)? {
                damage(u, &mut bytes)?;
            }
            send(u, shell, id, &bytes)?;
        }
        10 => {
            let count = u.int_in_range(0..=64)?.min(u.len());
            let bytes = u.bytes(count)?;
            shell.send(id, bytes);
        }
        11 => shell.close(id),
        12 => shell.end_sending(id),
        13 | 14 => shell.pass(u.int_in_range(0..=3000)?),
        15 => shell.peer(u.int_in_range(1..=3)?, u.arbitrary()?),
        16 => {
            shell.finish_disk();
        }
        17 => shell.defer_disk = u.arbitrary()?,
        18 => shell.disk_full(u.ratio(1, 4)?),
        19 | 20 => client(u, shell)?,
        21..=23 => {
            for _ in 0..u.int_in_range(1..=4)? {
                if !shell.answer_oldest(some_answer(u)?) {
                    break;
                }
            }
        }
        24 => wins(shell),
        25 => {
            let alive = u.ratio(3, 4)?;
            shell.answer_poll(|id| alive.then_some((id, 1)));
        }
        26 if u.ratio(1, 4)? => shell.restart(),
        26 if u.ratio(1, 3)? => shell.hand_over(),
        26 => shell.snapshot_sent(
            u.int_in_range(1..=3)?,
            *u.choose(&[None, Some(true), Some(false)])?,
        ),
        _ => shell.turn(),
    }
    if u.ratio(1, 2)? {
        shell.turn();
    }
    Ok(())
}

fn some_answer(u: &mut Unstructured<'_>) -> Result<Answer> {
    let answers = [
        Answer::Yes,
        Answer::Yes,
        Answer::Yes,
        Answer::YesLikeC,
        Answer::No,
        Answer::Nothing,
    ];
    Ok(*u.choose(&answers)?)
}

/// Nobody leads for a while, and the others want this node to.
fn wins(shell: &mut Shell) {
    shell.said.clear();
    for _ in 0..8 {
        shell.pass(500);
        while shell.answer_oldest(Answer::Yes) {
            shell.finish_disk();
        }
        if shell.machine.status().leading || shell.fatal.is_some() {
            break;
        }
    }
}

/// A client that reads, writes, or changes the members, and leaves or stays.
fn client(u: &mut Unstructured<'_>, shell: &mut Shell) -> Result<()> {
    if shell.connections().len() >= CONNECTIONS_MAX {
        return Ok(());
    }
    let id = shell.connect();
    let name: &[u8] = u.choose(&[&b"d"[..], b"d", b"d", b"e"])?;
    let mut bytes = opening(name);
    let none = ParamsBuf::default();
    for _ in 0..u.int_in_range(1..=4)? {
        let params = none.as_params();
        let server = u.int_in_range(1..=4)?;
        let address = server.to_string().into_bytes();
        let request = match u.int_in_range(0..=11)? {
            0..=4 => Request::ExecSql {
                db: 0,
                sql: u.choose(&[
                    &b"INSERT INTO t (b) VALUES (1)"[..],
                    b"INSERT INTO t (b) VALUES (zeroblob(30000))",
                    b"CREATE TABLE IF NOT EXISTS t (a INTEGER PRIMARY KEY, b)",
                    b"BEGIN; DELETE FROM t",
                    b"COMMIT",
                    b"PRAGMA delete_database",
                ])?,
                params,
            },
            5 | 6 => Request::QuerySql {
                db: 0,
                sql: b"SELECT count(*), max(a) FROM t",
                params,
            },
            7 => Request::Dump { name },
            8 => Request::Add {
                id: server,
                address: &address,
            },
            9 => Request::Assign {
                id: server,
                role: u.int_in_range(0..=3)?,
            },
            10 => Request::Remove { id: server },
            _ => Request::Transfer { id: server },
        };
        request.encode(&mut bytes);
    }
    shell.send(id, &bytes);
    if u.arbitrary()? {
        shell.turn();
        shell.close(id);
    }
    Ok(())
}

fn send(u: &mut Unstructured<'_>, shell: &mut Shell, id: u64, bytes: &[u8]) -> Result<()> {
    let (first, rest) = match u.ratio(1, 4)? {
        true => bytes.split_at(u.int_in_range(0..=bytes.len())?),
        false => (bytes, &[][..]),
    };
    shell.send(id, first);
    if !rest.is_empty() {
        shell.turn();
        shell.send(id, rest);
    }
    Ok(())
}

/// Mostly small, sometimes zero, sometimes absurd.
pub(crate) fn number(u: &mut Unstructured<'_>) -> Result<u64> {
    Ok(match u.int_in_range(0..=15)? {
        0 => 0,
        1 => u64::MAX - u.int_in_range(0..=2)?,
        2 => (1 << 62) - u.int_in_range(0..=2)?,
        3 => u.arbitrary()?,
        _ => u.int_in_range(1..=12)?,
    })
}
