//! Messages between nodes: limits, and both directions of each.

use super::*;
use crate::configuration::tests::any_configuration;
use crate::entry::EntryKind;
use crate::entry::tests::any_entries;
use proptest::prelude::*;

const KINDS: [MessageKind; 6] = [
    MessageKind::AppendEntries,
    MessageKind::AppendEntriesResult,
    MessageKind::RequestVote,
    MessageKind::RequestVoteResult,
    MessageKind::InstallSnapshot,
    MessageKind::TimeoutNow,
];

fn preamble(words: [u64; 2]) -> Result<Preamble, DecodeError> {
    Preamble::decode(&words.map(u64::to_le_bytes).concat())
}

fn malformed<T>(field: &'static str, offset: usize) -> Result<T, DecodeError> {
    Err(DecodeError::Malformed { field, offset })
}

fn append(entries: Vec<EntryHeader>) -> Message {
    Message::AppendEntries(AppendEntries {
        term: 3,
        prev_log_index: 7,
        prev_log_term: 2,
        leader_commit: 7,
        entries,
    })
}

fn snapshot(data_size: u64) -> Message {
    Message::InstallSnapshot(InstallSnapshot {
        term: 3,
        last_index: 9,
        last_term: 2,
        configuration_index: 1,
        configuration: Configuration::default(),
        data_size,
    })
}

#[test]
fn types_without_a_meaning_are_malformed() {
    for kind in [0, 7, 8, 255, 256, 0xffff] {
        assert_eq!(preamble([kind, 24]), malformed("message type", 0));
    }
}

#[test]
fn bits_of_the_type_that_others_may_use_are_ignored() {
    let message = preamble([0x0000_0000_00ff_0001, 48]).unwrap();
    assert_eq!((message.kind, message.seq), (MessageKind::AppendEntries, 0));
}

#[test]
fn empty_and_oversized_headers_are_malformed() {
    for size in [0, HEADER_SIZE_MAX + 1, u64::MAX] {
        assert_eq!(preamble([1, size]), malformed("header size", 8));
    }
    assert!(preamble([1, HEADER_SIZE_MAX]).is_ok());
}

#[test]
fn term_zero_is_malformed_in_every_message() {
    for kind in KINDS {
        assert_eq!(Message::decode(kind, &[0; 80]), malformed("term", 0));
    }
}

#[test]
fn entries_that_would_make_a_peer_read_past_its_buffer_are_malformed() {
    let entry = EntryHeader {
        term: 3,
        kind: EntryKind::Command,
        size: 8,
    };
    let mut out = Vec::new();
    append(vec![entry]).encode(0, &mut out).unwrap();
    let mut header = out[Preamble::SIZE..].to_vec();
    for (at, byte, field) in [
        (40, 0, "entry term"),
        (48, 0, "entry kind"),
        (48, 4, "entry kind"),
        (52, 7, "entry size"),
        (39, 1, "entry count"),
    ] {
        let before = std::mem::replace(&mut header[at], byte);
        let decoded = Message::decode(MessageKind::AppendEntries, &header);
        assert!(
            matches!(decoded, Err(DecodeError::Malformed { field: f, .. }) if f == field),
            "{field}: {decoded:?}"
        );
        header[at] = before;
    }
    assert!(Message::decode(MessageKind::AppendEntries, &header).is_ok());
}

#[test]
fn payloads_over_the_limit_are_neither_sent_nor_accepted() {
    let mut out = b"before".to_vec();
    assert_eq!(
        snapshot(SNAPSHOT_SIZE_MAX + 1).encode(0, &mut out),
        Err(TooLarge)
    );
    assert_eq!(out, b"before");
    assert_eq!(snapshot(SNAPSHOT_SIZE_MAX).encode(0, &mut out), Ok(()));
    let mut header = out[6 + Preamble::SIZE..].to_vec();
    assert!(Message::decode(MessageKind::InstallSnapshot, &header).is_ok());
    let last = header.len() - 8;
    header[last] += 1;
    let decoded = Message::decode(MessageKind::InstallSnapshot, &header);
    assert_eq!(decoded, malformed("payload size", header.len()));

    let huge = EntryHeader {
        term: 1,
        kind: EntryKind::Command,
        size: u32::MAX - 7,
    };
    assert_eq!(append(vec![huge]).encode(0, &mut out), Err(TooLarge));
}

