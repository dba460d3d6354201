//! Connections as the outside sees them.

use std::collections::VecDeque;

use bytes::Bytes;
use dq_wire::header::{Header, response_type};
use dq_wire::response::Response;

use crate::reached::Reached;

/// A connection.
#[derive(Debug, Default)]
pub(super) struct Wire {
    /// What was sent to the node and it does not want to read now.
    pub(super) inbox: VecDeque<Bytes>,
    pub(super) paused: bool,
    /// Answers of which the end is still to come.
    partial: Vec<u8>,
    /// Types of whole answers.
    pub(super) kinds: Vec<u8>,
    /// A notice is owed when the client reads.
    pub(super) notify: bool,
    /// The client reads.
    pub(super) reading: bool,
    /// The other side is a node, with this id: nothing is decoded.
    pub(super) peer: Option<u64>,
}

impl Wire {
    /// One whose other side reads.
    pub(super) fn new(peer: Option<u64>) -> Wire {
        Wire {
            reading: true,
            peer,
            ..Wire::default()
        }
    }

    /// Answers have to be whole messages that can be decoded.
    pub(super) fn take(&mut self, pieces: &[Bytes], reached: &mut Reached) {
        if self.peer.is_some() {
            return;
        }
        for piece in pieces {
            self.partial.extend_from_slice(piece);
        }
        let mut at = 0;
        while let Ok(header) = Header::decode(&self.partial[at..]) {
            let size = usize::try_from(header.body_size()).expect("answers fit in memory");
            let start = at + Header::SIZE;
            let Some(body) = self.partial.get(start..start + size) else {
                break;
            };
            // Those two depend on what was asked, and how.
            let plain = !matches!(header.kind, response_type::SERVER | response_type::SERVERS);
            match Response::decode(&header, body) {
                Ok(response) => reached.note(name(&response)),
                Err(error) if plain => {
                    panic!(
                        "an answer of type {} cannot be decoded: {error}",
                        header.kind
                    );
                }
                Err(_) => {}
            }
            self.kinds.push(header.kind);
            at = start + size;
        }
        self.partial.drain(..at);
    }
}

/// What an answer is called in [`Reached`].
fn name(response: &Response<'_>) -> &'static str {
    match response {
        Response::Failure { code, .. } => match code {
            1 => "answer: SQL error",
            5 => "answer: busy",
            7 => "answer: no memory",
            9 => "answer: interrupted",
            12 => "answer: not found",
            13 => "answer: disk full",
            19 | 787 | 1555 | 2067 => "answer: constraint",
            10250 => "answer: not leader",
            10506 => "answer: leadership lost",
            _ => "answer: another failure",
        },
        Response::Db { .. } => "answer: database",
        Response::Stmt { .. } => "answer: statement",
        Response::Result { .. } => "answer: result",
        Response::Rows(_) => "answer: rows",
        Response::Files { .. } => "answer: files",
        _ => "answer: another",
    }
}
