//! What raft peers say to each other, decoded.
//!
//! The six messages of dqlite's peer protocol with their fields' meanings; bytes are another
//! module's business. A snapshot's data is not here: the shell streams it to or from files, and a
//! message only names it.

use bytes::Bytes;
use dq_wire::EntryHeader;
use dq_wire::raft_rpc;

use crate::types::{LogEntry, Payload, SnapshotMeta};

/// Bit 31 of the sequence number's word: the release bit.
const RELEASE: u32 = 1 << 31;

/// Largest term and log index that is taken from a peer. Real ones never come near; what is larger
/// would overflow arithmetic on the way.
pub(crate) const NUMBER_MAX: u64 = 1 << 62;

/// Who sent a message: what its connection said in CONNECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerId {
    /// Node id, never 0.
    pub id: u64,
    /// Address at which it can be reached.
    pub address: String,
}

/// A message to or from a peer.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// Type 1.
    AppendEntries(AppendEntries),
    /// Type 2; also the answer to type 5.
    AppendEntriesResult(AppendEntriesResult),
    /// Type 3.
    RequestVote(RequestVote),
    /// Type 4.
    RequestVoteResult(RequestVoteResult),
    /// Type 5. Outgoing: the shell streams the data of that snapshot, and reports with
    /// [`Driver::snapshot_sent`](crate::Driver::snapshot_sent). Incoming: the data is on disk
    /// under its temporary name, and has been checked.
    InstallSnapshot {
        /// The leader's term.
        term: u64,
        /// The snapshot.
        meta: SnapshotMeta,
    },
    /// Type 6.
    TimeoutNow {
        /// The leader's term.
        term: u64,
        /// The leader's last index.
        last_index: u64,
        /// Its term.
        last_term: u64,
    },
}

/// A leader's entries, or none: a heartbeat.
#[derive(Debug, Clone, PartialEq)]
pub struct AppendEntries {
    /// The leader's term, never 0.
    pub term: u64,
    /// Index of the entry before the first one here.
    pub prev_index: u64,
    /// Its term.
    pub prev_term: u64,
    /// The leader's commit index; never beyond the last entry here when we send.
    pub leader_commit: u64,
    /// The entries, from `prev_index + 1` on.
    pub entries: Vec<LogEntry>,
    /// Sequence number and release bit, between nodes of this kind.
    pub stamp: Stamp,
}

impl AppendEntries {
    /// Index of the last entry here, or of the one before.
    pub fn end(&self) -> u64 {
        self.prev_index + self.entries.len() as u64
    }
}

/// What travels in the upper half of an AppendEntries' type word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stamp {
    /// 31 bits, 0 for none; ascending within a term.
    pub seq: u32,
    /// The leader gives up the promises of its followers, for the rest of the term.
    pub release: bool,
}

/// The answer to AppendEntries and InstallSnapshot. Nothing correlates it with its request, unless
/// it carries an echo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppendEntriesResult {
    /// The follower's term.
    pub term: u64,
    /// 0 for success, else the position that was refused.
    pub rejected: u64,
    /// The follower's last index; what it means depends on the follower's kind.
    pub last_index: u64,
    /// What a node of this kind adds.
    pub echo: Option<Echo>,
}

/// The mark of a node of this kind on its results, bit 63 of `features`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Echo {
    /// The sequence number of the request; 0 if it had none or is not confirmed.
    pub seq: u32,
    /// For how long, from the receipt of the request, the follower votes for nobody else.
    pub promise_ms: u32,
}

/// A candidate asks for a vote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestVote {
    /// The term to be; in a pre-vote the candidate's term is one less.
    pub term: u64,
    /// The candidate.
    pub candidate: u64,
    /// Its last index.
    pub last_index: u64,
    /// The term there.
    pub last_term: u64,
    /// The leader itself asked for this election.
    pub disrupt_leader: bool,
    /// Only a question.
    pub pre_vote: bool,
}

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestVoteResult {
    /// A granted vote echoes the request's term. A refused one carries the voter's own, but C
    /// dqlite echoes in pre-votes then too.
    pub term: u64,
    /// The answer.
    pub granted: bool,
    /// Which question it answers; `None` from old nodes that do not say.
    pub pre_vote: Option<bool>,
    /// `term` is the voter's own even if the vote is refused: nodes of this kind say so.
    pub own_term: bool,
}

impl Message {
    /// Whether its preamble has a number, which not every kind of node can read.
    pub fn is_numbered(&self) -> bool {
        match self {
            Message::AppendEntries(m) => m.stamp != Stamp::default(),
            Message::AppendEntriesResult(m) => m.echo.is_some_and(|echo| echo.seq > 0),
            _ => false,
        }
    }

