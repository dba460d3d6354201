//! The inbound side of raft: messages of other nodes, and snapshots that arrive.
//!
//! A snapshot's data go to a thread that stores and reads them at the same time; raft hears of the
//! snapshot when it is on disk under a temporary name and every database in it has been checked.
//! When raft has installed it, those databases take the place of all others at once.

use std::collections::VecDeque;

use bytes::Bytes;
use dq_raft::{Message, PeerId, SnapshotMeta};
use dq_vfs::Version;

use super::{Machine, Output};
use crate::conn::{Conn, ConnId, Receiving, SNAPSHOT_PENDING_BYTES, SNAPSHOTS_ARRIVING_MAX, Stage};
use crate::fsm::{Databases, Images};
use crate::peers::{self, Received};
use crate::registry::Database;

impl Machine {
    /// Takes what a peer's buffer holds.
    pub(super) fn peer_bytes(&mut self, id: ConnId, out: &mut VecDeque<Output>) {
        if let Err(why) = self.take_messages(id, out) {
            log::warn!(
                "node {}: connection {id} of a peer is closed: {why}",
                self.settings.id
            );
            self.hang_up(id, out);
        } else if self
            .conns
            .get(&id)
            .is_some_and(|conn| conn.eof && !conn.is_receiving())
        {
            self.hang_up(id, out);
        }
        self.drive(out);
    }

    fn take_messages(&mut self, id: ConnId, out: &mut VecDeque<Output>) -> Result<(), String> {
        loop {
            let Some(conn) = self.conns.get_mut(&id) else {
                return Ok(());
            };
            let Conn {
                buffer,
                stage:
                    Stage::Peer {
                        id: from,
                        address,
                        receiving,
                    },
                paused,
                ..
            } = &mut **conn
            else {
                return Ok(());
            };
            if let Some(receiving) = receiving {
                if receiving.left == 0 {
                    return Ok(());
                }
                let size = usize::try_from(receiving.left)
                    .unwrap_or(usize::MAX)
                    .min(buffer.len());
                if size == 0 {
                    return Ok(());
                }
                receiving.left -= size as u64;
                receiving.pending += size;
                if receiving.pending > SNAPSHOT_PENDING_BYTES && !*paused {
                    *paused = true;
                    out.push_back(Output::Pause(id));
                }
                let bytes = buffer.split_to(size).freeze();
                out.push_back(Output::SnapshotData(id, bytes));
                continue;
            }
            match peers::take(buffer).map_err(|error| error.to_string())? {
                None => return Ok(()),
                Some(Received::Message(message)) => {
                    let from = PeerId {
                        id: *from,
                        address: address.clone(),
                    };
                    self.receive(&from, message)?;
                }
                Some(Received::Snapshot {
                    term,
                    meta,
                    data_size,
                }) => {
                    *receiving = Some(Receiving {
                        term,
                        index: meta.index,
                        left: data_size,
                        pending: 0,
                    });
                    self.receivers.insert(id);
                    self.limit_arriving(out);
                    out.push_back(Output::ReceiveSnapshot(id, Box::new(meta), data_size));
                }
            }
        }
    }

    /// The oldest of too many snapshots ends: most likely its sender has gone, and a new one begun.
    fn limit_arriving(&mut self, out: &mut VecDeque<Output>) {
        let excess = self.receivers.len().saturating_sub(SNAPSHOTS_ARRIVING_MAX);
        let oldest: Vec<ConnId> = self.receivers.iter().copied().take(excess).collect();
        for id in oldest {
            log::warn!(
                "node {}: connection {id} is cut: too many snapshots arrive",
                self.settings.id
            );
            out.push_back(Output::Cut(id));
            self.closed(id, out);
        }
    }

    fn receive(&mut self, from: &PeerId, message: Message) -> Result<(), String> {
        self.driver
            .receive(self.now, from, message)
            .map_err(|error| error.to_string())
    }

