//! Other nodes, and those who say that they are: raft messages that are true, stale, foreign, damaged or
//! absurd, and snapshots, to one voter of three.
//!
//! A false leader may make the node give up, since it can commit what cannot be applied. It must not
//! make it panic.

use std::sync::OnceLock;

use arbitrary::{Result, Unstructured};
use bytes::Bytes;
use dq_raft::sim_disk::SimDisk;
use dq_raft::{
    AppendEntries, AppendEntriesResult, Echo, EntryKind, LogEntry, Message, Payload, RequestVote,
    RequestVoteResult, SnapshotMeta, Stamp,
};
use dq_server::peers;
use dq_vfs::PAGE_SIZE;
use dq_wire::disk::fsm_snapshot::{DatabaseHead, encode_database_head, encode_snapshot_head};
use dq_wire::header::PROTOCOL_V1;
use dq_wire::request::Request;
use dq_wire::{
    BARRIER_PAYLOAD, Configuration, ParamsBuf, Role, Server, encode_frames_header, raft_rpc,
};

use crate::session::damage;
use crate::shell::Shell;

/// Things that happen, at most.
const EVENTS_MAX: usize = 300;

/// Connections at the same time, at most.
const CONNECTIONS_MAX: usize = 8;

/// Runs a node among others.
///
/// # Panics
/// If the node does, or breaks a promise.
pub fn run(bytes: &[u8]) {
    let mut u = Unstructured::new(bytes);
    let mut shell = Shell::start(SimDisk::new(), false);
    let first = shell.connect(true);
    shell.send(first, &hello(2));
    shell.send(first, &encoded(&beginning(), 0));
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
    if shell.fatal.is_none() {
        assert_eq!(shell.machine.status().connections, 0);
        asks(&mut shell);
    }
}

/// A client is told who leads.
fn asks(shell: &mut Shell) {
    let id = shell.connect(false);
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
    Message::AppendEntries(AppendEntries {
        term: 1,
        prev_index: 0,
        prev_term: 0,
        leader_commit: 2,
        entries: vec![
            entry(1, EntryKind::Change, configuration(&[Role::Voter; 3])),
            entry(2, EntryKind::Command, command(1, image().len() / PAGE_SIZE)),
        ],
        stamp: Stamp::default(),
    })
}

fn configuration(roles: &[Role]) -> Payload {
    let mut bytes = Vec::new();
    servers(roles).encode(&mut bytes);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    Bytes::from(bytes).into()
}

fn servers(roles: &[Role]) -> Configuration {
    let server = |(id, role): (u64, &Role)| Server {
        id,
        address: id.to_string(),
        role: *role,
    };
    Configuration {
        servers: (1..).zip(roles).map(server).collect(),
    }
}

/// The bytes of a small database.
fn image() -> &'static [u8] {
    static IMAGE: OnceLock<Vec<u8>> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let mut shell = Shell::start(SimDisk::new(), true);
        let id = shell.connect(false);
        let mut bytes = PROTOCOL_V1.to_le_bytes().to_vec();
        Request::Open {
            name: b"d",
            flags: 0,
            vfs: b"",
        }
        .encode(&mut bytes);
        Request::ExecSql {
            db: 0,
            sql: b"CREATE TABLE t (a INTEGER PRIMARY KEY, b); INSERT INTO t (b) VALUES ('x'), (zeroblob(9000))",
            params: ParamsBuf::default().as_params(),
        }
        .encode(&mut bytes);
        shell.send(id, &bytes);
        shell.settle();
        let (_, version) = shell.machine.databases().next().expect("one is open");
        let pages = version.pages().map(|page| page.bytes().to_vec());
        pages.collect::<Vec<_>>().concat()
    })
}

