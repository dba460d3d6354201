//! What has to happen within a stated time.
//!
//! **A leader serves**, once a majority of the voters runs and is connected, within four seconds and
//! sixteen election timeouts. A stream that broke is dialled again after a second, and a dial that was
//! begun while the other side was not there may take three. An election takes two timeouts at most: that
//! of a follower is between one and two, a promise to the leader before ends within one. It fails if two
//! nodes stand within a round trip of each other, or one whose log is too short stands first; eight
//! rounds are more than 3,000 seeds need.
//!
//! **A client gets an answer** when besides it has given up what it waited for: ten election timeouts,
//! ten seconds the one that changes members. It has to find the leader then, and it does something only
//! in bursts, one in an election timeout; so twice that, and two seconds for those who stand in each
//! other's way.
//!
//! **All nodes hold the same** when besides those that were away have caught up: a snapshot that was lost
//! on its way is sent again after 30 s without progress.

use super::*;

/// Until a stream is open again.
const RECONNECT: u64 = 4 * SECOND;
/// Until a snapshot is sent again.
const INSTALL: u64 = 30 * SECOND;

impl World {
    fn elections(&self, count: u64) -> u64 {
        count * self.plan.election_ms * MS
    }

    /// Until a leader serves.
    pub(super) fn until_led(&self) -> u64 {
        RECONNECT + self.elections(16)
    }

    /// Until every client has had an answer, and the members are what they should be.
    pub(super) fn until_answered(&self) -> u64 {
        self.until_led() + 2 * (self.elections(10).max(10 * SECOND)) + 2 * SECOND
    }

    /// Until all nodes hold the same.
    pub(super) fn until_settled(&self) -> u64 {
        self.until_answered() + INSTALL
    }

    /// Something has taken this long, of the time that it may take. False if that is over.
    pub(super) fn takes(&mut self, what: &'static str, time: u64, most: u64) -> bool {
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
