//! Elections: to stand, to vote, to count.

use dq_wire::Role;

use super::*;
use crate::message::{RequestVote, RequestVoteResult};

impl CNode {
    pub(super) fn tick_follower(&mut self) {
        if !self.is_expired() || !self.is_voter() {
            return;
        }
        let appending = self.writes.iter().any(|write| write.asked.is_some());
        if self.is_busy_installing() || appending {
            self.reset_timer();
        } else {
            self.stand(false);
        }
    }

    /// Becomes a candidate, on its leader's wish or its own.
    pub(super) fn stand(&mut self, disrupt: bool) {
        self.leader = None;
        self.disrupt = disrupt;
        let alone = self.voters() == 1;
        self.role = match disrupt || alone {
            true => RaftRole::Candidate,
            false => RaftRole::PreCandidate,
        };
        self.campaign();
        if alone {
            self.lead();
        }
    }

    /// Asks all voters, again in the way in which it asked before.
    pub(super) fn campaign(&mut self) {
        let pre_vote = self.role == RaftRole::PreCandidate;
        if !pre_vote {
            self.term += 1;
            self.vote = self.options.id;
        }
        self.reset_timer();
        self.votes = BTreeSet::from([self.options.id]);
        let request = RequestVote {
            term: self.term + u64::from(pre_vote),
            candidate: self.options.id,
            last_index: self.stored,
            last_term: self.log.term_of(self.stored).unwrap_or(0),
            disrupt_leader: self.disrupt,
            pre_vote,
        };
        for server in self.configuration.servers.clone() {
            if server.id != self.options.id && server.role == Role::Voter {
                self.send(&peer(&server), Message::RequestVote(request));
            }
        }
    }

    pub(super) fn vote_requested(&mut self, from: &PeerId, request: RequestVote) {
        // A server without a vote never takes its leader for gone; here it does, so that it can use a
        // vote that it has not heard of.
        let gone = !self.is_voter() && self.is_expired();
        let led = self.role == RaftRole::Leader
            || (self.role == RaftRole::Follower && self.leader.is_some() && !gone);
        let mut granted = false;
        if !led || request.disrupt_leader {
            if !request.pre_vote && request.term > self.term {
                self.bump(request.term);
            }
            if !self.is_busy_installing() && request.term >= self.term {
                granted = self.votes_for(&request);
            }
        }
        if granted && !request.pre_vote {
            self.vote = request.candidate;
            self.since = self.now;
        }
        let result = RequestVoteResult {
            term: match request.pre_vote {
                true => request.term,
                false => self.term,
            },
            granted,
            pre_vote: Some(request.pre_vote),
            own_term: false,
        };
        self.send(from, Message::RequestVoteResult(result));
    }

    fn votes_for(&self, request: &RequestVote) -> bool {
        let free = request.pre_vote || self.vote == 0 || self.vote == request.candidate;
        let ours = (self.log.last_term(), self.log.last());
        let theirs = (request.last_term, request.last_index);
        // Whose log is longer may know more of who votes.
        let may = self.is_voter() || theirs > ours;
        may && free && (self.log.last() == 0 || theirs >= ours)
    }

    pub(super) fn vote_received(&mut self, from: u64, result: RequestVoteResult) {
        let voter = self.configuration.server(from);
        if voter.is_none_or(|server| server.role != Role::Voter) {
            return;
        }
        let pre_vote = match self.role {
            RaftRole::PreCandidate => true,
            RaftRole::Candidate => false,
            RaftRole::Follower | RaftRole::Leader => return,
        };
        if !pre_vote && result.term > self.term {
            return self.bump(result.term);
        }
        if result.term < self.term || result.pre_vote.is_some_and(|kind| kind != pre_vote) {
            return;
        }
        if pre_vote && result.term > self.term + 1 {
            if result.granted {
                self.shut_down(format!("was granted a pre-vote for term {}", result.term));
            }
            return self.bump(result.term);
        }
        if !result.granted {
            return;
        }
        self.votes.insert(from);
        if 2 * self.votes.len() > self.voters() {
            if pre_vote {
                self.role = RaftRole::Candidate;
                self.campaign();
            } else {
                self.lead();
            }
        }
    }

    pub(super) fn told_to_stand(&mut self, from: u64, term: u64, last: (u64, u64)) {
        let leads = self.leader.as_ref().is_some_and(|leader| leader.id == from);
        if !self.is_voter() || self.role != RaftRole::Follower || !leads {
            return;
        }
        if term > self.term {
            self.bump(term);
        }
        let appending = self.writes.iter().any(|write| write.asked.is_some());
        let ours = (self.log.last(), self.log.last_term());
        if term == self.term && last == ours && !appending {
            self.stand(true);
        }
    }
}
