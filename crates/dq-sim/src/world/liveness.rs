//! What has to happen within a stated time.
//!
//! **A leader serves**, once a majority of the voters runs and is connected, within four seconds and
//! eight election timeouts. A stream that broke is dialled again after a second, and a dial that was
//! begun while the other side was not there may take three. An election takes two timeouts at most: that
//! of a follower is between one and two, and a promise to the leader before ends within one. It fails if
//! two nodes stand within a round trip of each other, or one whose log is too short stands first; four
//! rounds are more than any of hundreds of seeds has needed.
//!
//! **A client gets an answer** when besides it has given up what it waited for, after ten election
//! timeouts, or ten seconds if it is the one that changes members. It has to find the leader then, and
//! does something in one burst per election timeout only; four of those, and two seconds for writers that
//! are in each other's way. So clients end in as much without the elections.
//!
//! **All nodes hold the same** after elections, one answer and, for who was away, a snapshot: one that got
//! lost is sent again when there was no progress with it for 30 s.
//!
//! None of this is stated for clusters with nodes of C dqlite, or in which disks are damaged and nodes
//! replaced: there it is only long.
//!
//! While faults spare a majority, there are answers and commits **all the time**: between two of them is
//! no more than elections, and the time until clients give up a node that is gone.

use super::*;
use crate::plan::FAULTS;

/// Until a stream is open again.
const RECONNECT: u64 = 4 * SECOND;
/// Until a snapshot is sent again that got lost.
const INSTALL: u64 = 30 * SECOND;

impl World {
    fn elections(&self, count: u64) -> u64 {
        count * self.plan.election_ms * MS
    }

    /// Until a leader serves.
    pub(super) fn until_led(&self) -> u64 {
        RECONNECT + self.elections(8)
    }

    /// Until nobody waits any more for an answer that does not come.
    fn patience(&self) -> u64 {
        self.elections(10).max(10 * SECOND)
    }

    /// Until the cluster is formed, in which no change may have been answered at first.
    pub(super) fn until_formed(&self) -> u64 {
        self.until_led() + 2 * self.patience() + 2 * SECOND
    }

    /// Until every client has had an answer, and the members are what they should be.
    pub(super) fn until_answered(&self) -> u64 {
        self.until_led() + self.patience() + self.elections(4) + 2 * SECOND
    }

    /// Until all clients have come to their ends.
    pub(super) fn until_ended(&self) -> u64 {
        self.elections(14) + 4 * SECOND
    }

    /// Until all nodes hold the same.
    pub(super) fn until_settled(&self) -> u64 {
        self.until_led() + self.patience() + INSTALL
    }

    /// Something has taken this long, of the time that it may take. False if that is over.
    pub(super) fn takes(&mut self, what: &'static str, time: u64, most: u64) -> bool {
        let damage = self.plan.faults.iter().any(|fault| !FAULTS.contains(fault));
        if damage || !self.plan.c_nodes.is_empty() {
            // Nodes are replaced, or have times of their own: what holds for them is not stated yet.
            return time <= 60 * SECOND + self.elections(100);
        }
        let share = self.shares.entry(what).or_default();
        *share = (*share).max(time * 1000 / most);
        time <= most
    }

    /// Whether some node leads and answers.
    fn is_led(&self) -> bool {
        let mut processes = self.nodes.iter().filter_map(|slot| slot.process.as_ref());
        processes.any(|process| process.machine.is_serving())
    }

    /// While faults have ended: notes when a leader serves.
    pub(super) fn look_for_leader(&mut self) {
        if self.led {
            return;
        }
        self.led = self.is_led();
        let age = self.now - self.phase_since;
        if !self.takes("a leader", age, self.until_led()) {
            self.fail("no leader serves although all faults have ended".to_owned());
        }
    }

    /// While faults spare a majority: clients have answers, and entries are committed.
    pub(super) fn look_for_progress(&mut self) {
        if !self.plan.spares_majority {
            return;
        }
        let answers = self.shared.borrow().answered.iter().sum();
        let processes = self.nodes.iter().filter_map(|slot| slot.process.as_ref());
        let committed = processes.map(|process| process.machine.driver().commit_index());
        let committed = committed.max().unwrap_or(0).max(self.progress[1].0);
        for (at, value) in [answers, committed].into_iter().enumerate() {
            if self.progress[at].0 != value {
                self.progress[at] = (value, self.now);
            }
        }
        let since = self.progress.iter().map(|(_, at)| *at).min().unwrap_or(0);
        let age = self.now - since.max(self.phase_since);
        if !self.takes(
            "progress of a majority",
            age,
            self.until_led() + self.elections(12),
        ) {
            self.fail(format!(
                "a majority runs, but no progress: answers, commits {:?}",
                self.progress
            ));
        }
    }
}
