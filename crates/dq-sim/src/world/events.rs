//! What will happen, in the order of time, and at the same time in the order in which it was scheduled.
//!
//! Somebody who waits changes his mind all the time: a client has its answer long before its patience is
//! over, a node that hears something sleeps anew. An [`Alarm`] remembers what was asked for, and only the
//! next times of it are events.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use super::Event;

/// The queue of events.
#[derive(Default)]
pub(super) struct Events {
    queue: BinaryHeap<Reverse<(u64, u64, usize)>>,
    /// What happens then, at the places that the queue says.
    events: Vec<Option<Event>>,
    /// Places of events that were taken.
    free: Vec<usize>,
    scheduled: u64,
    /// When the last event was taken, and its number.
    taken: (u64, u64),
}

/// When somebody is to be woken: any time that was asked for may be the one that counts.
#[derive(Debug, Default)]
pub(super) struct Alarm {
    /// Times that were asked for and have not come, and which event each would have been; in order.
    asked: VecDeque<(u64, u64)>,
    /// Those of which there is an event, the next one last.
    queued: Vec<u64>,
}

impl Alarm {
    /// The place of the first that is after `at`: most often one of the first, or behind the last.
    fn first_after(&self, at: (u64, u64)) -> usize {
        let is_before = |place: usize| self.asked.get(place).is_some_and(|asked| *asked <= at);
        if self.asked.back().is_none_or(|last| *last <= at) {
            return self.asked.len();
        }
        let (mut from, mut to) = (0, 1);
        while is_before(to - 1) {
            (from, to) = (to, 2 * to);
        }
        // What is before `from` is before it, and what is at `to - 1` is not.
        while from + 1 < to {
            let middle = from + (to - from) / 2;
            match is_before(middle - 1) {
                true => from = middle,
                false => to = middle,
            }
        }
        from
    }
}

impl Events {
    /// Adds an event, which is not before the one that was taken last.
    pub(super) fn push(&mut self, time: u64, event: Event) {
        self.scheduled += 1;
        self.push_at((time, self.scheduled), event);
    }

    fn push_at(&mut self, (time, number): (u64, u64), event: Event) {
        let place = match self.free.pop() {
            Some(place) => {
                self.events[place] = Some(event);
                place
            }
            None => {
                self.events.push(Some(event));
                self.events.len() - 1
            }
        };
        self.queue.push(Reverse((time, number, place)));
    }

    /// Takes the next one, and its time.
    pub(super) fn pop(&mut self) -> Option<(u64, Event)> {
        let Reverse((time, number, place)) = self.queue.pop()?;
        self.taken = (time, number);
        self.free.push(place);
        Some((time, self.events[place].take()?))
    }

    /// Asks for a time. The event comes then, or before.
    pub(super) fn ask(&mut self, alarm: &mut Alarm, time: u64, event: Event) {
        self.scheduled += 1;
        let at = (time, self.scheduled);
        let place = alarm.first_after(at);
        alarm.asked.insert(place, at);
        self.set(alarm, time, event);
    }

    /// The alarm's event was taken.
    pub(super) fn rings(&self, alarm: &mut Alarm) {
        alarm.queued.pop();
        while alarm
            .asked
            .front()
            .is_some_and(|asked| *asked <= self.taken)
        {
            alarm.asked.pop_front();
        }
    }

    /// Sees to it that the event comes at a time that was asked for, or before. It comes when the first
    /// event would have come that was asked for at this time.
    pub(super) fn set(&mut self, alarm: &mut Alarm, time: u64, event: Event) {
        if alarm.queued.last().is_some_and(|queued| *queued <= time) {
            return;
        }
        let first = self.taken.max((time, 0));
        let place = alarm.first_after(first);
        if let Some(at) = alarm.asked.get(place).filter(|at| at.0 == time) {
            alarm.queued.push(time);
            self.push_at(*at, event);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::rng::Rng;

    /// Somebody asks to be woken at some time, over and over, and the last time counts that he asked for.
    /// All events are in the queue, or only those that an alarm puts there: it makes no difference.
    #[test]
    fn an_alarm_wakes_as_if_every_time_that_was_asked_for_were_an_event() {
        const ALARM: usize = usize::MAX;
        let mut rng = Rng::new(1);
        let mut events = Events::default();
        let mut alarm = Alarm::default();
        let mut expected = BTreeMap::new();
        let (mut now, mut last, mut woken) = (0, 0, 0);
        let mut wanted = None;
        let mut push = |events: &mut Events, expected: &mut BTreeMap<_, _>, time| {
            last += 1;
            events.push(time, Event::Turn(last));
            expected.insert((time, events.scheduled), last);
        };
        for _ in 0..100_000 {
            // At least one: a run ends when there are no more events.
            let far = rng.pick(&[0, 3, 30, 1000]);
            push(&mut events, &mut expected, now + rng.below(far));
            if rng.below(3) > 0 {
                let far = rng.pick(&[1, 3, 30, 1000]);
                let time = now + rng.below(far);
                wanted = Some(time);
                events.ask(&mut alarm, time, Event::Turn(ALARM));
                expected.insert((time, events.scheduled), ALARM);
            }
            // What would have happened next, but for events of the alarm that wake nobody.
            let next = loop {
                let next = expected.pop_first();
                now = next.map_or(now, |((time, _), _)| time);
                match next {
                    Some(((time, _), ALARM)) if wanted != Some(time) => {}
                    next => break next,
                }
            };
            let found = loop {
                match events.pop() {
                    Some((time, Event::Turn(ALARM))) => {
                        events.rings(&mut alarm);
                        match wanted {
                            Some(at) if at == time => break Some((time, ALARM)),
                            Some(at) => events.set(&mut alarm, at, Event::Turn(ALARM)),
                            None => {}
                        }
                    }
                    Some((time, Event::Turn(number))) => break Some((time, number)),
                    _ => break None,
                }
            };
            assert_eq!(found, next.map(|((time, _), number)| (time, number)));
            if let Some((_, ALARM)) = found {
                wanted = None;
                woken += 1;
            }
        }
        assert!(woken > 10_000 && last > 10_000, "{woken} {last} is no test");
    }
}
