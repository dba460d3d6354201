//! Time in ticks.
//!
//! raft-rs counts ticks and does something at some of them: a heartbeat, a check of the quorum, an
//! election. The driver sleeps until the next of those and then makes up the ticks since. A message
//! brings the count up to date before it is looked at, but never across such a tick: whatever has
//! arrived goes before an election whose time has come in the same turn.

use dq_wire::Role;
use raft::StateRole;

use super::{Driver, DriverError, Options};
use crate::mutants::{Mutant, is_broken};

/// Longest election timeout that is taken, ms: a day.
const ELECTION_MS_MAX: u64 = 24 * 3600 * 1000;

/// How long a tick is, and how many make a timeout.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ticks {
    ms: u64,
    pub(super) heartbeat: usize,
    pub(super) election: usize,
}

impl Ticks {
    pub(super) fn new(options: &Options) -> Result<Ticks, DriverError> {
        let (election, heartbeat) = (options.election_timeout_ms, options.heartbeat_ms);
        if options.id == 0 {
            return Err(DriverError::Options("the node id is 0"));
        }
        if heartbeat == 0 || heartbeat >= election || election > ELECTION_MS_MAX {
            return Err(DriverError::Options(
                "heartbeat and election timeout do not fit",
            ));
        }
        let ms = (heartbeat / 5).max(1);
        // Both are far below 2^32 ticks; rounding up keeps the election the longer one.
        let heartbeat = (heartbeat / ms) as usize;
        let election = (election.div_ceil(ms) as usize).max(heartbeat + 1);
        Ok(Ticks {
            ms,
            heartbeat,
            election,
        })
    }
}

/// What time it is, and when the last tick was.
#[derive(Debug)]
pub(super) struct Clock {
    pub(super) ticks: Ticks,
    now: u64,
    last_tick: u64,
}

impl Clock {
    pub(super) fn new(ticks: Ticks) -> Clock {
        Clock {
            ticks,
            now: 0,
            last_tick: 0,
        }
    }

    pub(super) fn start(&mut self, now: u64) {
        self.now = now;
        self.last_tick = now;
    }

    /// ms; never goes back.
    pub(super) fn now(&self) -> u64 {
        self.now
    }
}

impl Driver {
    /// When [`Driver::tick`] is to be called next, ms. `u64::MAX` if there is nothing to wait for.
    pub fn deadline(&self) -> u64 {
        if self.failed {
            return u64::MAX;
        }
        let ticks = if self.may_elect_itself() {
            Some(1)
        } else {
            self.ticks_to_act()
        };
        let tick = ticks.map_or(u64::MAX, |ticks| {
            self.clock
                .last_tick
                .saturating_add((ticks as u64).saturating_mul(self.clock.ticks.ms))
        });
        let alone = self.epoch.is_none() && self.is_sole_voter() && self.is_bound();
        let bound = if alone {
            self.promised_until()
        } else {
            u64::MAX
        };
        tick.min(bound)
            .min(self.snapshot_deadline())
            .min(self.change_deadline())
            .min(self.transfer_deadline())
    }

    /// The time of [`Driver::deadline`] has come, or any other: early calls do no harm.
    pub fn tick(&mut self, now_ms: u64) {
        if self.failed {
            return;
        }
        self.clock.now = self.clock.now.max(now_ms);
        self.campaign_if_alone();
        let due = self.ticks_due();
        // After a pause of the process its last part counts for nothing: an election because of a
        // silence that nobody could have broken helps nobody.
        let limit = self.ticks_to_act().unwrap_or(2 * self.clock.ticks.election);
        let run = due.min(limit + self.clock.ticks.heartbeat);
        for _ in 0..run {
            self.one_tick();
        }
        self.clock.last_tick += due as u64 * self.clock.ticks.ms;
        self.expire_snapshots();
        self.drain();
    }

    /// Takes note of the time of an input, and makes up the ticks before it.
    pub(super) fn advance_to(&mut self, now_ms: u64) {
        self.clock.now = self.clock.now.max(now_ms);
        let limit = self
            .ticks_to_act()
            .map_or(2 * self.clock.ticks.election, |ticks| ticks - 1);
        let due = self.ticks_due();
        let run = due.min(limit);
        for _ in 0..run {
            self.one_tick();
        }
        let counted = if self.ticks_to_act().is_none() {
            due
        } else {
            run
        };
        self.clock.last_tick += counted as u64 * self.clock.ticks.ms;
    }

    fn ticks_due(&self) -> usize {
        let ms = self.clock.now - self.clock.last_tick;
        usize::try_from(ms / self.clock.ticks.ms).unwrap_or(usize::MAX)
    }

