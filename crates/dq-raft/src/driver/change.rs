//! Changes of the membership, and transfers of leadership.
//!
//! One server's role changes per CHANGE entry, and one CHANGE is under way at a time. A server that
//! is to become voter is first brought up to date, in rounds as in section 4.2.1 of the raft
//! thesis: a round brings it to where the log ended when the round began; it is close enough when
//! a round takes less than an election timeout.
//!
//! ```text
//!                 up to date
//!   assign ------------------> Committing ---> ChangeDone
//!      |  not yet                  ^      committed
//!      +---------> CatchingUp -----+
//!   add, remove, demote ---------> Committing
//! ```
//!
//! A CHANGE is proposed only when an entry of our own term is committed. Without that test two
//! leaders one after the other could each commit a change of one server on disjoint majorities.
//!
//! A leader that takes its own vote away stays in raft-rs's tracker as a learner, for raft-rs looks
//! itself up there, and steps down when the CHANGE is committed.

use std::fmt;

use bytes::Bytes;
use dq_wire::{Configuration, EntryKind, Role, Server};

use super::{Driver, Effect, ProposeError};
use crate::mutants::{Mutant, is_broken};
use crate::types::Payload;

/// Longest that one round of catching up may take, ms.
const ROUND_MS_MAX: u64 = 50_000;

/// The round that has to be the last.
const ROUNDS_MAX: u32 = 100;

/// Longest address that is taken, bytes; all of a configuration has to fit in a message's header.
const ADDRESS_BYTES_MAX: usize = 4096;

/// Names a change in its [`Effect::ChangeDone`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChangeToken(pub u64);

/// Why a change of the membership, or a transfer, did not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeError {
    /// The id is in use.
    DuplicateId,
    /// The address is in use.
    DuplicateAddress,
    /// The server has that role, or no voter would be left.
    BadRole,
    /// The id is 0, or no server's, or that of the last voter, or no other voter's.
    BadId,
    /// This node does not lead, or is handing over.
    NotLeader,
    /// It has stopped leading before the change was committed; it may yet be.
    LeadershipLost,
    /// Another change is under way, or the leader has just begun.
    Busy,
    /// The server did not catch up in time.
    NoConnection,
    /// No such server.
    NotFound,
    /// The other node did not take over within an election timeout.
    TransferFailed,
}

impl ChangeError {
    /// The code of the FAILURE that a client gets.
    pub fn code(self) -> u64 {
        match self {
            ChangeError::NotLeader => 10250,
            ChangeError::LeadershipLost => 10506,
            ChangeError::Busy => 5,
            _ => 1,
        }
    }

    /// Its text, that of C dqlite.
    pub fn message(self) -> &'static str {
        match self {
            ChangeError::DuplicateId => "server ID already in use",
            ChangeError::DuplicateAddress => "server address already in use",
            ChangeError::BadRole => "server role is not valid",
            ChangeError::BadId => "server ID is not valid",
            ChangeError::NotLeader => "server is not the leader",
            ChangeError::LeadershipLost => "server has lost leadership",
            ChangeError::Busy => "a configuration change is already in progress",
            ChangeError::NoConnection => "no connection to remote server available",
            ChangeError::NotFound => "Resource not found",
            ChangeError::TransferFailed => "leadership transfer failed",
        }
    }
}

impl fmt::Display for ChangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

impl std::error::Error for ChangeError {}

/// The change that is under way.
pub(super) struct Change {
    token: ChangeToken,
    stage: Stage,
}

/// The transfer of leadership that is under way.
#[derive(Clone, Copy)]
pub(super) enum Transfer {
    /// The followers are told to forget their promises.
    Releasing {
        target: u64,
        /// The last sequence number before the news.
        seq: u32,
        /// When it is gone on with anyway, ms.
        deadline: u64,
    },
    /// raft-rs is at it.
    Asked,
}

#[derive(Clone, Copy)]
enum Stage {
    CatchingUp(CatchUp),
    /// The CHANGE is in the log at this index; `leaving` if it takes our vote away.
    Committing {
        index: u64,
        leaving: bool,
    },
}

#[derive(Clone, Copy)]
struct CatchUp {
    id: u64,
    round: u32,
    /// Where the log ended when the round began.
    target: u64,
    /// When it began, ms.
    started: u64,
}

impl Driver {
    /// Adds a server as spare.
    ///
    /// # Errors
    /// At once as described in [`ChangeError`]; later by [`Effect::ChangeDone`] with the token.
    pub fn add(&mut self, now_ms: u64, id: u64, address: &str) -> Result<ChangeToken, ChangeError> {
        self.advance_to(now_ms);
        self.may_change()?;
        let mut configuration = self.configuration().clone();
        let bad_address = address.len() > ADDRESS_BYTES_MAX || address.contains('\0');
        if id == 0 || bad_address {
            return Err(ChangeError::BadId);
        }
        if configuration.server(id).is_some() {
            return Err(ChangeError::DuplicateId);
        }
        if configuration
            .servers
            .iter()
            .any(|server| server.address == address)
        {
            return Err(ChangeError::DuplicateAddress);
        }
        configuration.servers.push(Server {
            id,
            address: address.to_owned(),
            role: Role::Spare,
        });
        self.begin(configuration)
    }

