//! Which configuration is in effect, and how raft-rs learns of it.
//!
//! dqlite's rule, unlike the one of most users of raft-rs: a configuration takes effect when its
//! CHANGE entry is *appended*, and is rolled back if that entry is cut off. The commit index is not
//! stored, so a node that acted on commit would come back from a restart with the configuration of
//! its last snapshot, perhaps several changes behind, and two such nodes might form a majority
//! that does not intersect the present one.
//!
//! ```text
//!   committed (index 1)    uncommitted (index 7)      effective() = the last one
//!        |                      |
//!   log: 1 2 3 4 5 6            7 8 9
//!                    commit(7) promotes it; rollback(7) forgets it
//! ```
//!
//! A follower acts when it appends rather than when the entry is durable: it asks for its
//! configuration only to campaign, and it never campaigns while disk work is outstanding.
//!
//! raft-rs knows voters and learners. Standbys are learners; spares are not in its tracker at all
//! and get nothing. A node that is in no role in the tracker is a learner to itself: raft-rs
//! expects to find itself there.

use dq_wire::{Configuration, Role};
use raft::eraftpb::{ConfChange, ConfChangeType, ConfState};

/// The configurations of a log: the committed one and those after it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Membership {
    committed: Configuration,
    committed_index: u64,
    /// Ascending by index. More than one only while catching up: a leader appends a CHANGE when the
    /// one before it is committed.
    uncommitted: Vec<(u64, Configuration)>,
    version: u64,
}

impl Membership {
    /// Starts from a committed configuration.
    pub(crate) fn new(committed: Configuration, committed_index: u64) -> Membership {
        Membership {
            committed,
            committed_index,
            uncommitted: Vec::new(),
            version: 0,
        }
    }

    /// Changes whenever what is in effect may have changed.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// The configuration in effect, and the index of the entry that brought it.
    pub(crate) fn effective(&self) -> (&Configuration, u64) {
        match self.uncommitted.last() {
            Some((index, configuration)) => (configuration, *index),
            None => (&self.committed, self.committed_index),
        }
    }

    /// The last committed configuration that has been applied, and its index.
    pub(crate) fn committed(&self) -> (&Configuration, u64) {
        (&self.committed, self.committed_index)
    }

    /// The configuration before the one in effect, while that is not known to be committed. This
    /// one is, even if its commit has not been heard of: a leader appends no CHANGE before the last
    /// one is committed.
    pub(crate) fn previous(&self) -> Option<&Configuration> {
        match &self.uncommitted[..] {
            [] => None,
            [_] => Some(&self.committed),
            [.., (_, previous), _] => Some(previous),
        }
    }

    /// True while a CHANGE is in the log and not known to be committed.
    pub(crate) fn is_changing(&self) -> bool {
        !self.uncommitted.is_empty()
    }

    /// A CHANGE was appended.
    pub(crate) fn append(&mut self, index: u64, configuration: Configuration) {
        debug_assert!(self.effective().1 < index, "CHANGE entries come in order");
        self.version += 1;
        self.uncommitted.push((index, configuration));
    }

    /// Entries from `from` on were cut off. True if that changed what is in effect.
    pub(crate) fn rollback(&mut self, from: u64) -> bool {
        let before = self.uncommitted.len();
        self.uncommitted.retain(|(index, _)| *index < from);
        let changed = self.uncommitted.len() != before;
        self.version += u64::from(changed);
        changed
    }

    /// The CHANGE at `index` is committed.
    pub(crate) fn commit(&mut self, index: u64) {
        while self
            .uncommitted
            .first()
            .is_some_and(|(first, _)| *first <= index)
        {
            (self.committed_index, self.committed) = self.uncommitted.remove(0);
        }
    }
}

/// What raft-rs's tracker should hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct TrackerTarget {
    /// Ascending ids of the voters.
    pub(crate) voters: Vec<u64>,
    /// Ascending ids of the learners.
    pub(crate) learners: Vec<u64>,
}

impl TrackerTarget {
    /// The tracker for `configuration` at node `id`, while `promoting` (a standby or spare that is
    /// catching up to become voter) gets entries. Without any voter the tracker stays empty:
    /// raft-rs refuses learners then.
    pub(crate) fn new(configuration: &Configuration, id: u64, promoting: Option<u64>) -> Self {
        let with = |role| {
            configuration
                .servers
                .iter()
                .filter(move |s| s.role == role)
                .map(|server| server.id)
        };
        let mut voters: Vec<u64> = with(Role::Voter).collect();
        if voters.is_empty() {
            return TrackerTarget::default();
        }
        let mut learners: Vec<u64> = with(Role::Standby).chain(promoting).chain([id]).collect();
        voters.sort_unstable();
        learners.retain(|id| !voters.contains(id));
        learners.sort_unstable();
        learners.dedup();
        TrackerTarget { voters, learners }
    }

    /// The same for raft-rs.
    pub(crate) fn conf_state(&self) -> ConfState {
        ConfState {
            voters: self.voters.clone(),
            learners: self.learners.clone(),
            ..ConfState::default()
        }
    }