    /// The number of the tick, from 1, at which raft-rs acts; `None` if it has nothing to do.
    fn ticks_to_act(&self) -> Option<usize> {
        let raft = &self.raw.raft;
        let left = |timeout: usize, elapsed: usize| timeout.saturating_sub(elapsed).max(1);
        match raft.state {
            StateRole::Leader => {
                let quorum = left(raft.election_timeout(), raft.election_elapsed);
                let beat = left(raft.heartbeat_timeout(), raft.heartbeat_elapsed());
                let alone = raft.prs().iter().len() == 1;
                Some(if alone { quorum } else { quorum.min(beat) })
            }
            _ if self.is_electable() => Some(left(
                raft.randomized_election_timeout(),
                raft.election_elapsed,
            )),
            _ => None,
        }
    }

    fn one_tick(&mut self) {
        let raft = &self.raw.raft;
        let follows = raft.state != StateRole::Leader;
        if follows && raft.election_elapsed + 1 >= raft.randomized_election_timeout() {
            if !self.disk_is_idle() {
                self.raw.raft.election_elapsed = 0;
                return;
            }
            if self.is_bound() || is_broken(Mutant::StandOnce) && self.campaigns > 0 {
                return; // the next tick after the promise is the one
            }
            self.campaigns += 1;
            if !self.raw.raft.promotable() && self.is_electable() {
                // raft-rs's own timer is for voters only.
                self.raw.raft.election_elapsed = 0;
                self.campaign();
                self.drain();
                return;
            }
        }
        if self.call(|raw| raw.tick()) {
            self.drain();
        }
        self.step_transfer();
    }

    /// True unless disk work is outstanding: a vote for oneself must not count entries that a
    /// crash could still take away, and raft-rs panics if a sole voter becomes leader then.
    pub(super) fn disk_is_idle(&self) -> bool {
        self.pending.is_empty() || is_broken(Mutant::CampaignBeforeDurable)
    }

    /// True if this node can stand for election: it is a voter, or the change that takes its vote
    /// away is not known to be committed. It may be the only one with that change in its log: the
    /// remaining voters would then need its vote, and it would not give it to their shorter logs.
    /// Its own vote does not count, and once elected it steps down as soon as the change commits.
    fn is_electable(&self) -> bool {
        let before = self.membership.previous();
        let voted = before.and_then(|configuration| configuration.server(self.options.id));
        self.raw.raft.promotable() || voted.is_some_and(|server| server.role == Role::Voter)
    }

    fn campaign(&mut self) {
        if let Err(error) = self.call(|raw| raw.campaign()) {
            ::log::error!("node {}: cannot campaign: {error}", self.options.id);
        }
    }

    fn may_elect_itself(&self) -> bool {
        self.epoch.is_none()
            && self.is_sole_voter()
            && self.disk_is_idle()
            && (!self.is_bound() || is_broken(Mutant::SoleVoterAtOnce))
    }

    /// A sole voter has nobody to wait for.
    pub(super) fn campaign_if_alone(&mut self) {
        if self.may_elect_itself() {
            self.campaigns += 1;
            self.campaign();
        }
    }

    /// Overwrites the timeout that raft-rs may have drawn by one that can be repeated.
    pub(super) fn pin_timeout(&mut self) {
        let ticks = self.clock.ticks.election as u64;
        let term = self.raw.raft.term;
        let mut hash = self.options.seed;
        for word in [self.options.id, term, self.campaigns] {
            hash = mix(hash ^ word);
        }
        let timeout = (ticks + hash % ticks) as usize;
        self.raw.raft.set_randomized_election_timeout(timeout);
    }

    fn snapshot_deadline(&self) -> u64 {
        let sends = self.peers.values().filter_map(|peer| peer.snapshot);
        sends.map(|send| send.deadline).min().unwrap_or(u64::MAX)
    }

    /// Gives up on snapshots with which a peer has made no progress for long.
    fn expire_snapshots(&mut self) {
        let now = self.clock.now;
        let late = |snapshot: &crate::translate::SnapshotSend| snapshot.deadline <= now;
        let expired: Vec<u64> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.snapshot.as_ref().is_some_and(late))
            .map(|(id, _)| *id)
            .collect();
        for id in expired {
            ::log::warn!(
                "node {}: node {id} makes no progress with a snapshot",
                self.options.id
            );
            self.snapshot_failed(id);
        }
    }
}

/// The finalizer of splitmix64: every bit of the input changes about half of the output's.
fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}
