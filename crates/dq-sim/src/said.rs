//! What nodes say to each other, held against what they have on disk and what they can know.
//!
//! A message may leave only if what it says survives a power cut right after it: its term, a vote,
//! entries that it acknowledges. And what a leader sends has to be harmless to followers that believe
//! more than it says: it reaches the first entry of the leader's term, and commits no further than
//! it reaches.
//!
//! What was said is remembered across the lives of a node: at each start the disk is held against it.

use dq_raft::{AppendEntriesResult, Driver, Message};

/// What a node's disk holds, as its log writer reported it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct OnDisk {
    /// The current term.
    pub(crate) term: u64,
    /// The vote in it; 0 for none.
    pub(crate) vote: u64,
    /// The last entry, or the snapshot's, that no outstanding work removes or replaces.
    pub(crate) certain: u64,
}

/// What a node has said in all its lives.
#[derive(Debug, Default)]
pub(crate) struct Said {
    /// The highest term.
    term: u64,
    /// Its last vote: the term and for whom.
    vote: Option<(u64, u64)>,
    /// The last entry that it acknowledged, and that entry's term.
    stored: Option<(u64, u64)>,
    /// The last entry that it has applied: as a leader it acknowledges its own to nobody.
    applied: u64,
}

/// The term that a message claims as its sender's.
fn claimed_term(message: &Message) -> u64 {
    match message {
        Message::AppendEntries(m) => m.term,
        Message::AppendEntriesResult(m) => m.term,
        Message::RequestVote(m) if !m.pre_vote => m.term,
        Message::RequestVoteResult(m) if m.own_term || m.pre_vote != Some(true) => m.term,
        Message::InstallSnapshot { term, .. } | Message::TimeoutNow { term, .. } => *term,
        // Pre-votes are about terms to be.
        Message::RequestVote(_) | Message::RequestVoteResult(_) => 0,
    }
}

impl Said {
    /// A message leaves.
    pub(crate) fn sends(
        &mut self,
        to: u64,
        message: &Message,
        driver: &Driver,
        disk: OnDisk,
        stored_in: impl Fn(u64) -> u64,
    ) -> Result<(), String> {
        let term = claimed_term(message);
        if term > disk.term {
            return Err(format!(
                "speaks of term {term}, its disk knows {}: {message:?}",
                disk.term
            ));
        }
        self.term = self.term.max(term);
        match message {
            Message::AppendEntries(m) => {
                let (end, first) = (m.end(), driver.term_start().unwrap_or(0));
                if driver.term() == m.term && end < first {
                    return Err(format!(
                        "sends an append that ends at {end}, before {first}, where its term begins"
                    ));
                }
                if m.leader_commit > end {
                    let commit = m.leader_commit;
                    return Err(format!(
                        "sends an append that ends at {end} and commits {commit}"
                    ));
                }
            }
            Message::AppendEntriesResult(AppendEntriesResult {
                term: answered,
                rejected: 0,
                last_index,
                ..
            }) => {
                let stored = match term == driver.term() {
                    true => disk.certain,
                    // Its leader has been deposed, and the entry may have been replaced meanwhile: this
                    // is no more than an answer that was on its way for long.
                    false => stored_in(term),
                };
                if *last_index > stored {
                    return Err(format!("acknowledges {last_index}, its disk has {stored}"));
                }
                // An answer to an earlier leader may leave when the next one has already replaced the entry.
                if let Some(term) = driver.term_at(*last_index)
                    && term <= *answered
                    && self.stored.is_none_or(|(index, _)| index <= *last_index)
                {
                    self.stored = Some((*last_index, term));
                }
            }
            Message::RequestVoteResult(m) if m.granted && m.pre_vote != Some(true) => {
                if disk.term == m.term && disk.vote != to {
                    return Err(format!(
                        "votes for {to} in term {term}, its disk says {}",
                        disk.vote
                    ));
                }
                self.vote = Some((m.term, to));
            }
            _ => {}
        }
        Ok(())
    }

    /// A node has stepped: entries that a leader has cut off need not be there any more.
    pub(crate) fn stepped(&mut self, driver: &Driver) {
        if self.lacks(driver).is_some() {
            self.stored = None;
        }
        self.applied = self.applied.max(driver.applied_index());
    }

    /// What it acknowledged and does not have.
    fn lacks(&self, driver: &Driver) -> Option<u64> {
        let (index, term) = self.stored?;
        let other = driver.term_at(index).is_some_and(|found| found != term);
        (driver.last_index() < index || other).then_some(index)
    }

    /// Entries from this one on may be lost: every other node has them.
    pub(crate) fn excuse(&mut self, from: u64) {
        self.stored = self.stored.filter(|(index, _)| *index < from);
        self.applied = self.applied.min(from - 1);
    }

    /// A node has read its disk.
    pub(crate) fn started(&self, driver: &Driver, disk: OnDisk) -> Result<(), String> {
        if disk.term < self.term {
            return Err(format!(
                "comes back in term {}, it has spoken of term {}",
                disk.term, self.term
            ));
        }
        if let Some((term, to)) = self.vote
            && disk.term == term
            && disk.vote != to
        {
            return Err(format!("has forgotten its vote for {to} in term {term}"));
        }
        if driver.last_index() < self.applied {
            let applied = self.applied;
            return Err(format!(
                "has applied entry {applied} and comes back without it"
            ));
        }
        match self.lacks(driver) {
            Some(index) => Err(format!(
                "acknowledged entry {index} and comes back without it"
            )),
            None => Ok(()),
        }
    }
}
