//! What will happen, in the order of time, and at the same time in the order in which it was scheduled.
//!
//! Most of what is scheduled far ahead never happens: a client waits for an answer no longer than its
//! patience, and has it long before. So only what comes soon is kept in order, the rest in heaps by time.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap};

use super::Event;

/// Microseconds of what is kept together, as a power of two.
const SPAN: u32 = 14;

/// The queue of events.
#[derive(Default)]
pub(super) struct Events {
    /// The number of the span that is under way.
    span: u64,
    /// What happens in it, in order.
    soon: BinaryHeap<Scheduled>,
    /// What happens in later ones.
    later: BTreeMap<u64, Vec<Scheduled>>,
    scheduled: u64,
}

struct Scheduled {
    time: u64,
    number: u64,
    event: Event,
}

impl Events {
    /// Adds an event, which is not before the one that was taken last.
    pub(super) fn push(&mut self, time: u64, event: Event) {
        self.scheduled += 1;
        let scheduled = Scheduled {
            time,
            number: self.scheduled,
            event,
        };
        match time >> SPAN {
            span if span <= self.span => self.soon.push(scheduled),
            span => self.later.entry(span).or_default().push(scheduled),
        }
    }

    /// Takes the next one, and its time.
    pub(super) fn pop(&mut self) -> Option<(u64, Event)> {
        while self.soon.is_empty() {
            let (span, events) = self.later.pop_first()?;
            self.span = span;
            self.soon = events.into();
        }
        let Scheduled { time, event, .. } = self.soon.pop()?;
        Some((time, event))
    }
}

impl Ord for Scheduled {
    /// The next one is the greatest.
    fn cmp(&self, other: &Scheduled) -> Ordering {
        (other.time, other.number).cmp(&(self.time, self.number))
    }
}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Scheduled) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Scheduled) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Scheduled {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn events_come_by_time_and_then_in_the_order_in_which_they_were_scheduled() {
        let mut rng = Rng::new(1);
        let mut events = Events::default();
        let mut expected = BTreeMap::new();
        let (mut now, mut last) = (0, 0);
        let mut taken = 0;
        while taken < 20_000 {
            for _ in 0..rng.below(3) {
                let far = rng.pick(&[0, 3, 1 << 10, 1 << SPAN, 1 << 20, 1 << 26]);
                let time = now + rng.below(far);
                last += 1;
                events.push(time, Event::Turn(last));
                expected.insert((time, last), last);
            }
            match (events.pop(), expected.pop_first()) {
                (Some((time, Event::Turn(number))), Some(((at, _), wanted))) => {
                    assert_eq!((time, number), (at, wanted));
                    now = time;
                    taken += 1;
                }
                (None, None) => {}
                _ => panic!("one of them has nothing left, or something else"),
            }
        }
        assert!(now > 100 << SPAN, "{now} is no test");
    }
}
