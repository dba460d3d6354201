//! Raft messages as they lie on a stream: where one ends, and which pieces one is sent as.

use std::fmt;

use bytes::{Buf, Bytes, BytesMut};
use dq_raft::{Message, SnapshotMeta};
use dq_wire::raft_rpc::{self, PAYLOAD_SIZE_MAX, Preamble};

/// A message, or the head of one whose data follow.
#[derive(Debug)]
pub enum Received {
    /// Whole.
    Message(Message),
    /// A snapshot: `data_size` bytes follow.
    Snapshot {
        /// The leader's term.
        term: u64,
        /// The snapshot, without a timestamp.
        meta: SnapshotMeta,
        /// Bytes of data.
        data_size: u64,
    },
}

/// Bytes that no node of either kind sends.
#[derive(Debug)]
pub struct BadMessage(String);

impl fmt::Display for BadMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadMessage {}

/// Takes the next message off the buffer; `None` until it is whole. Payloads are not copied.
pub fn take(buffer: &mut BytesMut) -> Result<Option<Received>, BadMessage> {
    if buffer.len() < Preamble::SIZE {
        return Ok(None);
    }
    let preamble = Preamble::decode(buffer).map_err(|error| BadMessage(error.to_string()))?;
    let header_end = Preamble::SIZE + preamble.header_size as usize;
    let Some(header) = buffer.get(Preamble::SIZE..header_end) else {
        return Ok(None);
    };
    let message = raft_rpc::Message::decode(preamble.kind, header)
        .map_err(|error| BadMessage(error.to_string()))?;
    if let raft_rpc::Message::InstallSnapshot(m) = message {
        buffer.advance(header_end);
        let meta = SnapshotMeta {
            index: m.last_index,
            term: m.last_term,
            timestamp: 0,
            configuration: m.configuration,
            configuration_index: m.configuration_index,
        };
        return Ok(Some(Received::Snapshot {
            term: m.term,
            meta,
            data_size: m.data_size,
        }));
    }
    let payload_size = message.payload_size();
    if payload_size > PAYLOAD_SIZE_MAX {
        return Err(BadMessage(format!("a payload of {payload_size} bytes")));
    }
    let size = header_end + payload_size as usize;
    if buffer.len() < size {
        return Ok(None);
    }
    let mut payload = buffer.split_to(size).freeze();
    payload.advance(header_end);
    Message::from_wire(message, preamble.seq, &payload)
        .map(|message| Some(Received::Message(message)))
        .ok_or_else(|| BadMessage("a payload that is not what its header says".to_owned()))
}

/// The pieces of a message to send. For an InstallSnapshot, `data_size` bytes of data are to
/// follow them. `None` for a message that peers do not accept.
pub fn encode(message: &Message, data_size: u64) -> Option<Vec<Bytes>> {
    let (wire, seq) = message.to_wire(data_size);
    let mut header = Vec::new();
    wire.encode(seq, &mut header).ok()?;
    let mut pieces = vec![Bytes::from(header)];
    if let Message::AppendEntries(m) = message {
        pieces.extend(
            m.entries
                .iter()
                .flat_map(|entry| entry.payload.chunks())
                .cloned(),
        );
    }
    Some(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dq_raft::{AppendEntries, AppendEntriesResult, Echo, EntryKind, LogEntry, Payload, Stamp};

    #[track_caller]
    fn check(message: Message) {
        let pieces = encode(&message, 0).expect("small enough");
        let bytes = pieces.concat();
        for cut in 0..bytes.len() {
            let mut part = BytesMut::from(&bytes[..cut]);
            assert!(take(&mut part).expect("a prefix is no error").is_none());
        }
        let mut whole = BytesMut::from(&bytes[..]);
        match take(&mut whole) {
            Ok(Some(Received::Message(got))) => assert_eq!(got, message),
            other => panic!("{other:?}"),
        }
        assert!(whole.is_empty());
    }

    #[test]
    fn messages_come_back_as_they_were() {
        let payload = Payload::new([Bytes::from_static(&[1; 8]), Bytes::from_static(&[2; 16])]);
        let entries = vec![LogEntry {
            index: 8,
            term: 3,
            kind: EntryKind::Command,
            payload,
        }];
        check(Message::AppendEntries(AppendEntries {
            term: 3,
            prev_index: 7,
            prev_term: 2,
            leader_commit: 7,
            entries,
            stamp: Stamp {
                seq: 77,
                release: true,
            },
        }));
        check(Message::AppendEntriesResult(AppendEntriesResult {
            term: 3,
            rejected: 0,
            last_index: 8,
            echo: Some(Echo {
                seq: 77,
                promise_ms: 2400,
            }),
        }));
        check(Message::AppendEntriesResult(AppendEntriesResult {
            term: 3,
            rejected: 4,
            last_index: 2,
            echo: None,
        }));
        check(Message::TimeoutNow {
            term: 3,
            last_index: 8,
            last_term: 3,
        });
    }

    #[test]
    fn a_message_that_makes_no_sense_is_refused() {
        let mut bytes = BytesMut::from(&[9u8; 64][..]);
        assert!(take(&mut bytes).is_err());
    }
}