    /// The changes that lead from `self` to `target`, one at a time: several in one would make
    /// raft-rs enter joint consensus. Voters are added before any is taken away, so that there is
    /// always one.
    pub(crate) fn changes_to(&self, target: &TrackerTarget) -> Vec<ConfChange> {
        let mut changes = Vec::new();
        let mut push = |id: u64, kind: ConfChangeType| {
            let mut change = ConfChange {
                node_id: id,
                ..ConfChange::default()
            };
            change.set_change_type(kind);
            changes.push(change);
        };
        if target.voters.is_empty() {
            return changes;
        }
        for id in target.voters.iter().filter(|id| !self.voters.contains(id)) {
            push(*id, ConfChangeType::AddNode);
        }
        for id in target
            .learners
            .iter()
            .filter(|id| !self.learners.contains(id))
        {
            push(*id, ConfChangeType::AddLearnerNode);
        }
        for id in self.voters.iter().chain(&self.learners) {
            if !target.voters.contains(id) && !target.learners.contains(id) {
                push(*id, ConfChangeType::RemoveNode);
            }
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use dq_wire::Server;
    use proptest::prelude::*;
    use raft::storage::MemStorage;
    use raft::{Config, RawNode};

    use super::*;

    fn configuration(roles: &[(u64, Role)]) -> Configuration {
        let servers = roles.iter().map(|&(id, role)| Server {
            id,
            address: id.to_string(),
            role,
        });
        Configuration {
            servers: servers.collect(),
        }
    }

    fn any_configuration() -> impl Strategy<Value = Configuration> {
        let role = prop_oneof![Just(Role::Voter), Just(Role::Standby), Just(Role::Spare)];
        let roles = proptest::collection::btree_map(1u64..8, role, 1..7);
        let roles = roles.prop_map(|roles| roles.into_iter().collect::<Vec<_>>());
        roles
            .prop_filter("has a voter", |roles| {
                roles.iter().any(|(_, role)| *role == Role::Voter)
            })
            .prop_map(|roles| configuration(&roles))
    }

    /// A raft-rs node whose tracker is brought from one configuration to the next.
    fn tracker(node: &RawNode<MemStorage>) -> TrackerTarget {
        let state = node.raft.prs().conf().to_conf_state();
        assert!(state.voters_outgoing.is_empty(), "never in joint consensus");
        let (mut voters, mut learners) = (state.voters, state.learners);
        voters.sort_unstable();
        learners.sort_unstable();
        TrackerTarget { voters, learners }
    }

    proptest! {
        #[test]
        fn any_change_is_made_of_single_steps_that_always_leave_a_voter(
            path in proptest::collection::vec((any_configuration(), proptest::option::of(1u64..8)), 1..6),
        ) {
            let storage = MemStorage::new();
            let config = Config { id: 1, ..Config::default() };
            let logger = slog::Logger::root(slog::Discard, slog::o!());
            let mut node = RawNode::new(&config, storage, &logger).expect("valid");
            for (configuration, promoting) in path {
                let target = TrackerTarget::new(&configuration, 1, promoting);
                let before: BTreeSet<u64> = tracker(&node).voters.into_iter().collect();
                for change in tracker(&node).changes_to(&target) {
                    node.apply_conf_change(&change).expect("raft-rs takes each step");
                    prop_assert!(!tracker(&node).voters.is_empty());
                }
                prop_assert_eq!(tracker(&node), target.clone());
                prop_assert!(target.voters.contains(&1) || target.learners.contains(&1));
                prop_assert!(tracker(&node).changes_to(&target).is_empty());
                let after: BTreeSet<u64> = target.voters.iter().copied().collect();
                prop_assert!(before.len() + after.len() > 0);
            }
        }

        #[test]
        fn what_is_in_effect_is_the_last_change_that_has_not_been_cut_off(
            steps in proptest::collection::vec((0u64..3, 1u64..40, any_configuration()), 1..30),
        ) {
            let mut membership = Membership::new(configuration(&[(1, Role::Voter)]), 1);
            let mut changes = vec![(1, configuration(&[(1, Role::Voter)]))];
            let mut committed = 1;
            for (step, index, next) in steps {
                let last = changes.last().map_or(0, |(index, _)| *index);
                match step {
                    0 => {
                        let at = last.max(committed) + index;
                        membership.append(at, next.clone());
                        changes.push((at, next));
                    }
                    1 => {
                        let from = committed + index;
                        let kept = changes.len();
                        changes.retain(|(at, _)| *at < from);
                        prop_assert_eq!(membership.rollback(from), changes.len() != kept);
                    }
                    _ => {
                        committed = committed.max(last.saturating_sub(index));
                        membership.commit(committed);
                    }
                }
                let (effective, at) = membership.effective();
                prop_assert_eq!(Some(&(at, effective.clone())), changes.last());
                let known = changes.iter().rev().find(|(at, _)| *at <= committed);
                let (configuration, at) = membership.committed();
                prop_assert_eq!(known, Some(&(at, configuration.clone())));
                prop_assert_eq!(membership.is_changing(), changes.last().expect("one").0 > committed);
            }
        }
    }

    #[test]
    fn spares_are_not_tracked_unless_they_are_to_become_voters() {
        let servers = configuration(&[(1, Role::Voter), (2, Role::Standby), (3, Role::Spare)]);
        let target = TrackerTarget::new(&servers, 1, None);
        assert_eq!((target.voters, target.learners), (vec![1], vec![2]));
        assert_eq!(TrackerTarget::new(&servers, 1, Some(3)).learners, [2, 3]);
        assert_eq!(
            TrackerTarget::new(&servers, 3, None).learners,
            [2, 3],
            "to itself"
        );
        assert_eq!(
            TrackerTarget::new(&servers, 9, None).learners,
            [2, 9],
            "to itself"
        );
    }

    #[test]
    fn without_voters_nothing_is_tracked() {
        let target = TrackerTarget::new(&configuration(&[(1, Role::Standby)]), 1, None);
        assert_eq!(target, TrackerTarget::default());
        assert_eq!(
            TrackerTarget::new(&Configuration::default(), 1, None),
            target
        );
    }
}
