//! What nodes say to each other.
//!
//! A node dials each peer and only writes on the connections that it dialled; answers travel on the
//! other's own connection. Such a connection begins like a client's, with the protocol word and a
//! CONNECT request ([`encode_connect`]), and carries raft messages from then on:
//!
//! ```text
//! preamble   u64 type (low 16 bits) and sequence number (high 32 bits)
//!            u64 size of the header
//! header     by type, see below
//! payload    AppendEntries: the data of its entries; InstallSnapshot: the snapshot
//! ```
//!
//! | type | message | words of the header |
//! |---|---|---|
//! | 1 | AppendEntries | term, prev index, prev term, commit, batch header, one unused |
//! | 2 | AppendEntriesResult | term, rejected, last index, features |
//! | 3 | RequestVote | term, candidate, last index, last term, flags |
//! | 4 | RequestVoteResult | term, granted, flags |
//! | 5 | InstallSnapshot | term, last index, last term, configuration index, configuration's size, configuration, data size |
//! | 6 | TimeoutNow | term, last index, last term |
//!
//! The last word of types 2, 3 and 4 is missing in messages of old versions, and the unused word of
//! type 1 may be. A header that is longer than its fields is accepted: later versions may add some.
//! The long forms are written.
//!
//! A message with term 0 is refused. No node sends one, and raft-rs would take it for a message of
//! its own: a TimeoutNow with term 0 starts an election.
//!
//! Only headers are built and read here. A payload goes from the log or a file to the socket, and
//! back, without passing through this module.

use std::fmt;

use crate::codec::{DecodeError, Reader, WORD, put_u64};
use crate::configuration::Configuration;
use crate::entry::{EntryHeader, decode_batch_header, encode_batch_header};
use crate::header::PROTOCOL_V1;
use crate::request::Request;

/// The largest header, in bytes.
pub const HEADER_SIZE_MAX: u64 = 4 << 20;

/// The largest payload in bytes, but for that of an InstallSnapshot.
pub const PAYLOAD_SIZE_MAX: u64 = 500 << 20;

/// The largest snapshot, in bytes. Releases of C dqlite take one of any size, up to 1.18.6; what came
/// after them takes none over [`PAYLOAD_SIZE_MAX`]. It is never held in memory as a message, so the
/// limit only keeps arithmetic from overflowing.
pub const SNAPSHOT_SIZE_MAX: u64 = 16 << 40;

/// The bit that C dqlite leaves zero in `features` and in the flags of RequestVoteResult, and by
/// which nodes of this implementation know each other.
const OURS: u64 = 1 << 63;

const DISRUPT_LEADER: u64 = 1;
const PRE_VOTE: u64 = 2;
const RESULT_PRE_VOTE: u64 = 1;

/// The type of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum MessageKind {
    /// [`Message::AppendEntries`].
    AppendEntries = 1,
    /// [`Message::AppendEntriesResult`].
    AppendEntriesResult = 2,
    /// [`Message::RequestVote`].
    RequestVote = 3,
    /// [`Message::RequestVoteResult`].
    RequestVoteResult = 4,
    /// [`Message::InstallSnapshot`].
    InstallSnapshot = 5,
    /// [`Message::TimeoutNow`].
    TimeoutNow = 6,
}

impl MessageKind {
    fn from_code(code: u16) -> Option<MessageKind> {
        Some(match code {
            1 => MessageKind::AppendEntries,
            2 => MessageKind::AppendEntriesResult,
            3 => MessageKind::RequestVote,
            4 => MessageKind::RequestVoteResult,
            5 => MessageKind::InstallSnapshot,
            6 => MessageKind::TimeoutNow,
            _ => return None,
        })
    }
}

/// The first 16 bytes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preamble {
    /// What follows.
    pub kind: MessageKind,
    /// A number that the receiver echoes in its answer; 0 from and to C dqlite.
    pub seq: u32,
    /// Size of the header in bytes, from 1 to [`HEADER_SIZE_MAX`].
    pub header_size: u32,
}

impl Preamble {
    /// Size of an encoded preamble in bytes.
    pub const SIZE: usize = 16;

