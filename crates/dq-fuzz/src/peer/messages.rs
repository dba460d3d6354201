//! Raft messages: true, stale, foreign and absurd.

use arbitrary::{Result, Unstructured};
use bytes::Bytes;
use dq_raft::{
    AppendEntries, AppendEntriesResult, Echo, EntryKind, LogEntry, Message, RequestVote,
    RequestVoteResult, SnapshotMeta, Stamp,
};
use dq_wire::BARRIER_PAYLOAD;

use super::data;
use super::number;
use crate::session::damage;
use crate::shell::Shell;

/// A message, mostly one that fits what the node has, and data that follow it.
pub(super) fn message(
    u: &mut Unstructured<'_>,
    shell: &Shell,
    from: u64,
) -> Result<(Message, Vec<u8>)> {
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
                entries.push(entry(u, shell, index.wrapping_add(i), term)?);
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
            candidate: match u.ratio(1, 8)? {
                true => u.int_in_range(0..=3)?,
                false => from,
            },
            last_index: index,
            last_term: at,
            disrupt_leader: u.arbitrary()?,
            pre_vote: u.arbitrary()?,
        }),
        6 => Message::RequestVoteResult(RequestVoteResult {
            term,
            granted: u.arbitrary()?,
            pre_vote: *u.choose(&[None, Some(true), Some(false)])?,
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
            data = data::snapshot(u)?;
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
                    configuration: data::some_servers(u)?,
                    configuration_index,
                },
            }
        }
    };
    Ok((message, data))
}

fn entry(u: &mut Unstructured<'_>, shell: &Shell, index: u64, term: u64) -> Result<LogEntry> {
    let (kind, payload) = match u.int_in_range(0..=7)? {
        0 => (
            EntryKind::Barrier,
            Bytes::from_static(&BARRIER_PAYLOAD).into(),
        ),
        1 => {
            let servers = data::some_servers(u)?;
            (EntryKind::Change, data::configuration(&servers))
        }
        2 => {
            let kinds = [EntryKind::Command, EntryKind::Barrier, EntryKind::Change];
            let kind = *u.choose(&kinds)?;
            let words = u.int_in_range(0..=4)?.min(u.len() / 8);
            let bytes = u.bytes(words * 8)?;
            (kind, Bytes::copy_from_slice(bytes).into())
        }
        3..=5 => {
            let mut bytes = data::some_command(u, |name| {
                let mut databases = shell.machine.databases();
                let found = databases.find(|(found, _)| *found == name)?;
                Some(found.1.fingerprint())
            })?;
            if u.ratio(1, 3)? {
                damage(u, &mut bytes)?;
            }
            bytes.resize(bytes.len().next_multiple_of(8), 0);
            (EntryKind::Command, Bytes::from(bytes).into())
        }
        _ => {
            let first = u.int_in_range(1..=4)?;
            (
                EntryKind::Command,
                data::command(first, u.int_in_range(1..=6)?),
            )
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
