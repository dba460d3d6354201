//! Which faults, when and for how long: a function of a seed.
//!
//! The kinds are dealt like cards: each comes once, in random order, before any comes again. So also
//! a short run has most of them.

use std::fmt;
use std::time::Duration;

use crate::differential::rng::Rng;

/// Who it strikes. Who leads is known only when it happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The leader of the moment.
    Leader,
    /// The node that comes so many after the leader of the moment, from 1, in a circle.
    Follower(usize),
}

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// `kill -9`, and a start at the end.
    Kill(Target),
    /// All at once, and a start at the end.
    KillAll,
    /// SIGSTOP, for longer than the election timeout, and SIGCONT at the end.
    Freeze(Target),
    /// Other nodes do not hear from it nor it from them; clients reach it.
    CutFromNodes(Target),
    /// Nobody at all hears from it, nor it from anybody.
    CutFromAll(Target),
    /// Other nodes do not hear from it, but it hears from them.
    Mute(Target),
    /// It does not hear from other nodes, but they do from it.
    Deaf(Target),
    /// The leader and this many after it on one side, the other nodes on the other.
    Split(usize),
    /// Two nodes, neither of them the leader if there are three, do not hear each other.
    CutPair,
    /// Packets between all take longer, each another time.
    Slow {
        /// Milliseconds at least.
        delay_ms: u64,
        /// And up to so many more.
        jitter_ms: u64,
    },
    /// So many of a hundred packets get lost, everywhere.
    Lossy(usize),
    /// The file system of one node, always the same, is filled to the last byte.
    DiskFull,
}

impl Fault {
    /// Whether a node can be stopped and started meanwhile: nobody is down already, and clients reach all.
    pub fn lets_nodes_start(self) -> bool {
        matches!(
            self,
            Fault::CutFromNodes(_)
                | Fault::Mute(_)
                | Fault::Deaf(_)
                | Fault::Split(_)
                | Fault::CutPair
                | Fault::Slow { .. }
                | Fault::Lossy(_)
        )
    }
}

/// One fault: quiet before it, and how long it lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Everything is well for so long before.
    pub quiet: Duration,
    /// What happens then.
    pub fault: Fault,
    /// And for how long.
    pub lasting: Duration,
}

/// Faults for a cluster of `nodes`, until `length` has passed; `pace` times as fast as those of a pace of 1.
pub fn plan(seed: u64, nodes: usize, length: Duration, pace: u32) -> Vec<Step> {
    let mut rng = Rng::new(seed);
    let mut steps = Vec::new();
    let mut cards = Vec::new();
    let mut total = Duration::ZERO;
    loop {
        if cards.is_empty() {
            cards = deck(&mut rng, nodes);
        }
        let Some(fault) = cards.pop() else { break };
        let millis = |from: usize, to: usize, rng: &mut Rng| {
            Duration::from_millis((from + rng.below(to - from)) as u64) / pace
        };
        let step = Step {
            quiet: millis(500, 2000, &mut rng),
            fault,
            lasting: millis(1000, 3500, &mut rng),
        };
        total += step.quiet + step.lasting;
        if total > length {
            break;
        }
        steps.push(step);
    }
    steps
}

fn deck(rng: &mut Rng, nodes: usize) -> Vec<Fault> {
    let mut follower = || Target::Follower(1 + rng.below(nodes - 1));
    let mut cards = vec![
        Fault::Kill(Target::Leader),
        Fault::Kill(follower()),
        Fault::KillAll,
        Fault::Freeze(Target::Leader),
        Fault::Freeze(follower()),
        Fault::CutFromNodes(Target::Leader),
        Fault::CutFromNodes(follower()),
        Fault::CutFromAll(Target::Leader),
        Fault::Mute(Target::Leader),
        Fault::Mute(follower()),
        Fault::Deaf(Target::Leader),
        Fault::Deaf(follower()),
        Fault::CutPair,
        Fault::DiskFull,
    ];
    if nodes > 3 {
        cards.push(Fault::Split(rng.below(nodes - 1)));
    }
    cards.push(Fault::Slow {
        delay_ms: 1 + rng.below(30) as u64,
        jitter_ms: rng.below(40) as u64,
    });
    cards.push(Fault::Lossy(2 + rng.below(15)));
    for last in (1..cards.len()).rev() {
        cards.swap(last, rng.below(last + 1));
    }
    cards
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Step {
            quiet,
            fault,
            lasting,
        } = self;
        write!(f, "after {quiet:?}: {fault:?} for {lasting:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_plan_again_and_each_kind_comes_before_any_comes_twice() {
        let long = Duration::from_secs(3600);
        let steps = plan(7, 5, long, 1);
        assert_eq!(steps, plan(7, 5, long, 1));
        assert_ne!(steps, plan(8, 5, long, 1));
        let total: Duration = steps.iter().map(|step| step.quiet + step.lasting).sum();
        assert!(total <= long);
        let faster = plan(7, 5, long, 2);
        assert_eq!(faster[0].lasting * 2, steps[0].lasting);
        for cards in steps.chunks_exact(17) {
            let has = |wanted: Fault| cards.iter().filter(|step| step.fault == wanted).count();
            assert_eq!(has(Fault::KillAll), 1);
            assert_eq!(has(Fault::DiskFull), 1);
            assert_eq!(has(Fault::Freeze(Target::Leader)), 1);
        }
    }
}