    /// Reads a preamble from the first 16 bytes of `bytes`.
    ///
    /// # Errors
    /// `Incomplete` if there are fewer; `Malformed` if the type has no meaning, or the header is
    /// empty or larger than [`HEADER_SIZE_MAX`].
    pub fn decode(bytes: &[u8]) -> Result<Preamble, DecodeError> {
        if bytes.len() < Preamble::SIZE {
            return Err(DecodeError::Incomplete {
                more: Preamble::SIZE - bytes.len(),
            });
        }
        let mut r = Reader::new(bytes);
        let kind = MessageKind::from_code(r.u16()?).ok_or(r.malformed("message type", 2))?;
        // Bytes 2 and 3 are free, and ignored by all readers.
        r.u16()?;
        let seq = r.u32()?;
        let size = r.u64()?;
        let header_size = u32::try_from(size)
            .ok()
            .filter(|_| (1..=HEADER_SIZE_MAX).contains(&size))
            .ok_or(r.malformed("header size", WORD))?;
        Ok(Preamble {
            kind,
            seq,
            header_size,
        })
    }

    /// The preamble's 16 bytes.
    pub fn encode(&self) -> [u8; Preamble::SIZE] {
        let mut bytes = [0; Preamble::SIZE];
        bytes[0] = self.kind as u8;
        bytes[4..8].copy_from_slice(&self.seq.to_le_bytes());
        bytes[8..].copy_from_slice(&u64::from(self.header_size).to_le_bytes());
        bytes
    }
}

/// A message, without its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Entries to append, or a heartbeat.
    AppendEntries(AppendEntries),
    /// What became of them, or of a snapshot.
    AppendEntriesResult(AppendEntriesResult),
    /// A request for a vote.
    RequestVote(RequestVote),
    /// The vote.
    RequestVoteResult(RequestVoteResult),
    /// A snapshot to start over from.
    InstallSnapshot(InstallSnapshot),
    /// Leadership, handed over.
    TimeoutNow(TimeoutNow),
}

/// From a leader: entries to append, or none (a heartbeat).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppendEntries {
    /// The leader's term.
    pub term: u64,
    /// Index of the entry before the first one.
    pub prev_log_index: u64,
    /// Its term.
    pub prev_log_term: u64,
    /// The leader's commit index.
    pub leader_commit: u64,
    /// The entries; their data are the payload, in this order, back to back.
    pub entries: Vec<EntryHeader>,
}

/// The answer to [`AppendEntries`] and to [`InstallSnapshot`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppendEntriesResult {
    /// The sender's term.
    pub term: u64,
    /// 0 for success, else the `prev_log_index` that did not match.
    pub rejected: u64,
    /// Index of the last entry in the sender's log. A success does not say that it matches the
    /// leader's.
    pub last_log_index: u64,
    /// 0 from C dqlite; bit 63 marks a node of ours, which gives the other bits a meaning.
    pub features: u64,
}

impl AppendEntriesResult {
    /// The bit of `features` that a node of ours sets.
    pub const FEATURE_OURS: u64 = OURS;
}

/// From a candidate: a request for a vote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestVote {
    /// The candidate's term; in a pre-vote, the one after it.
    pub term: u64,
    /// Its node id.
    pub candidate_id: u64,
    /// Index of its last entry.
    pub last_log_index: u64,
    /// Term of that entry.
    pub last_log_term: u64,
    /// Vote even if a leader is known: leadership is being handed over.
    pub disrupt_leader: bool,
    /// The question is only whether a vote would be given.
    pub pre_vote: bool,
}

/// The answer to [`RequestVote`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestVoteResult {
    /// The sender's term or, unless `own_term`, possibly that of the request.
    pub term: u64,
    /// The vote is given.
    pub vote_granted: bool,
    /// Whether this answers a pre-vote; `None` in the short form of old versions, which do not say.
    pub pre_vote: Option<bool>,
    /// `term` is the sender's own in any case: set by nodes of ours.
    pub own_term: bool,
}

/// From a leader: a snapshot that replaces the whole log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstallSnapshot {
    /// The leader's term.
    pub term: u64,
    /// Index of the last entry that the snapshot contains.
    pub last_index: u64,
    /// Its term.
    pub last_term: u64,
    /// Index of the entry that brought the configuration.
    pub configuration_index: u64,
    /// The configuration as of the snapshot.
    pub configuration: Configuration,
    /// Size of the payload, the snapshot itself (see [`crate::disk::fsm_snapshot`]), in bytes.
    pub data_size: u64,
}