    /// The message's header and the number for its preamble. `data_size` is that of the snapshot
    /// that an InstallSnapshot names, in bytes; the payload of AppendEntries is that of its
    /// entries, one after the other.
    pub fn to_wire(&self, data_size: u64) -> (raft_rpc::Message, u32) {
        let mut seq = 0;
        let header = match self {
            Message::AppendEntries(m) => {
                seq = m.stamp.seq | if m.stamp.release { RELEASE } else { 0 };
                let entries = m.entries.iter().map(|entry| EntryHeader {
                    term: entry.term,
                    kind: entry.kind,
                    size: u32::try_from(entry.payload.len())
                        .expect("`propose` and the wire bound the size of an entry"),
                });
                raft_rpc::Message::AppendEntries(raft_rpc::AppendEntries {
                    term: m.term,
                    prev_log_index: m.prev_index,
                    prev_log_term: m.prev_term,
                    leader_commit: m.leader_commit,
                    entries: entries.collect(),
                })
            }
            Message::AppendEntriesResult(m) => {
                seq = m.echo.map_or(0, |echo| echo.seq);
                let ours = raft_rpc::AppendEntriesResult::FEATURE_OURS;
                raft_rpc::Message::AppendEntriesResult(raft_rpc::AppendEntriesResult {
                    term: m.term,
                    rejected: m.rejected,
                    last_log_index: m.last_index,
                    features: m.echo.map_or(0, |echo| ours | u64::from(echo.promise_ms)),
                })
            }
            Message::RequestVote(m) => raft_rpc::Message::RequestVote(raft_rpc::RequestVote {
                term: m.term,
                candidate_id: m.candidate,
                last_log_index: m.last_index,
                last_log_term: m.last_term,
                disrupt_leader: m.disrupt_leader,
                pre_vote: m.pre_vote,
            }),
            Message::RequestVoteResult(m) => {
                raft_rpc::Message::RequestVoteResult(raft_rpc::RequestVoteResult {
                    term: m.term,
                    vote_granted: m.granted,
                    pre_vote: m.pre_vote,
                    own_term: m.own_term,
                })
            }
            Message::InstallSnapshot { term, meta } => {
                raft_rpc::Message::InstallSnapshot(raft_rpc::InstallSnapshot {
                    term: *term,
                    last_index: meta.index,
                    last_term: meta.term,
                    configuration_index: meta.configuration_index,
                    configuration: meta.configuration.clone(),
                    data_size,
                })
            }
            Message::TimeoutNow {
                term,
                last_index,
                last_term,
            } => raft_rpc::Message::TimeoutNow(raft_rpc::TimeoutNow {
                term: *term,
                last_log_index: *last_index,
                last_log_term: *last_term,
            }),
        };
        (header, seq)
    }

