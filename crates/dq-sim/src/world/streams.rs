//! Streams between nodes, as the real shell keeps them: dials, retries, snapshots on the side.

use super::*;

impl World {
    pub(super) fn send_peer(
        &mut self,
        node: usize,
        process: &mut Process,
        to: u64,
        address: &str,
        message: Message,
    ) {
        // The model of C dqlite takes what it has no more, or is writing, for new.
        let message = match self.is_c_node(to) {
            true => message,
            false => self.begun_earlier(process, message),
        };
        self.trace(|| format!("n{} -> n{to} {}", node + 1, brief(&message)));
        let driver = process.machine.driver();
        let said = self.nodes[node]
            .said
            .sends(to, &message, driver, process.on_disk(), |term| {
                process.stored_in(term)
            });
        if let Err(why) = said {
            self.fail(format!("node {}: {why}", node + 1));
        }
        self.checks.sent(&message);
        if let Err(why) = self.checks.repeats(node, to, self.now, &message) {
            self.fail(format!("node {}: {why}", node + 1));
        }
        if let Message::InstallSnapshot { term, meta } = message {
            let later = self.delay();
            let send = Later::SendSnapshot(to, address.to_owned(), term, meta);
            return self.later_after(later, node, send);
        }
        let Some(pieces) = peers::encode(&message, 0) else {
            return self.fail(format!("node {}: a message is too large", node + 1));
        };
        let bytes = joined(&pieces);
        let moved = process
            .peers
            .get(&to)
            .is_some_and(|peer| peer.address != address);
        if moved
            && let Some(peer) = process.peers.remove(&to)
            && let PeerState::Connected(link) = peer.state
        {
            self.hang_up(link, 0);
        }
        let local = self.nodes[node].clock.millis(self.now);
        let peer = process.peers.entry(to).or_insert_with(|| Peer {
            address: address.to_owned(),
            state: PeerState::Idle(local),
            waiting: VecDeque::new(),
        });
        if let PeerState::Connected(link) = peer.state {
            return self.send(link, 0, Item::Bytes(bytes));
        }
        peer.waiting.push_back(bytes);
        if peer.waiting.len() > WAITING_MAX {
            peer.waiting.pop_front();
        }
        self.dial_if_due(node, process, to);
    }

    fn is_c_node(&self, id: u64) -> bool {
        self.nodes.iter().any(|slot| slot.us.id == id && slot.is_c)
    }

    /// The same append, or one that says the same and some of what comes before it.
    fn begun_earlier(&mut self, process: &Process, message: Message) -> Message {
        let overlaps = self.plan.overlaps;
        let mut append = match message {
            Message::AppendEntries(append) if overlaps > 0 && self.rng.chance(overlaps) => append,
            other => return other,
        };
        let driver = process.machine.driver();
        let earlier = append.prev_index.saturating_sub(1 + self.rng.below(8));
        let more = (earlier + 1..=append.prev_index).map(|index| driver.entry(index));
        let term = match earlier {
            0 => Some(0),
            _ => driver.term_at(earlier),
        };
        if let (Some(term), Some(mut entries)) = (term, more.collect::<Option<Vec<_>>>()) {
            entries.append(&mut append.entries);
            append.entries = entries;
            (append.prev_index, append.prev_term) = (earlier, term);
        }
        Message::AppendEntries(append)
    }

    pub(super) fn dial_if_due(&mut self, node: usize, process: &mut Process, to: u64) {
        let life = self.nodes[node].life;
        let local = self.nodes[node].clock.millis(self.now);
        let attempt = process.attempts + 1;
        let Some(peer) = process.peers.get_mut(&to) else {
            return;
        };
        let PeerState::Idle(retry_at) = peer.state else {
            return;
        };
        if peer.waiting.is_empty() {
            return;
        }
        if retry_at > local {
            let at = self.nodes[node].clock.time_of(retry_at);
            return self.at(at, Event::Redial(node, life));
        }
        peer.state = PeerState::Dialling(attempt);
        process.attempts = attempt;
        let there = self.node_at(&peer.address);
        let later = match there {
            Some(there) if self.is_reachable(node, there) => 2 * self.delay(),
            _ => self.rng.between(1, 3000) * MS,
        };
        self.later_after(later, node, Later::Dialled(to, attempt));
    }