/// From a leader that hands over: start an election at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeoutNow {
    /// The leader's term.
    pub term: u64,
    /// Index of its last entry.
    pub last_log_index: u64,
    /// Term of that entry.
    pub last_log_term: u64,
}

/// A message that must not be sent, since a peer would close the connection on it each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLarge;

impl fmt::Display for TooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the message exceeds what peers accept")
    }
}

impl std::error::Error for TooLarge {}

impl Message {
    /// Reads a message from its whole header.
    ///
    /// # Errors
    /// `Incomplete` if the header is too short for its type. `Malformed` if the term is 0, an entry
    /// or the configuration is wrong, or the payload would be larger than
    /// [`PAYLOAD_SIZE_MAX`] or [`SNAPSHOT_SIZE_MAX`].
    pub fn decode(kind: MessageKind, header: &[u8]) -> Result<Message, DecodeError> {
        let mut r = Reader::new(header);
        let term = r.u64()?;
        if term == 0 {
            return Err(r.malformed("term", WORD));
        }
        let message = match kind {
            MessageKind::AppendEntries => Message::AppendEntries(AppendEntries {
                term,
                prev_log_index: r.u64()?,
                prev_log_term: r.u64()?,
                leader_commit: r.u64()?,
                entries: decode_batch_header(&mut r, header.len() / EntryHeader::SIZE)?,
            }),
            MessageKind::AppendEntriesResult => Message::AppendEntriesResult(AppendEntriesResult {
                term,
                rejected: r.u64()?,
                last_log_index: r.u64()?,
                features: last_word(&mut r)?.unwrap_or(0),
            }),
            MessageKind::RequestVote => {
                let candidate_id = r.u64()?;
                let last_log_index = r.u64()?;
                let last_log_term = r.u64()?;
                let flags = last_word(&mut r)?.unwrap_or(0);
                Message::RequestVote(RequestVote {
                    term,
                    candidate_id,
                    last_log_index,
                    last_log_term,
                    disrupt_leader: flags & DISRUPT_LEADER != 0,
                    pre_vote: flags & PRE_VOTE != 0,
                })
            }
            MessageKind::RequestVoteResult => {
                let vote_granted = r.u64()? != 0;
                let flags = last_word(&mut r)?;
                Message::RequestVoteResult(RequestVoteResult {
                    term,
                    vote_granted,
                    pre_vote: flags.map(|flags| flags & RESULT_PRE_VOTE != 0),
                    own_term: flags.is_some_and(|flags| flags & OURS != 0),
                })
            }
            MessageKind::InstallSnapshot => {
                let last_index = r.u64()?;
                let last_term = r.u64()?;
                let configuration_index = r.u64()?;
                let size = r.u64()?;
                let size =
                    usize::try_from(size).map_err(|_| r.malformed("configuration size", WORD))?;
                let start = r.offset();
                let configuration = Configuration::decode(r.bytes(size)?)
                    .map_err(|error| error.inside("configuration", start))?;
                let data_size = r.u64()?;
                Message::InstallSnapshot(InstallSnapshot {
                    term,
                    last_index,
                    last_term,
                    configuration_index,
                    configuration,
                    data_size,
                })
            }
            MessageKind::TimeoutNow => Message::TimeoutNow(TimeoutNow {
                term,
                last_log_index: r.u64()?,
                last_log_term: r.u64()?,
            }),
        };
        if message.payload_size() > message.payload_size_max() {
            return Err(r.malformed("payload size", 0));
        }
        Ok(message)
    }

    /// The message's type.
    pub fn kind(&self) -> MessageKind {
        match self {
            Message::AppendEntries(_) => MessageKind::AppendEntries,
            Message::AppendEntriesResult(_) => MessageKind::AppendEntriesResult,
            Message::RequestVote(_) => MessageKind::RequestVote,
            Message::RequestVoteResult(_) => MessageKind::RequestVoteResult,
            Message::InstallSnapshot(_) => MessageKind::InstallSnapshot,
            Message::TimeoutNow(_) => MessageKind::TimeoutNow,
        }
    }

    /// The message's term.
    pub fn term(&self) -> u64 {
        match self {
            Message::AppendEntries(m) => m.term,
            Message::AppendEntriesResult(m) => m.term,
            Message::RequestVote(m) => m.term,
            Message::RequestVoteResult(m) => m.term,
            Message::InstallSnapshot(m) => m.term,
            Message::TimeoutNow(m) => m.term,
        }
    }

