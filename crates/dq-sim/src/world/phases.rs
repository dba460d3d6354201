//! From the forming of the cluster to the last comparison.

use super::*;

impl World {
    pub(super) fn enter(&mut self, phase: Phase) {
        self.trace(|| format!("phase {phase:?}"));
        self.shared.borrow_mut().phase = phase;
        self.phase_since = self.now;
    }

    pub(super) fn next_phase(&mut self) {
        self.after(10 * MS, Event::Phase);
        self.go_on_replacing();
        let age = self.now - self.phase_since;
        let phase = self.shared.borrow().phase;
        match phase {
            Phase::Setup => {
                let timely = self.takes("forming", age, self.until_formed());
                if self.shared.borrow().formed {
                    self.enter(Phase::Chaos);
                    self.spawn_workloads();
                    self.workers = self.tasks.len();
                    self.after(1, Event::Fault);
                } else if !timely {
                    self.fail("the cluster was not formed in time".to_owned());
                }
            }
            Phase::Chaos => {
                self.look_for_progress();
                if age >= self.plan.chaos {
                    self.heal();
                    self.enter(Phase::Healing);
                    self.shared.borrow_mut().answered.fill(0);
                }
            }
            Phase::Healing => {
                self.look_for_leader();
                let timely = self.takes("answers for all", age, self.until_answered());
                let (restored, idle) = {
                    let shared = self.shared.borrow();
                    // The first client is the one that administers.
                    let idle = shared.answered[1..self.workers]
                        .iter()
                        .position(|count| *count == 0);
                    (shared.restored, idle)
                };
                if restored && idle.is_none() && self.led && self.is_undamaged() {
                    self.enter(Phase::Stopping);
                } else if !timely {
                    self.fail(format!(
                        "no progress after all faults had ended: restored {restored}, idle client {idle:?}, all disks \
                         in order {}",
                        self.is_undamaged()
                    ));
                }
            }
            Phase::Stopping => {
                let timely = self.takes("the clients' ends", age, self.until_ended());
                if self.shared.borrow().ended + 1 >= self.tasks.len() {
                    self.enter(Phase::Verify);
                } else if !timely {
                    self.fail("a client does not end".to_owned());
                }
            }
            Phase::Verify => {
                let timely = self.takes("equal nodes", age, self.until_settled());
                if self.shared.borrow().verified && self.is_settled() {
                    self.finish();
                } else if !timely {
                    let states: Vec<String> = self.nodes.iter().map(Slot::state).collect();
                    let verified = self.shared.borrow().verified;
                    self.fail(format!(
                        "the nodes do not come together, verified {verified}: {}",
                        states.join("; ")
                    ));
                }
            }
            Phase::Done => {}
        }
    }

    /// Whether all nodes have applied the same, and that is all there is.
    pub(super) fn is_settled(&self) -> bool {
        let mut states = self.nodes.iter().map(Slot::settled_at);
        let first = states.next().flatten();
        first.is_some() && states.all(|state| state == first)
    }

    pub(super) fn finish(&mut self) {
        self.enter(Phase::Done);
        let ours = self.nodes.iter().filter_map(|slot| slot.process.as_ref());
        let ours = ours.map(|process| process.machine.databases().collect());
        let c = self.nodes.iter().filter_map(|slot| slot.c.as_ref());
        let c = c.map(|process| process.databases.iter().collect());
        let all: Vec<Vec<(&Bytes, &Version)>> = ours.chain(c).collect();
        let pages = Checks::compare_pages(&all, &self.vfs);
        drop(all);
        if let Err(why) = pages {
            self.fail(why);
        }
        self.check_history();
    }

    pub(super) fn check_history(&mut self) {
        let wrong = self.shared.borrow().history.check();
        for why in wrong {
            self.fail(why);
        }
    }
}