    pub(super) fn redial(&mut self, node: usize) {
        if self.nodes[node].is_c {
            return self.c_redial(node);
        }
        let Some(mut process) = self.nodes[node].process.take() else {
            return;
        };
        let ids: Vec<u64> = process.peers.keys().copied().collect();
        for id in ids {
            self.dial_if_due(node, &mut process, id);
        }
        self.nodes[node].process = Some(process);
    }

    pub(super) fn dialled(&mut self, node: usize, to: u64, attempt: u64) {
        let life = self.nodes[node].life;
        if self.nodes[node].is_c {
            return self.c_dialled(node, to, attempt);
        }
        let Some(mut process) = self.nodes[node].process.take() else {
            return;
        };
        let local = self.nodes[node].clock.millis(self.now);
        let us = self.nodes[node].us.clone();
        if let Some(peer) = process.peers.get_mut(&to)
            && peer.state == PeerState::Dialling(attempt)
        {
            let there = self.node_at(&peer.address);
            match there.filter(|there| self.is_reachable(node, *there)) {
                Some(there) => {
                    let ours = End::Outbound {
                        node,
                        life,
                        peer: to,
                    };
                    let link = self.open_link(ours, node, there);
                    self.send(link, 0, Item::Bytes(introduction(&us)));
                    for bytes in peer.waiting.drain(..) {
                        self.send(link, 0, Item::Bytes(bytes));
                    }
                    peer.state = PeerState::Connected(link);
                    process.mail.push_back(Mail::PeerConnected(to));
                }
                None => {
                    peer.state = PeerState::Idle(local + RETRY_MS);
                    self.dial_if_due(node, &mut process, to);
                }
            }
        }
        self.nodes[node].process = Some(process);
        self.schedule_turn(node);
    }

    pub(super) fn send_snapshot(
        &mut self,
        node: usize,
        to: u64,
        address: &str,
        term: u64,
        meta: SnapshotMeta,
    ) {
        let there = self
            .node_at(address)
            .filter(|there| self.is_reachable(node, *there));
        let us = self.nodes[node].us.clone();
        let index = meta.index;
        let reader = fsm::open_to_send(&self.nodes[node].disk, &meta).ok();
        if reader.is_none() {
            self.post(node, Mail::SnapshotUnreadable(index));
        }
        let head = reader.as_ref().and_then(|reader| {
            peers::encode(&Message::InstallSnapshot { term, meta }, reader.size())
        });
        let (Some(there), Some(mut reader), Some(head)) = (there, reader, head) else {
            return self.post(node, Mail::SnapshotSent(to, false));
        };
        let mut data = Vec::new();
        let whole = fsm::hand_on_snapshot(&mut reader, SNAPSHOT_CHUNK, |piece| {
            data.extend_from_slice(piece);
            Ok(())
        });
        let link = self.open_link(End::Gone, node, there);
        self.send(link, 0, Item::Bytes(introduction(&us)));
        self.send(link, 0, Item::Bytes(head.concat().into()));
        let data = Bytes::from(data);
        for start in (0..data.len()).step_by(SNAPSHOT_CHUNK) {
            let end = data.len().min(start + SNAPSHOT_CHUNK);
            self.send(link, 0, Item::Bytes(data.slice(start..end)));
        }
        self.hang_up(link, 0);
        if let Err(why) = whole {
            self.trace(|| format!("n{} breaks off: {why}", node + 1));
            self.post(node, Mail::SnapshotUnreadable(index));
            return self.post(node, Mail::SnapshotSent(to, false));
        }
        // The end of a stream may fail although all of it has arrived: then it is sent again.
        let sent = self.rng.chance(700);
        let later = self.delay();
        self.mail_after(later, node, Mail::SnapshotSent(to, sent));
    }
}

/// What a node says first on a stream that it opens.
pub(super) fn introduction(us: &Identity) -> Bytes {
    let mut bytes = PROTOCOL_V1.to_le_bytes().to_vec();
    Request::Connect {
        id: us.id,
        address: us.address.as_bytes(),
    }
    .encode(&mut bytes);
    bytes.into()
}

pub(super) fn brief(message: &Message) -> String {
    match message {
        Message::AppendEntries(m) => format!(
            "append t{} prev {}/{} commit {} entries {} seq {}",
            m.term,
            m.prev_index,
            m.prev_term,
            m.leader_commit,
            m.entries.len(),
            m.stamp.seq
        ),
        other => {
            let mut text = format!("{other:?}");
            text.truncate(160);
            text
        }
    }
}
