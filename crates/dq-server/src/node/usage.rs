//! What the node holds in memory, and the bound on each: what [`Machine::usage`] says holds after every
//! step. Databases themselves have none, but that of their transactions.

use dq_raft::Usage;
use dq_vfs::PAGE_SIZE;

use super::Machine;
use crate::conn::{Conn, Held, SNAPSHOTS_ARRIVING_MAX, Stage};

impl Machine {
    /// What is held in memory, with its bounds; for tests, since it may take steps per connection.
    pub fn usage(&self, mut see: impl FnMut(Usage)) {
        let settings = &self.settings;
        let mut usage = |what, held: usize, bound: usize| {
            see(Usage {
                what,
                held: held as u64,
                bound: bound as u64,
            });
        };
        let clients = settings.client_memory_max;
        let at_work = |conn: &Conn| conn.request.as_ref().map_or(0, |request| request.size);
        // Looked for when it matters only.
        let with_largest = |of: fn(&Held) -> usize, max: usize| match of(&self.held) > max {
            true => {
                let sizes = self.conns.values().map(|conn| of(&conn.counted));
                max + sizes.max().unwrap_or(0)
            }
            false => max,
        };
        let with_work = |max: usize| match self.held.requests > max {
            true => max.max(self.conns.values().map(|conn| at_work(conn)).sum()),
            false => max,
        };
        let old_pages_max = settings.old_pages_max / PAGE_SIZE;
        let (mut transactions, mut waiters, mut awaiting, mut unused) = (0, 0, 0, 0);
        for database in self.databases.values() {
            transactions += database.largest;
            waiters += database.waiters.len();
            awaiting += database.awaiting.len();
            unused += usize::from(database.is_unused());
        }
        let count = self.conns.len();
        usage("bytes of requests", self.held.requests, with_work(clients));
        usage(
            "bytes of answers",
            self.held.answers,
            with_largest(|held| held.answers, clients),
        );
        usage(
            "bytes of prepared statements",
            self.held.statements,
            clients,
        );
        usage(
            "bytes of messages of peers",
            self.held.peers,
            with_largest(|held| held.peers, settings.peer_memory_max),
        );
        // A transaction of each database may have begun when there was room.
        usage(
            "bytes executed and not applied",
            self.speculative_bytes,
            settings.speculative_bytes_max + transactions,
        );
        usage(
            "old pages for readers",
            usize::try_from(self.readers.at_most()).unwrap_or(usize::MAX),
            old_pages_max + old_pages_max / 16,
        );
        usage(
            "snapshots that arrive",
            self.receivers.len(),
            SNAPSHOTS_ARRIVING_MAX,
        );
        usage("clients that leave", self.leaving.len(), count);
        usage("requests before the gate", self.gated.len(), count);
        usage("answers without proof", self.proving.len(), count);
        usage("writers that wait", waiters, count);
        usage("answers that are not committed", awaiting, count);
        usage("databases without content and user", unused, 0);
        for usage in &self.driver.usage() {
            see(*usage);
        }
    }
}

impl Conn {
    pub(super) fn is_receiving(&self) -> bool {
        matches!(
            self.stage,
            Stage::Peer {
                receiving: Some(_),
                ..
            }
        )
    }
}