    /// Gives a server another role. One that becomes voter is brought up to date first.
    ///
    /// # Errors
    /// As for [`Driver::add`].
    pub fn assign(&mut self, now_ms: u64, id: u64, role: Role) -> Result<ChangeToken, ChangeError> {
        self.advance_to(now_ms);
        self.may_change()?;
        let server = self
            .configuration()
            .server(id)
            .ok_or(ChangeError::NotFound)?;
        if server.role == role || (role != Role::Voter && self.is_last_voter(id)) {
            return Err(ChangeError::BadRole);
        }
        if role != Role::Voter || self.matched(id) == Some(self.last_index()) {
            return self.begin(self.with_role(id, role));
        }
        let token = self.take_token();
        let catch_up = CatchUp {
            id,
            round: 1,
            target: self.last_index(),
            started: self.clock.now(),
        };
        self.change = Some(Change {
            token,
            stage: Stage::CatchingUp(catch_up),
        });
        self.drain();
        Ok(token)
    }

    /// Removes a server.
    ///
    /// # Errors
    /// As for [`Driver::add`].
    pub fn remove(&mut self, now_ms: u64, id: u64) -> Result<ChangeToken, ChangeError> {
        self.advance_to(now_ms);
        self.may_change()?;
        if self.configuration().server(id).is_none() || self.is_last_voter(id) {
            return Err(ChangeError::BadId);
        }
        let mut configuration = self.configuration().clone();
        configuration.servers.retain(|server| server.id != id);
        self.begin(configuration)
    }

    /// Hands leadership over to a voter; 0 chooses one, the most up to date. Nothing can be
    /// proposed from here on until [`Effect::TransferDone`].
    ///
    /// # Errors
    /// At once as described in [`ChangeError`]; later by [`Effect::TransferDone`].
    pub fn transfer(&mut self, now_ms: u64, id: u64) -> Result<(), ChangeError> {
        self.advance_to(now_ms);
        if self.epoch.is_none() || self.transferring() {
            return Err(ChangeError::NotLeader);
        }
        let target = if id == 0 {
            let voters = self
                .configuration()
                .servers
                .iter()
                .filter(|s| s.role == Role::Voter);
            let others = voters.filter(|server| server.id != self.options.id);
            others
                .max_by_key(|server| (self.contacts.get(&server.id), self.matched(server.id)))
                .map(|server| server.id)
                .ok_or(ChangeError::NotFound)?
        } else {
            let server = self.configuration().server(id).ok_or(ChangeError::BadId)?;
            if id == self.options.id || server.role != Role::Voter {
                return Err(ChangeError::BadId);
            }
            id
        };
        let deadline = self.clock.now() + self.options.heartbeat_ms;
        // Without anybody to tell, the deadline is now.
        let (seq, deadline) = self.release().map_or((0, 0), |seq| (seq, deadline));
        self.transfer = Some(Transfer::Releasing {
            target,
            seq,
            deadline,
        });
        self.drain();
        Ok(())
    }

    /// Goes on with a transfer: asks the target to stand once a majority knows that its promises
    /// are given up, or there is no time left to wait for that, which only spares the target a
    /// refused election; and ends one that raft-rs has given up.
    pub(super) fn step_transfer(&mut self) {
        match self.transfer {
            Some(Transfer::Releasing {
                target,
                seq,
                deadline,
            }) => {
                if deadline <= self.clock.now() || self.is_released(seq) {
                    self.transfer = Some(Transfer::Asked);
                    self.call(|raw| raw.transfer_leader(target));
                    // A target that raft-rs does not take is none; it has given up at once then.
                    self.step_transfer();
                }
            }
            Some(Transfer::Asked) if self.raw.raft.lead_transferee.is_none() => {
                self.transfer = None;
                if is_broken(Mutant::ReleaseEnds) {
                    self.proofs.lead.released = false;
                }
                let result = Err(ChangeError::TransferFailed);
                self.effects.push(Effect::TransferDone { result });
            }
            Some(Transfer::Asked) | None => {}
        }
    }

    /// When the target of a transfer is asked at the latest, ms.
    pub(super) fn transfer_deadline(&self) -> u64 {
        match self.transfer {
            Some(Transfer::Releasing { deadline, .. }) => deadline,
            _ => u64::MAX,
        }
    }

    /// The server that gets entries because it is to become voter.
    pub(super) fn promoting(&self) -> Option<u64> {
        match self.change {
            Some(Change {
                stage: Stage::CatchingUp(catch_up),
                ..
            }) => Some(catch_up.id),
            _ => None,
        }
    }

    /// True while a change that takes our vote away waits to be committed.
    pub(super) fn is_leaving(&self) -> bool {
        matches!(
            self.change,
            Some(Change {
                stage: Stage::Committing { leaving: true, .. },
                ..
            })
        )
    }