    /// A message from its header, the number in its preamble and, for AppendEntries, its whole
    /// payload. The timestamp of an InstallSnapshot's snapshot is 0: it is the receiver's to give.
    ///
    /// `None` if the payload is not as long as the header says, or an index would overflow.
    pub fn from_wire(header: raft_rpc::Message, seq: u32, payload: &Bytes) -> Option<Message> {
        Some(match header {
            raft_rpc::Message::AppendEntries(m) => {
                let mut entries = Vec::with_capacity(m.entries.len());
                let mut index = m.prev_log_index;
                let mut offset = 0usize;
                for entry in &m.entries {
                    index = index.checked_add(1)?;
                    let end = offset.checked_add(usize::try_from(entry.size).ok()?)?;
                    if end > payload.len() {
                        return None;
                    }
                    entries.push(LogEntry {
                        index,
                        term: entry.term,
                        kind: entry.kind,
                        payload: Payload::from(payload.slice(offset..end)),
                    });
                    offset = end;
                }
                if offset != payload.len() {
                    return None;
                }
                Message::AppendEntries(AppendEntries {
                    term: m.term,
                    prev_index: m.prev_log_index,
                    prev_term: m.prev_log_term,
                    leader_commit: m.leader_commit,
                    entries,
                    stamp: Stamp {
                        seq: seq & !RELEASE,
                        release: seq & RELEASE != 0,
                    },
                })
            }
            raft_rpc::Message::AppendEntriesResult(m) => {
                let ours = m.features & raft_rpc::AppendEntriesResult::FEATURE_OURS != 0;
                Message::AppendEntriesResult(AppendEntriesResult {
                    term: m.term,
                    rejected: m.rejected,
                    last_index: m.last_log_index,
                    echo: ours.then_some(Echo {
                        seq: seq & !RELEASE,
                        promise_ms: m.features as u32, // the low half is the promise
                    }),
                })
            }
            raft_rpc::Message::RequestVote(m) => Message::RequestVote(RequestVote {
                term: m.term,
                candidate: m.candidate_id,
                last_index: m.last_log_index,
                last_term: m.last_log_term,
                disrupt_leader: m.disrupt_leader,
                pre_vote: m.pre_vote,
            }),
            raft_rpc::Message::RequestVoteResult(m) => {
                Message::RequestVoteResult(RequestVoteResult {
                    term: m.term,
                    granted: m.vote_granted,
                    pre_vote: m.pre_vote,
                    own_term: m.own_term,
                })
            }
            raft_rpc::Message::InstallSnapshot(m) => Message::InstallSnapshot {
                term: m.term,
                meta: SnapshotMeta {
                    index: m.last_index,
                    term: m.last_term,
                    timestamp: 0,
                    configuration: m.configuration,
                    configuration_index: m.configuration_index,
                },
            },
            raft_rpc::Message::TimeoutNow(m) => Message::TimeoutNow {
                term: m.term,
                last_index: m.last_log_index,
                last_term: m.last_log_term,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use dq_wire::{Configuration, EntryKind, Role, Server};

    use super::*;

    #[track_caller]
    fn check(message: Message, want_seq: u32) -> raft_rpc::Message {
        let (header, seq) = message.to_wire(77);
        assert_eq!(seq, want_seq);
        assert_eq!(message.is_numbered(), want_seq > 0);
        let mut payload = Vec::new();
        if let Message::AppendEntries(append) = &message {
            for entry in &append.entries {
                payload.extend_from_slice(&entry.payload.to_bytes());
            }
        }
        let back = Message::from_wire(header.clone(), seq, &Bytes::from(payload));
        assert_eq!(back, Some(message), "there and back");
        header
    }

    fn append() -> AppendEntries {
        let entry = |index, kind, bytes: &'static [u8]| LogEntry {
            index,
            term: 3,
            kind,
            payload: Payload::from(Bytes::from_static(bytes)),
        };
        AppendEntries {
            term: 4,
            prev_index: 7,
            prev_term: 2,
            leader_commit: 6,
            entries: vec![
                entry(8, EntryKind::Barrier, &[0; 8]),
                entry(9, EntryKind::Command, &[1; 24]),
            ],
            stamp: Stamp {
                seq: 12,
                release: true,
            },
        }
    }

    #[test]
    fn appends_carry_their_number_and_the_release_bit_in_the_preamble() {
        check(Message::AppendEntries(append()), 12 | 1 << 31);
        let plain = AppendEntries {
            stamp: Stamp::default(),
            ..append()
        };
        check(Message::AppendEntries(plain), 0);
    }

    #[test]
    fn a_payload_that_is_not_as_long_as_its_header_says_is_no_message() {
        let (header, seq) = Message::AppendEntries(append()).to_wire(0);
        for len in [0, 8, 31, 33] {
            let payload = Bytes::from(vec![0; len]);
            assert_eq!(
                Message::from_wire(header.clone(), seq, &payload),
                None,
                "{len} bytes"
            );
        }
    }

    #[test]
    fn results_mark_their_sender_in_the_features() {
        let result = AppendEntriesResult {
            term: 4,
            rejected: 0,
            last_index: 9,
            echo: None,
        };
        let raft_rpc::Message::AppendEntriesResult(plain) =
            check(Message::AppendEntriesResult(result), 0)
        else {
            panic!("another message")
        };
        assert_eq!(plain.features, 0);
        let echo = Some(Echo {
            seq: 12,
            promise_ms: 1500,
        });
        let result = AppendEntriesResult { echo, ..result };
        let raft_rpc::Message::AppendEntriesResult(ours) =
            check(Message::AppendEntriesResult(result), 12)
        else {
            panic!("another message")
        };
        assert_eq!(ours.features, 1 << 63 | 1500);
    }

    #[test]
    fn the_other_messages_keep_every_field() {
        check(
            Message::RequestVote(RequestVote {
                term: 5,
                candidate: 2,
                last_index: 9,
                last_term: 4,
                disrupt_leader: true,
                pre_vote: false,
            }),
            0,
        );
        for pre_vote in [None, Some(true), Some(false)] {
            let own_term = pre_vote.is_some();
            let result = RequestVoteResult {
                term: 5,
                granted: true,
                pre_vote,
                own_term,
            };
            check(Message::RequestVoteResult(result), 0);
        }
        check(
            Message::TimeoutNow {
                term: 5,
                last_index: 9,
                last_term: 4,
            },
            0,
        );
        let server = Server {
            id: 1,
            address: "1".to_owned(),
            role: Role::Voter,
        };
        let meta = SnapshotMeta {
            index: 9,
            term: 4,
            timestamp: 0,
            configuration: Configuration {
                servers: vec![server],
            },
            configuration_index: 1,
        };
        let raft_rpc::Message::InstallSnapshot(install) =
            check(Message::InstallSnapshot { term: 5, meta }, 0)
        else {
            panic!("another message")
        };
        assert_eq!(install.data_size, 77);
    }
}
