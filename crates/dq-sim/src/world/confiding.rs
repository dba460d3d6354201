//! Leaders that reach nobody but one follower, whose disk is at one piece of work meanwhile.
//!
//! ```text
//!   leader      A, to F only        B, to F only         A again, to all
//!   F's log     .. a                .. b                 .. a a'
//!   F's disk    at a, and at nothing else, until the third leader was heard
//! ```
//!
//! When that work is reported done, what it wrote is in the log and committed, and two pieces of work
//! that are to come remove it first. Leaders that are cut off at random take many thousand seeds to come
//! to this.

use super::*;

/// What is under way.
#[derive(Debug)]
pub(crate) struct Confiding {
    number: u64,
    follower: usize,
    /// The term of its last leader.
    term: u64,
    /// Who is cut off now.
    cut: u64,
    /// How many more leaders will be.
    left: u64,
    /// What the follower's disk is at now came before and may end.
    passes: bool,
}

impl World {
    /// Cuts the leader off from all but one follower.
    pub(crate) fn begin_confiding(&mut self, node: usize, leader: Option<usize>) -> bool {
        let count = self.nodes.len();
        let Some(leader) = leader.filter(|_| count > 2 && self.confiding.is_none()) else {
            return false;
        };
        let follower = match node == leader {
            true => (leader + 1) % count,
            false => node,
        };
        let (Some(follows), Some(leads)) =
            (&self.nodes[follower].process, &self.nodes[leader].process)
        else {
            return false;
        };
        let passes = follows.disk_running.is_some();
        let term = leads.machine.driver().term();
        let cut = self.cut_all_but(leader, follower);
        let number = cut;
        self.confiding = Some(Confiding {
            number,
            follower,
            term,
            cut,
            left: 1,
            passes,
        });
        let longest = 12 * self.plan.election_ms * MS;
        self.after(longest, Event::Relief(Relief::Thaw(number)));
        true
    }

    fn cut_all_but(&mut self, leader: usize, follower: usize) -> u64 {
        let count = self.nodes.len();
        self.cut_ways(|from, to| {
            let ends = [from, to];
            from.max(to) < count && ends.contains(&leader) && !ends.contains(&follower)
        })
    }

    /// This node leads: if it is news, it is cut off in place of the one before it, or is the last.
    pub(super) fn confide_next(&mut self, node: usize, term: u64) {
        let Some(confiding) = self.confiding.as_mut().filter(|c| c.term < term) else {
            return;
        };
        confiding.term = term;
        let (number, follower, before) = (confiding.number, confiding.follower, confiding.cut);
        if confiding.left == 0 || node == follower {
            let soon = self.rng.below(self.plan.election_ms * MS);
            return self.after(soon, Event::Relief(Relief::Thaw(number)));
        }
        confiding.left -= 1;
        self.net.mend(before);
        let cut = self.cut_all_but(node, follower);
        self.trace(|| format!("n{} confides in n{} only", node + 1, follower + 1));
        if let Some(confiding) = &mut self.confiding {
            confiding.cut = cut;
        }
    }

    pub(super) fn end_confiding(&mut self, number: u64) {
        if let Some(confiding) = self.confiding.take_if(|c| c.number == number) {
            self.trace(|| format!("n{}'s disk goes on", confiding.follower + 1));
            self.net.mend(confiding.cut);
        }
    }

    /// Whether the disk stays at what it is at.
    pub(super) fn is_frozen(&mut self, node: usize) -> bool {
        match &mut self.confiding {
            Some(confiding) if confiding.follower == node => !std::mem::take(&mut confiding.passes),
            _ => false,
        }
    }
}