    /// When a change that catches up is to be looked at again, ms.
    pub(super) fn change_deadline(&self) -> u64 {
        match self.change {
            Some(Change {
                stage: Stage::CatchingUp(catch_up),
                ..
            }) => catch_up.started + self.round_limit(catch_up.round),
            _ => u64::MAX,
        }
    }

    /// Goes on with a change that catches up. True if something happened.
    pub(super) fn step_change(&mut self) -> bool {
        let Some(Change {
            token,
            stage: Stage::CatchingUp(catch_up),
        }) = self.change
        else {
            return false;
        };
        let now = self.clock.now();
        let took = now.saturating_sub(catch_up.started);
        let matched = self.matched(catch_up.id).unwrap_or(0);
        let last = self.last_index();
        let done = matched == last
            || (matched >= catch_up.target && took < self.options.election_timeout_ms);
        if done && !self.transferring() {
            let configuration = self.with_role(catch_up.id, Role::Voter);
            if self.append_change(token, configuration).is_err() {
                self.fail_change(ChangeError::LeadershipLost);
            }
            return true;
        }
        if took >= self.round_limit(catch_up.round) {
            self.fail_change(ChangeError::NoConnection);
            return true;
        }
        if matched >= catch_up.target && !done {
            let round = catch_up.round + 1;
            let next = CatchUp {
                round,
                target: last,
                started: now,
                ..catch_up
            };
            self.change = Some(Change {
                token,
                stage: Stage::CatchingUp(next),
            });
            return true;
        }
        false
    }

    /// The CHANGE at `index` is committed and applied.
    pub(super) fn change_committed(&mut self, index: u64) {
        let ours = |change: &mut Change| matches!(change.stage, Stage::Committing { index: at, .. } if at == index);
        if let Some(change) = self.change.take_if(ours) {
            self.effects.push(Effect::ChangeDone {
                token: change.token,
                result: Ok(()),
            });
        }
    }

    /// A leader whose committed configuration does not let it vote has done its last duty.
    pub(super) fn step_down_if_not_voter(&mut self) {
        let Some(epoch) = self.epoch.filter(|_| !self.membership.is_changing()) else {
            return;
        };
        let server = self.configuration().server(self.options.id);
        if server.is_none_or(|server| server.role != Role::Voter) {
            self.call(|raw| raw.raft.become_follower(epoch.term, 0));
        }
    }

    /// Ends the change that is under way.
    pub(super) fn fail_change(&mut self, error: ChangeError) {
        if let Some(change) = self.change.take() {
            self.effects.push(Effect::ChangeDone {
                token: change.token,
                result: Err(error),
            });
        }
    }

    fn may_change(&self) -> Result<(), ChangeError> {
        if self.epoch.is_none() || self.transferring() {
            return Err(ChangeError::NotLeader);
        }
        let changing = self.change.is_some() || self.membership.is_changing();
        let busy =
            changing && !is_broken(Mutant::SecondChange) || !self.raw.raft.commit_to_current_term();
        if busy { Err(ChangeError::Busy) } else { Ok(()) }
    }

    fn begin(&mut self, configuration: Configuration) -> Result<ChangeToken, ChangeError> {
        let token = self.take_token();
        let result = self.append_change(token, configuration);
        self.drain();
        result.map(|()| token).map_err(|_| ChangeError::NotLeader)
    }

    fn append_change(
        &mut self,
        token: ChangeToken,
        configuration: Configuration,
    ) -> Result<(), ProposeError> {
        let mut bytes = Vec::new();
        configuration.encode(&mut bytes);
        let us = configuration.server(self.options.id);
        let leaving = us.is_none_or(|server| server.role != Role::Voter);
        let payload = Payload::from(Bytes::from(bytes));
        let index = self.append(vec![(EntryKind::Change, payload)])?;
        self.change = Some(Change {
            token,
            stage: Stage::Committing { index, leaving },
        });
        Ok(())
    }

    fn take_token(&mut self) -> ChangeToken {
        self.next_token += 1;
        ChangeToken(self.next_token - 1)
    }

    fn round_limit(&self, round: u32) -> u64 {
        if round >= ROUNDS_MAX {
            self.options.election_timeout_ms
        } else {
            ROUND_MS_MAX
        }
    }

    fn matched(&self, id: u64) -> Option<u64> {
        self.raw.raft.prs().get(id).map(|progress| progress.matched)
    }

    fn is_last_voter(&self, id: u64) -> bool {
        let mut voters = self
            .configuration()
            .servers
            .iter()
            .filter(|s| s.role == Role::Voter);
        voters.all(|voter| voter.id == id)
    }

    fn with_role(&self, id: u64, role: Role) -> Configuration {
        let mut configuration = self.configuration().clone();
        for server in configuration
            .servers
            .iter_mut()
            .filter(|server| server.id == id)
        {
            server.role = role;
        }
        configuration
    }
}
