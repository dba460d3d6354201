//! Counting what clients ask for and get, and telling of it.

use super::Machine;
use crate::metrics::{Counters, Levels, MemberMetrics};

impl Machine {
    /// What durations are measured with from here on, in microseconds. They are 0 for whoever never says.
    pub fn measure(&mut self, micros: u64) {
        self.micros = micros;
    }

    /// What was counted so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Notices another leader.
    pub(super) fn count_leader(&mut self) {
        let leader = self.driver.leader_id();
        if leader != 0 && leader != self.leader_counted {
            self.leader_counted = leader;
            self.counters.leader_changes += 1;
        }
    }

    /// How the parts of the node are now.
    pub fn levels(&self) -> Levels {
        let last = self.driver.last_index();
        let progress = self.driver.progress();
        let members = self.driver.configuration().servers.iter();
        let members = members.map(|server| {
            let known = progress.iter().find(|peer| peer.id == server.id);
            let contact = known.and_then(|peer| peer.last_contact_ms);
            MemberMetrics {
                id: server.id,
                address: server.address.clone(),
                role: server.role,
                lag: known.map(|peer| last.saturating_sub(peer.match_index)),
                silent_ms: contact.map(|at| self.now.saturating_sub(at)),
            }
        });
        let pages: u64 = (self.databases.values())
            .map(|database| u64::from(database.committed.page_count()))
            .sum();
        let count =
            |of: fn(&crate::registry::Database) -> usize| self.databases.values().map(of).sum();
        Levels {
            members: members.collect(),
            databases: self.databases.len(),
            database_bytes: pages * dq_vfs::PAGE_SIZE as u64,
            sessions: count(|database| database.opens),
            writers_waiting: count(|database| database.waiters.len()),
            commits_waiting: count(|database| database.awaiting.len()),
            log_memory: self.driver.log_bytes(),
            request_memory: self.held.requests,
            answer_memory: self.held.answers,
            peer_memory: self.held.peers,
            statement_memory: self.held.statements,
            uncommitted_memory: self.speculative_bytes,
            unstored_memory: self.driver.unstored_bytes(),
            snapshot_index: self.snapshot_index,
            disk_full: self.disk_full,
        }
    }
}