    /// Some of a snapshot's data are stored.
    pub(super) fn snapshot_stored(&mut self, id: ConnId, size: usize, out: &mut VecDeque<Output>) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        let Stage::Peer {
            receiving: Some(receiving),
            ..
        } = &mut conn.stage
        else {
            return;
        };
        receiving.pending = receiving.pending.saturating_sub(size);
        if receiving.pending < SNAPSHOT_PENDING_BYTES / 2 && conn.paused {
            conn.paused = false;
            out.push_back(Output::Resume(id));
        }
    }

    /// A snapshot has arrived whole and been checked, or is of no use.
    pub(super) fn snapshot_received(
        &mut self,
        id: ConnId,
        received: Result<(SnapshotMeta, Databases), String>,
        out: &mut VecDeque<Output>,
    ) {
        let stage = self.conns.get_mut(&id).map(|conn| &mut conn.stage);
        let Some(Stage::Peer {
            id: from,
            address,
            receiving,
        }) = stage
        else {
            return discard(received, out);
        };
        let Some(Receiving { term, index, .. }) = receiving.take() else {
            return discard(received, out);
        };
        self.receivers.remove(&id);
        let from = PeerId {
            id: *from,
            address: address.clone(),
        };
        let outcome = received.and_then(|(meta, databases)| {
            log::info!(
                "node {}: snapshot at {} arrived",
                self.settings.id,
                meta.index
            );
            self.arrived.push((meta.clone(), databases));
            let message = Message::InstallSnapshot {
                term,
                meta: meta.clone(),
            };
            self.receive(&from, message).inspect_err(|_| {
                self.arrived.retain(|(arrived, _)| *arrived != meta);
                out.push_back(Output::Discard(Box::new(meta)));
            })
        });
        if let Err(why) = outcome {
            log::warn!(
                "node {}: snapshot from {}: {why}",
                self.settings.id,
                from.id
            );
            self.driver.refuse_snapshot(from.id, term, index);
            self.hang_up(id, out);
        }
        self.drive(out);
        self.pump(id, out);
    }

    /// Raft has installed a snapshot: its databases are all there are from here on.
    pub(super) fn restore(&mut self, meta: SnapshotMeta, out: &mut VecDeque<Output>) {
        let at = |(arrived, _): &(SnapshotMeta, Databases)| *arrived == meta;
        let Some(position) = self.arrived.iter().position(at) else {
            return self.fail(format!("snapshot at {} is not at hand", meta.index), out);
        };
        let (_, databases) = self.arrived.swap_remove(position);
        // Whatever raft had begun to install before is overtaken.
        self.arrived
            .retain(|(arrived, _)| arrived.index > meta.index);
        let old = std::mem::take(&mut self.databases);
        let versions = |old: Database| [old.committed, old.head];
        out.push_back(Output::Release(
            old.into_values().flat_map(versions).collect(),
        ));
        // A leader of C dqlite may have sent some that were opened and never written.
        let filled = |(_, version): &(Bytes, Version)| !version.holds_nothing();
        for (name, version) in databases.into_iter().filter(filled) {
            let version = version.with_number(self.next_version());
            self.databases.insert(name, Database::new(version));
        }
        self.counters.snapshots_installed += 1;
        self.snapshot_index = meta.index;
        self.snapshot_configuration = (meta.configuration, meta.configuration_index);
        self.log_bytes_since_snapshot = 0;
    }

    /// Makes databases of images.
    pub(super) fn install(&mut self, images: Images) {
        for (name, pages) in images {
            let version = Version::from_pages(self.next_version(), pages);
            if !version.holds_nothing() {
                self.databases.insert(name, Database::new(version));
            }
        }
    }
}

/// Nobody waits any more for what has arrived: its temporary files can go.
fn discard(received: Result<(SnapshotMeta, Databases), String>, out: &mut VecDeque<Output>) {
    if let Ok((meta, _)) = received {
        out.push_back(Output::Discard(Box::new(meta)));
    }
}
