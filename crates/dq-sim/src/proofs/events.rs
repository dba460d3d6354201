//! What is going to happen.

use dq_raft::Message;

pub(super) enum Event {
    Deliver {
        from: u64,
        to: u64,
        life: u64,
        message: Message,
    },
    Disk {
        id: u64,
        life: u64,
    },
    /// Another bound on promises is durable.
    Bound {
        id: u64,
        life: u64,
        bound_ms: u64,
    },
    Start {
        id: u64,
    },
    /// A cut is over: the sender has a new connection.
    Reconnect {
        from: u64,
        to: u64,
    },
    /// A read arrives at a node that did not run when it was sent.
    Ask {
        id: u64,
        at_least: u64,
    },
    Read,
    Write,
    Fault,
}

impl Event {
    /// The node that has to run for it.
    pub(super) fn runs_on(&self) -> Option<u64> {
        match self {
            Event::Deliver { to, .. } => Some(*to),
            Event::Disk { id, .. } | Event::Bound { id, .. } | Event::Ask { id, .. } => Some(*id),
            Event::Reconnect { from, .. } => Some(*from),
            Event::Start { .. } | Event::Read | Event::Write | Event::Fault => None,
        }
    }
}

/// Events of the same time happen in the order in which they were scheduled.
pub(super) struct Scheduled {
    pub(super) at: u64,
    pub(super) order: u64,
    pub(super) event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Scheduled) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Scheduled) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Scheduled) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}
