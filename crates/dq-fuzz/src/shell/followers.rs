//! Peers that do what a correct one does: the way to majorities, and so to everything behind them.

use bytes::Bytes;
use dq_raft::{AppendEntriesResult, Echo, Message, RequestVoteResult};
use dq_server::peers;
use dq_wire::raft_rpc;

use super::Shell;

/// How a peer takes what it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It agrees, as a node of ours.
    Yes,
    /// It agrees, as C dqlite does.
    YesLikeC,
    /// It refuses.
    No,
    /// It does not answer.
    Nothing,
}

/// The bytes with which a node begins.
pub fn hello(id: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    raft_rpc::encode_connect(&mut bytes, id, id.to_string().as_bytes());
    bytes
}

/// The bytes of a message, but for a snapshot's data; none if peers do not accept it.
pub fn encoded(message: &Message, data_size: u64) -> Vec<u8> {
    let pieces: Vec<Bytes> = peers::encode(message, data_size).unwrap_or_default();
    pieces.concat()
}

impl Shell {
    /// A message of a peer, on a connection of its own.
    pub fn say(&mut self, peer: u64, message: &Message) {
        let id = match self.connection_of(peer) {
            Some(id) => id,
            None => {
                let id = self.connect_peer(peer);
                self.send(id, &hello(peer));
                id
            }
        };
        self.send(id, &encoded(message, 0));
    }

    /// The peer that was told something longest ago answers; false if none was.
    pub fn answer_oldest(&mut self, answer: Answer) -> bool {
        let Some((peer, message)) = self.said.pop_front() else {
            return false;
        };
        let yes = matches!(answer, Answer::Yes | Answer::YesLikeC);
        let ours = answer == Answer::Yes;
        let taken = |term, index, seq| {
            Message::AppendEntriesResult(AppendEntriesResult {
                term,
                rejected: if yes { 0 } else { index },
                last_index: if yes { index } else { index.saturating_sub(1) },
                echo: ours.then_some(Echo {
                    seq,
                    promise_ms: 1000,
                }),
            })
        };
        let reply = match message {
            _ if answer == Answer::Nothing => return true,
            Message::AppendEntries(append) => taken(append.term, append.end(), append.stamp.seq),
            Message::InstallSnapshot { term, meta } => {
                self.snapshot_sent(peer, None);
                self.snapshot_sent(peer, Some(yes));
                taken(term, meta.index, 0)
            }
            Message::RequestVote(request) => Message::RequestVoteResult(RequestVoteResult {
                term: request.term,
                granted: yes,
                pre_vote: (answer != Answer::YesLikeC).then_some(request.pre_vote),
                own_term: false,
            }),
            Message::AppendEntriesResult(_)
            | Message::RequestVoteResult(_)
            | Message::TimeoutNow { .. } => return true,
        };
        self.say(peer, &reply);
        true
    }
}
