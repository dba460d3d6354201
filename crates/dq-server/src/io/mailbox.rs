//! How other threads talk to the event loop: a queue and a waker.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, unbounded};
use dq_raft::{LogEntry, LogRange, SnapshotMeta};
use mio::Waker;

use super::dial::Link;
use super::handshakes::Secured;
use crate::conn::ConnId;
use crate::exec::Finished;
use crate::fsm::Databases;
use crate::metrics::Metrics;
use crate::node::{Polled, Status};

/// A report or a wish. The queue is bounded by what the loop has asked for: one report a job, disk
/// batch or snapshot.
#[derive(Debug)]
pub enum Mail {
    /// Disk work up to this id is durable, and making it so took this many microseconds.
    Durable(u64, u64),
    /// The disk failed; the node ends.
    DiskFailed(String),
    /// The disk has no space for more of the log, or has it again.
    DiskFull(bool),
    /// Entries of the log were read back, or could not be.
    LogRead(LogRange, Option<Vec<LogEntry>>),
    /// A worker has run a job.
    Finished(ConnId, Box<Finished>),
    /// A snapshot was written, or not.
    SnapshotWritten(Box<SnapshotMeta>, bool),
    /// A dial of this peer, the n-th of all, has ended.
    Dialled(u64, u64, std::io::Result<Link>),
    /// The TLS handshake of a connection is over; it has one that is secured, or there is none any more.
    Secured(Option<Box<Secured>>),
    /// Sending a snapshot to this peer makes progress.
    SnapshotProgress(u64),
    /// A snapshot was sent to this peer, or not.
    SnapshotSent(u64, bool),
    /// The snapshot at this index could not be read to be sent.
    SnapshotUnreadable(u64),
    /// This bound on promises is durable.
    PromiseStored(u64),
    /// This much of a snapshot that arrives on a connection is stored.
    SnapshotStored(ConnId, usize),
    /// It is stored and read, or of no use.
    SnapshotReceived(ConnId, Box<Result<(SnapshotMeta, Databases), String>>),
    /// What members answered.
    Polled(Vec<Polled>),
    /// Somebody wants this node to lead no more, and waits to hear whether that worked.
    HandOver(Sender<bool>),
    /// Somebody asks how the node is.
    Status(Sender<Status>),
    /// Somebody asks for everything that is counted.
    Metrics(Sender<Box<Metrics>>),
    /// From now on DESCRIBE reports this failure domain.
    FailureDomain(u64),
    /// From now on writers wait so many milliseconds for another connection's transaction.
    BusyTimeout(u64),
    /// Stop.
    Stop,
}

/// The sending side; cheap to clone.
#[derive(Debug, Clone)]
pub struct Mailbox {
    sender: Sender<Mail>,
    waker: Arc<Waker>,
}

impl Mailbox {
    /// A mailbox that wakes with `waker`, and its receiving side.
    pub fn new(waker: Waker) -> (Mailbox, Receiver<Mail>) {
        let (sender, receiver) = unbounded();
        (
            Mailbox {
                sender,
                waker: Arc::new(waker),
            },
            receiver,
        )
    }

    /// Leaves mail. After the loop has ended there is nobody to read it, which is no error.
    pub fn send(&self, mail: Mail) {
        if self.sender.send(mail).is_ok()
            && let Err(error) = self.waker.wake()
        {
            log::error!("cannot wake the event loop: {error}");
        }
    }
}