#[test]
fn more_entries_than_a_header_may_hold_are_not_sent() {
    let entry = EntryHeader {
        term: 1,
        kind: EntryKind::Barrier,
        size: 8,
    };
    let fit = (HEADER_SIZE_MAX as usize - 48) / EntryHeader::SIZE;
    let mut out = Vec::new();
    assert_eq!(append(vec![entry; fit]).encode(0, &mut out), Ok(()));
    assert_eq!(
        append(vec![entry; fit + 1]).encode(0, &mut out),
        Err(TooLarge)
    );
}

#[test]
fn a_configuration_that_does_not_fill_its_size_is_malformed() {
    let mut out = Vec::new();
    snapshot(0).encode(0, &mut out).unwrap();
    let mut header = out[Preamble::SIZE..].to_vec();
    header[41] = 1; // one server, for which there is no room
    let decoded = Message::decode(MessageKind::InstallSnapshot, &header);
    assert_eq!(decoded, malformed("configuration", 40));
}

fn any_message() -> impl Strategy<Value = Message> {
    let words = (1u64.., any::<u64>(), any::<u64>(), any::<u64>());
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    let parts = (any_entries(), any_configuration(), 0..=SNAPSHOT_SIZE_MAX);
    (0..KINDS.len(), words, flags, parts).prop_map(|(kind, words, flags, parts)| {
        let (term, a, b, c) = words;
        let (entries, configuration, data_size) = parts;
        match KINDS[kind] {
            MessageKind::AppendEntries => Message::AppendEntries(AppendEntries {
                term,
                prev_log_index: a,
                prev_log_term: b,
                leader_commit: c,
                entries,
            }),
            MessageKind::AppendEntriesResult => Message::AppendEntriesResult(AppendEntriesResult {
                term,
                rejected: a,
                last_log_index: b,
                features: c,
            }),
            MessageKind::RequestVote => Message::RequestVote(RequestVote {
                term,
                candidate_id: a,
                last_log_index: b,
                last_log_term: c,
                disrupt_leader: flags.0,
                pre_vote: flags.1,
            }),
            MessageKind::RequestVoteResult => Message::RequestVoteResult(RequestVoteResult {
                term,
                vote_granted: flags.0,
                pre_vote: Some(flags.1),
                own_term: flags.2,
            }),
            MessageKind::InstallSnapshot => Message::InstallSnapshot(InstallSnapshot {
                term,
                last_index: a,
                last_term: b,
                configuration_index: c,
                configuration,
                data_size,
            }),
            MessageKind::TimeoutNow => Message::TimeoutNow(TimeoutNow {
                term,
                last_log_index: a,
                last_log_term: b,
            }),
        }
    })
}

proptest! {
    #[test]
    fn a_message_decodes_to_what_was_encoded(message in any_message(), seq: u32) {
        let mut out = b"before".to_vec();
        message.encode(seq, &mut out).unwrap();
        let bytes = &out[6..];
        let preamble = Preamble::decode(bytes).unwrap();
        let header = &bytes[Preamble::SIZE..];
        let header_size = header.len() as u32;
        prop_assert_eq!(preamble, Preamble { kind: message.kind(), seq, header_size });
        let back = Message::decode(preamble.kind, header);
        prop_assert_eq!(back.as_ref(), Ok(&message));
        prop_assert_eq!(back.map(|m| m.term()), Ok(message.term()));

        // Later versions may send more words.
        let longer = [header, &[0xaa; 16]].concat();
        let back = Message::decode(preamble.kind, &longer);
        prop_assert_eq!(back.as_ref(), Ok(&message));

        // Without its last word a message is in its short form or malformed, never half read.
        for len in (0..header.len()).filter(|len| len % 8 != 0 || *len + 8 < header.len()) {
            prop_assert!(Message::decode(preamble.kind, &header[..len]).is_err()
                || matches!(message, Message::AppendEntries(_)) && len + 8 > header.len());
        }
        for len in 0..Preamble::SIZE {
            let more = Preamble::SIZE - len;
            prop_assert_eq!(
                Preamble::decode(&bytes[..len]),
                Err(DecodeError::Incomplete { more })
            );
        }
    }
}