    /// Size in bytes of the payload that follows the header.
    pub fn payload_size(&self) -> u64 {
        match self {
            // At most 2^18 sizes of 32 bits when decoded: the sum is far from 2^64.
            Message::AppendEntries(m) => m.entries.iter().map(|e| u64::from(e.size)).sum(),
            Message::InstallSnapshot(m) => m.data_size,
            _ => 0,
        }
    }

    fn payload_size_max(&self) -> u64 {
        match self {
            Message::InstallSnapshot(_) => SNAPSHOT_SIZE_MAX,
            _ => PAYLOAD_SIZE_MAX,
        }
    }

    /// Appends preamble and header; the payload is for the sender to append.
    ///
    /// # Errors
    /// [`TooLarge`] if the header would be larger than [`HEADER_SIZE_MAX`] or the payload than
    /// [`PAYLOAD_SIZE_MAX`] or [`SNAPSHOT_SIZE_MAX`]. Nothing is appended then.
    ///
    /// # Panics
    /// If the data of an entry are not a multiple of 8 bytes.
    pub fn encode(&self, seq: u32, out: &mut Vec<u8>) -> Result<(), TooLarge> {
        let start = out.len();
        out.extend_from_slice(&[0; Preamble::SIZE]);
        match self {
            Message::AppendEntries(m) => {
                put_words(
                    out,
                    &[m.term, m.prev_log_index, m.prev_log_term, m.leader_commit],
                );
                encode_batch_header(out, &m.entries);
                // C dqlite counts a word here that it never fills in.
                put_u64(out, 0);
            }
            Message::AppendEntriesResult(m) => {
                put_words(out, &[m.term, m.rejected, m.last_log_index, m.features]);
            }
            Message::RequestVote(m) => {
                let flags = if m.disrupt_leader { DISRUPT_LEADER } else { 0 }
                    | if m.pre_vote { PRE_VOTE } else { 0 };
                let words = [
                    m.term,
                    m.candidate_id,
                    m.last_log_index,
                    m.last_log_term,
                    flags,
                ];
                put_words(out, &words);
            }
            Message::RequestVoteResult(m) => {
                put_words(out, &[m.term, u64::from(m.vote_granted)]);
                if let Some(pre_vote) = m.pre_vote {
                    let flags = if pre_vote { RESULT_PRE_VOTE } else { 0 }
                        | if m.own_term { OURS } else { 0 };
                    put_u64(out, flags);
                }
            }
            Message::InstallSnapshot(m) => {
                put_words(
                    out,
                    &[m.term, m.last_index, m.last_term, m.configuration_index],
                );
                let size_at = out.len();
                put_u64(out, 0);
                m.configuration.encode(out);
                let size = (out.len() - size_at - WORD) as u64;
                out[size_at..size_at + WORD].copy_from_slice(&size.to_le_bytes());
                put_u64(out, m.data_size);
            }
            Message::TimeoutNow(m) => {
                put_words(out, &[m.term, m.last_log_index, m.last_log_term]);
            }
        }
        let size = (out.len() - start - Preamble::SIZE) as u64;
        let header_size = u32::try_from(size)
            .ok()
            .filter(|_| size <= HEADER_SIZE_MAX && self.payload_size() <= self.payload_size_max());
        let Some(header_size) = header_size else {
            out.truncate(start);
            return Err(TooLarge);
        };
        let preamble = Preamble {
            kind: self.kind(),
            seq,
            header_size,
        };
        out[start..start + Preamble::SIZE].copy_from_slice(&preamble.encode());
        Ok(())
    }
}

/// Appends what a node writes first on a connection to a peer: the protocol word and CONNECT, with
/// its own id and address.
pub fn encode_connect(out: &mut Vec<u8>, id: u64, address: &[u8]) {
    put_u64(out, PROTOCOL_V1);
    Request::Connect { id, address }.encode(out);
}

fn put_words(out: &mut Vec<u8>, words: &[u64]) {
    for &word in words {
        put_u64(out, word);
    }
}

/// The word by which the long form of a message differs from the short one.
fn last_word(r: &mut Reader<'_>) -> Result<Option<u64>, DecodeError> {
    if r.is_empty() {
        Ok(None)
    } else {
        r.u64().map(Some)
    }
}

#[cfg(test)]
mod tests;
