//! Transactions that end: committed on request, else rolled back.

use std::ops::{Deref, DerefMut};

use crate::error::Result;
use crate::session::Session;

/// When a transaction takes the database's write lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TxMode {
    /// At its first write. It reads a snapshot until then, and fails with BUSY (code 517) at that
    /// write if somebody else has committed in between.
    #[default]
    Deferred,
    /// At once: no write of it fails because of others. The right choice for a transaction that
    /// will write.
    Immediate,
}

impl TxMode {
    pub(crate) fn sql(self) -> &'static str {
        match self {
            TxMode::Deferred => "BEGIN",
            TxMode::Immediate => "BEGIN IMMEDIATE",
        }
    }
}

/// An open transaction: the session it runs on, and its end.
///
/// Dropped without [`Transaction::commit`] it is rolled back. Do not end it by a COMMIT or ROLLBACK
/// of your own.
#[derive(Debug)]
pub struct Transaction<'s> {
    session: &'s mut Session,
    ended: bool,
}

impl<'s> Transaction<'s> {
    pub(crate) fn new(session: &'s mut Session) -> Transaction<'s> {
        Transaction {
            session,
            ended: false,
        }
    }

    /// Makes the changes durable on a majority of voters.
    ///
    /// # Errors
    /// The transaction is not open any more in any case; whether it was carried out is the error's
    /// [outcome](crate::Error::outcome).
    pub fn commit(mut self) -> Result<()> {
        self.ended = true;
        self.session.commit()
    }

    /// Undoes the changes; the same as dropping the transaction.
    pub fn rollback(self) {
        drop(self);
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.session.roll_back();
        }
    }
}

impl Deref for Transaction<'_> {
    type Target = Session;

    fn deref(&self) -> &Session {
        self.session
    }
}

impl DerefMut for Transaction<'_> {
    fn deref_mut(&mut self) -> &mut Session {
        self.session
    }
}
