//! What the callbacks of one connection reach through their pointers.

use std::cell::{Cell, RefCell};

use crate::connection::Connection;
use crate::sqlite::interrupt::Ended;

/// Steps after which a statement without a budget looks whether it is to end: some hundred
/// microseconds.
const LOOK_STEPS: u64 = 20_000;

/// Lives in a box from before SQLite opens the database until after it has closed it. Used by one
/// thread at a time: whoever holds the handle's lock, and the callbacks that run inside its calls.
pub(crate) struct Shared {
    /// Borrowed within one callback or one method, never across a call into SQLite.
    pub(crate) connection: RefCell<Connection>,
    pub(crate) budget: Budget,
    pub(crate) ended: Ended,
    /// True if an ATTACH whose name is not written in the statement can only reach our VFS.
    pub(crate) allow_computed_attach: bool,
}

impl Shared {
    pub(crate) fn new(allow_computed_attach: bool) -> Shared {
        Shared {
            connection: RefCell::new(Connection::new()),
            budget: Budget::default(),
            ended: Ended::default(),
            allow_computed_attach,
        }
    }
}

/// Virtual machine steps that statements may still take.
#[derive(Default)]
pub(crate) struct Budget {
    left: Cell<Option<u64>>,
    /// Steps between two calls of the progress handler.
    period: Cell<u64>,
    over: Cell<bool>,
}

impl Budget {
    /// Sets the budget and returns how often SQLite is to call [`Budget::spend`], in steps.
    pub(crate) fn set(&self, steps: Option<u64>) -> i32 {
        self.over.set(false);
        self.left.set(steps);
        // Often enough to be exact within an eighth, seldom enough to cost nothing.
        let period = steps.map_or(LOOK_STEPS, |steps| (steps / 8).clamp(1, 1000));
        self.period.set(period);
        period as i32
    }

    /// One period has gone by; true if the statement must end.
    pub(crate) fn spend(&self) -> bool {
        let Some(left) = self.left.get() else {
            return false;
        };
        let left = left.saturating_sub(self.period.get());
        self.left.set(Some(left));
        if left == 0 {
            self.over.set(true);
        }
        left == 0
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over.get()
    }
}
