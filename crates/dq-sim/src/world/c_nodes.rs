//! C dqlite nodes in the world: lives, turns, disk work, and what they hear on their connections.

use dq_raft::{DiskOp, Effect, EntryKind, LogEntry, PeerId};
use dq_wire::{Header, PROTOCOL_LEGACY, Response, Role};

use super::*;
use crate::c_node::{CDisk, CMail, CProcess, Conn, Databases, Stream, decode_snapshot};

impl Slot {
    /// Whether somebody is there.
    pub(crate) fn runs(&self) -> bool {
        self.process.is_some() || self.c.is_some()
    }

    /// Up to where it has applied its log, if that is all of it.
    pub(super) fn settled_at(&self) -> Option<u64> {
        if let Some(c) = &self.c {
            let (node, last) = (&c.node, c.node.last());
            return (node.applied() == last && node.stored() == last).then_some(last);
        }
        let status = self.process.as_ref()?.machine.status();
        (status.applied_index == status.last_index).then_some(status.applied_index)
    }

    /// What it says of itself when the nodes do not come together.
    pub(super) fn state(&self) -> String {
        match (&self.process, &self.c) {
            (Some(process), _) => format!("{:?}", process.machine.status()),
            (None, Some(process)) => {
                let node = &process.node;
                format!(
                    "C, {:?} in term {}, {} entries, stored {}, committed {}, applied {}",
                    node.role,
                    node.term,
                    node.last(),
                    node.stored(),
                    node.commit(),
                    node.applied()
                )
            }
            (None, None) => "down".to_owned(),
        }
    }
}

impl World {
    pub(super) fn c_boot(&mut self, node: usize) {
        let seed = self.rng.bits();
        let slot = &self.nodes[node];
        let local = slot.clock.millis(self.now);
        let process = CProcess::boot(slot.us.id, &self.plan, seed, &slot.c_disk, local);
        let mut process = Box::new(process);
        let life = slot.life;
        self.trace(|| format!("n{} starts as C dqlite, life {life}", node + 1));
        self.checks.c_started(node, process.node.term);
        let flow = self.c_carry_out(node, &mut process);
        self.c_put_back(node, process, flow);
    }

    fn c_put_back(&mut self, node: usize, process: Box<CProcess>, flow: ControlFlow<Death>) {
        self.nodes[node].c = Some(process);
        if let ControlFlow::Break(death) = flow {
            self.die(node, death);
        }
        self.schedule_turn(node);
    }

    pub(super) fn c_post(&mut self, node: usize, mail: CMail) {
        if let Some(process) = &mut self.nodes[node].c {
            process.mail.push_back(mail);
            self.schedule_turn(node);
        }
    }

    pub(super) fn c_turn(&mut self, node: usize) {
        let Some(mut process) = self.nodes[node].c.take() else {
            return;
        };
        let flow = self.c_whole_turn(node, &mut process);
        self.c_put_back(node, process, flow);
    }

    fn c_whole_turn(&mut self, node: usize, process: &mut CProcess) -> ControlFlow<Death> {
        let local = self.nodes[node].clock.millis(self.now);
        for mail in std::mem::take(&mut process.mail) {
            match mail {
                CMail::Bytes(conn, bytes) => self.c_bytes(node, process, conn, &bytes)?,
                CMail::Closed(conn) => {
                    process.conns.remove(&conn);
                }
                CMail::Durable(persist) => process.node.durable(local, persist),
                CMail::Failed(persist, installs) => {
                    // What it has asked for since then is behind the failure as well.
                    let disk = &mut self.nodes[node].c_disk;
                    let more = disk.fail().is_some_and(|(_, installs)| installs);
                    disk.failed = false;
                    process.node.write_failed(local, persist);
                    if installs || more {
                        self.c_carry_out(node, process)?;
                        return ControlFlow::Break(Death::Kill);
                    }
                }
                CMail::SnapshotWritten(meta, written) => {
                    process.node.snapshot_ended(*meta, written);
                }
            }
            self.c_carry_out(node, process)?;
        }
        if process.node.deadline() <= local {
            process.node.tick(local);
            self.c_carry_out(node, process)?;
            self.c_hand_over(process, local);
            self.c_carry_out(node, process)?;
        }
        if let Some(meta) = process.node.begin_snapshot() {
            let later = self.disk_time(node);
            let databases = process.databases.clone();
            self.later_after(later, node, Later::CSnapshot(meta, databases));
        }
        ControlFlow::Continue(())
    }

