//! Streams of C dqlite nodes to their peers: opened with the first message, and again as soon as a write
//! fails; after a failed attempt again in a second, whoever still wants anything.

use dq_raft::AppendEntriesResult;

use super::streams::{brief, introduction};
use super::*;
use crate::c_node::{CPeer, CProcess, KEPT, Stream, encode_snapshot};

impl World {
    pub(super) fn c_send(
        &mut self,
        node: usize,
        process: &mut CProcess,
        to: u64,
        address: &str,
        message: Message,
    ) {
        self.trace(|| format!("n{} -> n{to} {}", node + 1, brief(&message)));
        self.checks.sent(&message);
        let slot = &self.nodes[node];
        // An append of an earlier leader that begins with the first entry is refused with words that look
        // like an acknowledgement of the whole log. Only who leads the answer's term takes it for one.
        if let Message::AppendEntriesResult(AppendEntriesResult {
            term,
            rejected: 0,
            last_index,
            ..
        }) = message
            && last_index > slot.c_disk.last()
            && self
                .checks
                .leader(term)
                .is_none_or(|leader| self.nodes[leader].us.id == to)
        {
            let last = slot.c_disk.last();
            self.fail(format!(
                "node {} of C dqlite acknowledges {last_index}, its disk has {last}",
                node + 1
            ));
        }
        match message {
            Message::InstallSnapshot { term, .. } => {
                let later = self.disk_time(node);
                let address = address.to_owned();
                self.later_after(later, node, Later::CSendSnapshot(to, address, term));
            }
            message => match peers::encode(&message, 0) {
                Some(pieces) => self.c_write(node, process, to, address, message, pieces),
                None => self.fail(format!("node {}: a message is too large", node + 1)),
            },
        }
    }

    /// A snapshot was read back, the newest that there is by now: it goes the way of all messages.
    pub(super) fn c_send_snapshot(&mut self, node: usize, to: u64, address: &str, term: u64) {
        let Some(mut process) = self.nodes[node].c.take() else {
            return;
        };
        let disk = &self.nodes[node].c_disk;
        if let Some(meta) = disk.durable.snapshot.clone() {
            let data = Bytes::from(encode_snapshot(&disk.databases, &mut self.rng));
            let message = Message::InstallSnapshot { term, meta };
            if let Some(mut pieces) = peers::encode(&message, data.len() as u64) {
                for start in (0..data.len()).step_by(SNAPSHOT_CHUNK) {
                    let end = data.len().min(start + SNAPSHOT_CHUNK);
                    pieces.push(data.slice(start..end));
                }
                self.c_write(node, &mut process, to, address, message, pieces);
            }
        }
        self.nodes[node].c = Some(process);
    }

    fn c_write(
        &mut self,
        node: usize,
        process: &mut CProcess,
        to: u64,
        address: &str,
        message: Message,
        pieces: Vec<Bytes>,
    ) {
        if process
            .peers
            .get(&to)
            .is_some_and(|peer| peer.address != address)
            && let Some(peer) = process.peers.remove(&to)
        {
            for (message, _) in peer.waiting {
                process.node.send_failed(to, &message);
            }
            if let Stream::Connected(link) = peer.stream {
                self.hang_up(link, 0);
            }
        }
        let peer = process.peers.entry(to).or_insert_with(|| CPeer {
            address: address.to_owned(),
            stream: Stream::Idle,
            waiting: VecDeque::new(),
        });
        match peer.stream {
            Stream::Connected(link) => {
                for piece in pieces {
                    self.send(link, 0, Item::Bytes(piece));
                }
                return;
            }
            Stream::Broken => {
                peer.stream = Stream::Idle;
                process.node.send_failed(to, &message);
            }
            _ => peer.waiting.push_back((message, pieces)),
        }
        if peer.stream == Stream::Idle {
            self.c_dial(node, process, to);
        }
    }

    fn c_dial(&mut self, node: usize, process: &mut CProcess, to: u64) {
        process.attempts += 1;
        let attempt = process.attempts;
        let Some(peer) = process.peers.get_mut(&to) else {
            return;
        };
        peer.stream = Stream::Dialling(attempt);
        let later = match self.node_at(&peer.address) {
            Some(there) if self.is_reachable(node, there) => 2 * self.delay(),
            _ => self.rng.between(1, 3000) * MS,
        };
        self.later_after(later, node, Later::Dialled(to, attempt));
    }

    pub(super) fn c_dialled(&mut self, node: usize, to: u64, attempt: u64) {
        let Some(mut process) = self.nodes[node].c.take() else {
            return;
        };
        let (life, us) = (self.nodes[node].life, self.nodes[node].us.clone());
        let local = self.nodes[node].clock.millis(self.now);
        if let Some(peer) = process.peers.get_mut(&to)
            && peer.stream == Stream::Dialling(attempt)
        {
            let there = self.node_at(&peer.address);
            if let Some(there) = there.filter(|there| self.is_reachable(node, *there)) {
                let ours = End::Outbound {
                    node,
                    life,
                    peer: to,
                };
                let link = self.open_link(ours, node, there);
                self.send(link, 0, Item::Bytes(introduction(&us)));
                for piece in peer.waiting.drain(..).flat_map(|(_, pieces)| pieces) {
                    self.send(link, 0, Item::Bytes(piece));
                }
                peer.stream = Stream::Connected(link);
            } else {
                while peer.waiting.len() > KEPT
                    && let Some((message, _)) = peer.waiting.pop_front()
                {
                    process.node.send_failed(to, &message);
                }
                let retry = local + RETRY_MS;
                peer.stream = Stream::Waiting(retry);
                let at = self.nodes[node].clock.time_of(retry);
                self.at(at, Event::Redial(node, life));
            }
        }
        self.nodes[node].c = Some(process);
    }

    pub(super) fn c_redial(&mut self, node: usize) {
        let Some(mut process) = self.nodes[node].c.take() else {
            return;
        };
        let local = self.nodes[node].clock.millis(self.now);
        let due = |peer: &CPeer| matches!(peer.stream, Stream::Waiting(at) if at <= local);
        let ids: Vec<u64> = process
            .peers
            .iter()
            .filter(|(_, peer)| due(peer))
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            self.c_dial(node, &mut process, id);
        }
        self.nodes[node].c = Some(process);
    }
}