/// A transaction that writes pages `first` to `last` of the image.
fn command(first: usize, last: usize) -> Payload {
    let count = image().len() / PAGE_SIZE;
    let last = last.min(count);
    let first = first.clamp(1, last);
    let mut bytes = encode_frames_header(
        b"d",
        0,
        (first..=last)
            .map(|page| u32::try_from(page).expect("few"))
            .collect::<Vec<_>>(),
    );
    bytes.extend_from_slice(&image()[(first - 1) * PAGE_SIZE..last * PAGE_SIZE]);
    Bytes::from(bytes).into()
}

/// The data of a snapshot with the image.
fn snapshot() -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_snapshot_head(&mut bytes, 1);
    encode_database_head(
        &mut bytes,
        &DatabaseHead {
            name: b"d",
            main_size: image().len() as u64,
            wal_size: 0,
        },
    );
    bytes.extend_from_slice(image());
    bytes
}

fn hello(id: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    raft_rpc::encode_connect(&mut bytes, id, id.to_string().as_bytes());
    bytes
}

fn encoded(message: &Message, data_size: u64) -> Vec<u8> {
    let pieces = peers::encode(message, data_size).unwrap_or_default();
    pieces.concat()
}

fn event(u: &mut Unstructured<'_>, shell: &mut Shell) -> Result<()> {
    let connections = shell.connections();
    let kind = u.int_in_range(0..=19)?;
    if connections.is_empty() || kind == 0 && connections.len() < CONNECTIONS_MAX {
        let id = shell.connect(true);
        let mut bytes = match u.int_in_range(0..=7)? {
            0 => hello(u.arbitrary()?),
            _ => hello(u.int_in_range(2..=3)?),
        };
        if u.ratio(1, 16)? {
            damage(u, &mut bytes)?;
        }
        return send(u, shell, id, &bytes);
    }
    let id = *u.choose(&connections)?;
    match kind {
        0..=9 => {
            let (message, data) = message(u, shell)?;
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
        _ => client(u, shell)?,
    }
    if u.ratio(1, 2)? {
        shell.turn();
    }
    Ok(())
}

/// A client that writes, and leaves or stays.
fn client(u: &mut Unstructured<'_>, shell: &mut Shell) -> Result<()> {
    if shell.connections().len() >= CONNECTIONS_MAX {
        return Ok(());
    }
    let id = shell.connect(false);
    let mut bytes = PROTOCOL_V1.to_le_bytes().to_vec();
    let (name, vfs): (&[u8], &[u8]) = (b"d", b"");
    Request::Open {
        name,
        flags: 0,
        vfs,
    }
    .encode(&mut bytes);
    Request::ExecSql {
        db: 0,
        sql: b"INSERT INTO t (b) VALUES (1)",
        params: ParamsBuf::default().as_params(),
    }
    .encode(&mut bytes);
    shell.send(id, &bytes);
    if u.arbitrary()? {
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
fn number(u: &mut Unstructured<'_>) -> Result<u64> {
    Ok(match u.int_in_range(0..=15)? {
        0 => 0,
        1 => u64::MAX - u.int_in_range(0..=2)?,
        2 => (1 << 62) - u.int_in_range(0..=2)?,
        3 => u.arbitrary()?,
        _ => u.int_in_range(1..=12)?,
    })
}

/// A message, mostly one that fits what the node has, and data that follow it.
fn message(u: &mut Unstructured<'_>, shell: &Shell) -> Result<(Message, Vec<u8>)> {
    let status = shell.machine.status();
    let term = match u.ratio(3, 4)? {
        true => status.term + u.int_in_range(0..=1)?,
        false => number(u)?,
    };
    let index = match u.ratio(3, 4)? {
        true => status.last_index.saturating_sub(u.int_in_range(0..=3)?),
        false => number(u)?,
    };
    let at = match u.ratio(3, 4)? {
        true => shell.machine.driver().term_at(index).unwrap_or(0),
        false => number(u)?,
    };
    let mut data = Vec::new();
    let message = match u.int_in_range(0..=8)? {
        0..=3 => {
            let mut entries = Vec::new();
            for i in 1..=u.int_in_range(0..=3)? {
                entries.push(entry(u, index.wrapping_add(i), term)?);
            }
            let leader_commit = match u.ratio(3, 4)? {
                true => index.saturating_add(u.int_in_range(0..=3)?),
                false => number(u)?,
            };
            Message::AppendEntries(AppendEntries {
                term,
                prev_index: index,
                prev_term: at,
                leader_commit,
                entries,
                stamp: Stamp {
                    seq: u.int_in_range(0..=3)?,
                    release: u.arbitrary()?,
                },
            })
        }
        4 => Message::AppendEntriesResult(AppendEntriesResult {
            term,
            rejected: match u.arbitrary()? {
                true => 0,
                false => number(u)?,
            },
            last_index: index,
            echo: match u.arbitrary()? {
                true => Some(Echo {
                    seq: u.int_in_range(0..=3)?,
                    promise_ms: u.arbitrary()?,
                }),
                false => None,
            },
        }),
        5 => Message::RequestVote(RequestVote {
            term,
            candidate: u.int_in_range(0..=3)?,
            last_index: index,
            last_term: at,
            disrupt_leader: u.arbitrary()?,
            pre_vote: u.arbitrary()?,
        }),
        6 => Message::RequestVoteResult(RequestVoteResult {
            term,
            granted: u.arbitrary()?,
            pre_vote: u.arbitrary()?,
            own_term: u.arbitrary()?,
        }),
        7 => Message::TimeoutNow {
            term,
            last_index: index,
            last_term: at,
        },
        _ => {
            let index = match u.ratio(3, 4)? {
                true => status.last_index + u.int_in_range(0..=5)?,
                false => number(u)?,
            };
            data = snapshot();
            if u.ratio(1, 3)? {
                damage(u, &mut data)?;
            }
            let roles = [Role::Voter, Role::Voter, Role::Standby, Role::Spare];
            let roles = &roles[..u.int_in_range(0..=4)?];
            let configuration_index = match u.ratio(3, 4)? {
                true => 1,
                false => number(u)?,
            };
            Message::InstallSnapshot {
                term,
                meta: SnapshotMeta {
                    index,
                    term: term.min(status.term),
                    timestamp: 0,
                    configuration: servers(roles),
                    configuration_index,
                },
            }
        }
    };
    Ok((message, data))
}

fn entry(u: &mut Unstructured<'_>, index: u64, term: u64) -> Result<LogEntry> {
    let (kind, payload) = match u.int_in_range(0..=5)? {
        0 => (
            EntryKind::Barrier,
            Bytes::from_static(&BARRIER_PAYLOAD).into(),
        ),
        1 => {
            let roles = [Role::Voter, Role::Voter, Role::Standby, Role::Voter];
            let count = u.int_in_range(0..=4)?;
            (EntryKind::Change, configuration(&roles[..count]))
        }
        2 => {
            let kinds = [EntryKind::Command, EntryKind::Barrier, EntryKind::Change];
            let kind = *u.choose(&kinds)?;
            let words = u.int_in_range(0..=4)?.min(u.len() / 8);
            let bytes = u.bytes(words * 8)?;
            (kind, Bytes::copy_from_slice(bytes).into())
        }
        3 => {
            let payload = command(1, 9).to_bytes();
            let mut bytes = payload.to_vec();
            damage(u, &mut bytes)?;
            bytes.resize(bytes.len().next_multiple_of(8), 0);
            (EntryKind::Command, Bytes::from(bytes).into())
        }
        _ => {
            let first = u.int_in_range(1..=4)?;
            (EntryKind::Command, command(first, u.int_in_range(1..=6)?))
        }
    };
    let term = match u.ratio(7, 8)? {
        true => term,
        false => number(u)?,
    };
    Ok(LogEntry {
        index,
        term,
        kind,
        payload,
    })
}