    /// A leader that executes no SQL gives its leadership to one that does, after a while, if need be with
    /// a vote.
    fn c_hand_over(&mut self, process: &mut CProcess, local: u64) {
        let election = self.plan.election_ms;
        if process.leads_until.is_none_or(|until| local < until)
            || !process.node.is_settled_leader()
        {
            return;
        }
        process.leads_until = Some(local + election / 2);
        let ours: Vec<PeerId> = self
            .nodes
            .iter()
            .filter(|slot| !slot.is_c)
            .map(|slot| PeerId {
                id: slot.us.id,
                address: slot.us.address.clone(),
            })
            .collect();
        let servers = &process.node.configuration().servers;
        let votes = |peer: &&PeerId| {
            let votes =
                |server: &dq_wire::Server| server.id == peer.id && server.role == Role::Voter;
            servers.iter().any(votes)
        };
        let voters: Vec<u64> = ours.iter().filter(votes).map(|peer| peer.id).collect();
        let any = self.rng.below(ours.len() as u64) as usize;
        match voters.get(any % voters.len().max(1)) {
            Some(to) => {
                process.node.transfer(local, *to);
            }
            None => {
                process.node.give_vote(local, &ours[any]);
            }
        }
    }

    /// Carries effects out, in order.
    fn c_carry_out(&mut self, node: usize, process: &mut CProcess) -> ControlFlow<Death> {
        let durable = &mut self.nodes[node].c_disk.durable;
        (durable.term, durable.vote) = (process.node.term, process.node.vote);
        if let Some(why) = process.node.unavailable() {
            self.fail(format!("node {} of C dqlite shuts down: {why}", node + 1));
            return ControlFlow::Break(Death::Kill);
        }
        let mut effects = Vec::new();
        process.node.ready(&mut effects);
        for effect in effects {
            if let Some(left) = &mut self.nodes[node].dies_in {
                if *left == 0 {
                    return ControlFlow::Break(Death::Kill);
                }
                *left -= 1;
            }
            self.c_effect(node, process, effect);
        }
        let checked = self.checks.c_look(node, process);
        self.note(1, &[node as u64, process.node.applied()]);
        if let Err(why) = checked {
            self.fail(format!("node {} of C dqlite: {why}", node + 1));
        }
        ControlFlow::Continue(())
    }

    fn c_effect(&mut self, node: usize, process: &mut CProcess, effect: Effect) {
        match effect {
            Effect::Send {
                to,
                address,
                message,
            } => self.c_send(node, process, to, &address, message),
            Effect::Persist(persist) => {
                let disk = &mut self.nodes[node].c_disk;
                let installs = |op: &DiskOp| matches!(op, DiskOp::InstallSnapshot { .. });
                if persist.ops.iter().any(installs) {
                    disk.arrived = process.arriving.take().unwrap_or_default();
                }
                disk.queue.push_back(persist);
                self.c_start_disk(node, process);
            }
            Effect::Apply(entry) => self.c_apply(node, process, &entry),
            Effect::Restore(_) => process.databases = self.nodes[node].c_disk.databases.clone(),
            Effect::EpochBegan(epoch) => {
                self.trace(|| format!("n{} leads term {} as C dqlite", node + 1, epoch.term));
                let local = self.nodes[node].clock.millis(self.now);
                let while_ms = self.rng.below(3 * self.plan.election_ms);
                process.leads_until = Some(local + while_ms);
            }
            Effect::EpochEnded(_) => process.leads_until = None,
            _ => self.fail(format!("node {} of C dqlite: an effect of ours", node + 1)),
        }
    }

    fn c_apply(&mut self, node: usize, process: &mut CProcess, entry: &LogEntry) {
        if entry.kind == EntryKind::Command
            && let Err(why) = process.apply(entry)
        {
            let index = entry.index;
            self.fail(format!(
                "node {} of C dqlite: entry {index}: {why}",
                node + 1
            ));
        }
    }

    fn c_start_disk(&mut self, node: usize, process: &mut CProcess) {
        if !process.disk_busy && !self.nodes[node].c_disk.queue.is_empty() {
            process.disk_busy = true;
            let later = self.disk_time(node);
            self.after(later, Event::Disk(node, self.nodes[node].life));
        }
    }

    pub(super) fn c_disk_done(&mut self, node: usize) {
        let Some(mut process) = self.nodes[node].c.take() else {
            return;
        };
        process.disk_busy = false;
        let flow = self.c_disk_work(node, &mut process);
        self.c_start_disk(node, &mut process);
        self.c_put_back(node, process, flow);
    }

    fn c_disk_work(&mut self, node: usize, process: &mut CProcess) -> ControlFlow<Death> {
        let disk: &mut CDisk = &mut self.nodes[node].c_disk;
        if let Some(left) = &mut disk.cut_in {
            if *left == 0 {
                return ControlFlow::Break(Death::Power);
            }
            *left -= 1;
        }
        if disk.failed {
            return ControlFlow::Continue(());
        }
        if disk.writes() && (disk.full || disk.fails) {
            disk.fails = false;
            if let Some((first, installs)) = disk.fail() {
                process.mail.push_back(CMail::Failed(first, installs));
            }
        } else if let Some(persist) = disk.complete() {
            process.mail.push_back(CMail::Durable(persist));
        }
        ControlFlow::Continue(())
    }

    pub(super) fn c_snapshot_due(&mut self, node: usize, meta: SnapshotMeta, databases: Databases) {
        let disk = &mut self.nodes[node].c_disk;
        let written = !disk.full;
        if written {
            disk.durable.snapshot = Some(meta.clone());
            disk.databases = databases;
        }
        self.trace(|| format!("n{} writes a snapshot at {}", node + 1, meta.index));
        self.c_post(node, CMail::SnapshotWritten(Box::new(meta), written));
    }

