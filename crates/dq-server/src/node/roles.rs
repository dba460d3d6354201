//! Role management: the leader keeps members in the roles that the targets ask for.
//!
//! Spares hear nothing from raft, so the leader asks every member over the client protocol, each
//! second, and counts three unanswered questions as silence. One change is made at a time; while a
//! client manages the members, this keeps out of it.

use std::collections::{BTreeMap, VecDeque};

use dq_raft::ChangeError;
use dq_wire::Role;

use super::{Machine, Output};
use crate::roles::{MemberView, RoleTargets, next_change};

/// Time between two rounds of questions, ms.
const POLL_MS: u64 = 1_000;

/// Unanswered questions in a row that make a member silent.
const MISSES: u32 = 3;

/// How long a client's change of the members keeps ours away, ms.
const SILENCE_MS: u64 = 5_000;

/// A member's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Polled {
    /// Who.
    pub id: u64,
    /// Failure domain and weight, or nothing if it did not answer.
    pub answer: Option<(u64, u64)>,
}

/// What the leader knows of the members.
#[derive(Debug)]
pub(super) struct RoleManager {
    targets: Option<RoleTargets>,
    next_poll: u64,
    polling: bool,
    quiet_until: u64,
    members: BTreeMap<u64, Known>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Known {
    domain: u64,
    weight: u64,
    misses: u32,
    /// Since when it has not answered.
    silent_since: u64,
}

impl RoleManager {
    pub(super) fn new(targets: Option<RoleTargets>) -> RoleManager {
        RoleManager {
            targets,
            next_poll: 0,
            polling: false,
            quiet_until: 0,
            members: BTreeMap::new(),
        }
    }

    /// A client gives roles itself: ours keeps out of it for a while.
    pub(super) fn silence(&mut self, now: u64) {
        self.quiet_until = now + SILENCE_MS;
    }

    pub(super) fn deadline(&self) -> Option<u64> {
        (self.targets.is_some() && !self.polling).then_some(self.next_poll)
    }

    pub(super) fn polled(&mut self, now: u64, answers: &[Polled]) {
        self.polling = false;
        for Polled { id, answer } in answers {
            let known = self.members.entry(*id).or_default();
            match answer {
                Some((domain, weight)) => {
                    *known = Known {
                        domain: *domain,
                        weight: *weight,
                        ..Known::default()
                    };
                }
                None => {
                    if known.misses == 0 {
                        known.silent_since = now;
                    }
                    known.misses = known.misses.saturating_add(1);
                }
            }
        }
        self.members
            .retain(|id, _| answers.iter().any(|answer| answer.id == *id));
    }
}

impl Machine {
    pub(super) fn poll_if_due(&mut self, out: &mut VecDeque<Output>) {
        if self.epoch.is_none() || self.roles.deadline().is_none_or(|at| at > self.now) {
            return;
        }
        self.roles.next_poll = self.now + POLL_MS;
        let others: Vec<(u64, String)> = self
            .driver
            .configuration()
            .servers
            .iter()
            .filter(|server| server.id != self.settings.id)
            .map(|server| (server.id, server.address.clone()))
            .collect();
        if !others.is_empty() {
            self.roles.polling = true;
            out.push_back(Output::Poll(others));
        }
    }

    /// Makes the next change, if one is due.
    pub(super) fn adjust_roles(&mut self, out: &mut VecDeque<Output>) {
        let Some(targets) = self.roles.targets else {
            return;
        };
        if !self.open || self.now < self.roles.quiet_until || self.handing_over {
            return;
        }
        let views: Vec<MemberView> = self
            .driver
            .configuration()
            .servers
            .iter()
            .filter_map(|server| {
                let me = server.id == self.settings.id;
                let known = match self.roles.members.get(&server.id) {
                    Some(known) => *known,
                    None if me => Known {
                        domain: self.settings.failure_domain,
                        weight: self.weight,
                        ..Known::default()
                    },
                    // Not asked yet: nothing is known of it.
                    None => return None,
                };
                let silent = known.misses >= MISSES;
                Some(MemberView {
                    id: server.id,
                    role: server.role,
                    silent_ms: silent.then(|| self.now.saturating_sub(known.silent_since)),
                    domain: known.domain,
                    weight: known.weight,
                })
            })
            .collect();
        if views.len() != self.driver.configuration().servers.len() {
            return;
        }
        let Some(change) = next_change(&views, self.settings.id, &targets) else {
            return;
        };
        match self.driver.assign(self.now, change.id, change.role) {
            Ok(_) => log::info!(
                "node {}: {} becomes {:?}: {}",
                self.settings.id,
                change.id,
                change.role,
                change.why
            ),
            // Another change is under way; the next round sees what came of it.
            Err(ChangeError::Busy) => {}
            Err(error) => {
                log::warn!(
                    "node {}: {} as {:?}: {error}",
                    self.settings.id,
                    change.id,
                    change.role
                );
            }
        }
        self.drive(out);
    }

    /// Gives leadership away, if this node has it and another voter can take it.
    pub(super) fn hand_over(&mut self, out: &mut VecDeque<Output>) {
        if self.epoch.is_none() {
            out.push_back(Output::HandedOver(true));
            return;
        }
        let others = self.driver.configuration().servers.iter();
        let alone = !others
            .into_iter()
            .any(|server| server.id != self.settings.id && server.role == Role::Voter);
        if alone || self.driver.transfer(self.now, 0).is_err() {
            out.push_back(Output::HandedOver(false));
            return;
        }
        self.handing_over = true;
        self.drive(out);
    }
}