    /// Something has come on a link to a node.
    pub(super) fn c_arrive(&mut self, node: usize, id: LinkId, end: usize, conn: u64, item: Item) {
        let life = self.nodes[node].life;
        match item {
            Item::Open => {
                let Some(process) = &mut self.nodes[node].c else {
                    return;
                };
                let conn = process.next_conn;
                process.next_conn += 1;
                process.conns.insert(
                    conn,
                    Conn {
                        link: id,
                        buffer: BytesMut::new(),
                        greeted: false,
                        peer: None,
                        arriving: None,
                    },
                );
                if let Some(link) = self.net.links.get_mut(id) {
                    link.ends[end] = End::Accepted { node, life, conn };
                }
            }
            Item::Bytes(bytes) => {
                self.hash = hash(self.hash, &bytes);
                self.c_post(node, CMail::Bytes(conn, bytes));
            }
            Item::Eof => self.c_post(node, CMail::Closed(conn)),
        }
    }

    /// Takes what it can of a connection's bytes.
    fn c_bytes(
        &mut self,
        node: usize,
        process: &mut CProcess,
        id: u64,
        bytes: &Bytes,
    ) -> ControlFlow<Death> {
        if let Some(conn) = process.conns.get_mut(&id) {
            conn.buffer.extend_from_slice(bytes);
        }
        loop {
            let Some(conn) = process.conns.get_mut(&id) else {
                return ControlFlow::Continue(());
            };
            let Some(peer) = conn.peer.clone() else {
                if self.c_greeting(process, id) {
                    continue;
                }
                return ControlFlow::Continue(());
            };
            let message = match conn.arriving.take() {
                Some((term, meta, size)) => {
                    if (conn.buffer.len() as u64) < size {
                        conn.arriving = Some((term, meta, size));
                        return ControlFlow::Continue(());
                    }
                    let data = conn.buffer.split_to(size as usize);
                    match decode_snapshot(&data) {
                        Ok(databases) => process.arriving = Some(databases),
                        Err(why) => self.fail(format!("node {} got a snapshot: {why}", node + 1)),
                    }
                    Message::InstallSnapshot { term, meta }
                }
                None => match peers::take(&mut conn.buffer) {
                    Ok(Some(peers::Received::Message(message))) => message,
                    Ok(Some(peers::Received::Snapshot {
                        term,
                        meta,
                        data_size,
                    })) => {
                        conn.arriving = Some((term, meta, data_size));
                        continue;
                    }
                    Ok(None) => return ControlFlow::Continue(()),
                    Err(why) => {
                        self.fail(format!("node {} heard {why}", node + 1));
                        return ControlFlow::Continue(());
                    }
                },
            };
            let local = self.nodes[node].clock.millis(self.now);
            process.node.receive(local, &peer, message);
            self.c_carry_out(node, process)?;
        }
    }

    /// What precedes a peer's messages, or a client's question, who leads. Whatever else a client asks ends
    /// its connection. True if there may be more to take.
    fn c_greeting(&mut self, process: &mut CProcess, id: u64) -> bool {
        let Some(conn) = process.conns.get_mut(&id) else {
            return false;
        };
        if !conn.greeted {
            let Some(word) = conn.buffer.first_chunk::<8>() else {
                return false;
            };
            conn.greeted = [PROTOCOL_V1, PROTOCOL_LEGACY].contains(&u64::from_le_bytes(*word));
            if conn.greeted {
                bytes::Buf::advance(&mut conn.buffer, 8);
                return true;
            }
        } else {
            let Ok(header) = Header::decode(&conn.buffer) else {
                return false;
            };
            let size = Header::SIZE + header.body_size() as usize;
            if conn.buffer.len() < size {
                return false;
            }
            let message = conn.buffer.split_to(size);
            match Request::decode(&header, &message[Header::SIZE..]) {
                Ok(Request::Connect { id, address }) => {
                    let address = String::from_utf8_lossy(address).into_owned();
                    conn.peer = Some(PeerId { id, address });
                    return true;
                }
                Ok(Request::Leader) => {
                    let link = conn.link;
                    let leader = process.node.leader();
                    let mut answer = Vec::new();
                    Response::Server {
                        id: leader.map_or(0, |peer| peer.id),
                        address: leader.map_or(b"", |peer| peer.address.as_bytes()),
                    }
                    .encode(&mut answer);
                    self.send(link, 1, Item::Bytes(answer.into()));
                    return true;
                }
                _ => {}
            }
        }
        if let Some(conn) = process.conns.remove(&id) {
            self.hang_up(conn.link, 1);
        }
        false
    }

    /// A stream broke, which its node notices when it next sends something.
    pub(super) fn c_broken(&mut self, node: usize, peer: u64, id: LinkId) {
        if let Some(process) = &mut self.nodes[node].c
            && let Some(known) = process.peers.get_mut(&peer)
            && known.stream == Stream::Connected(id)
        {
            known.stream = Stream::Broken;
        }
    }
}
