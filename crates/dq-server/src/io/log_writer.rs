//! The log writer: makes disk work durable, in order, as much as has queued up at a time.
//!
//! While one `fdatasync` runs, what other clients wrote piles up and shares the next one. That is
//! the group commit, and the reason why the event loop never waits for a disk.

use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, unbounded};
use dq_raft::{DiskError, FsDisk, LogWriter, Persist, Prepared, SnapshotMeta};

use super::clock::now_micros;
use super::mailbox::{Mail, Mailbox};

/// Time between two looks for space on a full disk.
const SPACE_RETRY: Duration = Duration::from_secs(1);

/// Work taken in one go, so that memory and the time to the first report stay bounded.
const BATCHES: usize = 1024;

#[derive(Debug)]
enum Work {
    Persist(Persist),
    Publish(Box<SnapshotMeta>),
    Stop,
}

/// For others who have work for the log writer.
#[derive(Debug, Clone)]
pub struct LogQueue(Sender<Work>);

impl LogQueue {
    /// Makes a snapshot out of files that were written under temporary names.
    pub fn publish(&self, meta: Box<SnapshotMeta>) {
        // A thread that has ended has reported why.
        let _ = self.0.send(Work::Publish(meta));
    }
}

/// The thread, and what it has been asked for.
#[derive(Debug)]
pub struct LogWriterThread {
    work: Sender<Work>,
    thread: Option<JoinHandle<LogWriter<FsDisk>>>,
    asked: u64,
    done: u64,
}

impl LogWriterThread {
    /// Starts the thread.
    pub fn start(writer: LogWriter<FsDisk>, mailbox: Mailbox) -> std::io::Result<LogWriterThread> {
        let (work, queue) = unbounded();
        let thread = std::thread::Builder::new()
            .name("dq-log".to_owned())
            .spawn(move || write_until_closed(writer, &queue, &mailbox))?;
        Ok(LogWriterThread {
            work,
            thread: Some(thread),
            asked: 0,
            done: 0,
        })
    }

    /// A queue to the thread.
    pub fn queue(&self) -> LogQueue {
        LogQueue(self.work.clone())
    }

    /// Queues work. What can be queued is bounded by what the node lets clients write ahead.
    pub fn persist(&mut self, persist: Persist) {
        self.asked = persist.id;
        // A thread that has ended has reported why.
        let _ = self.work.send(Work::Persist(persist));
    }

    /// Everything up to `id` was reported durable.
    pub fn completed(&mut self, id: u64) {
        self.done = id;
    }

    /// Whether work is under way.
    pub fn is_busy(&self) -> bool {
        self.done < self.asked
    }

    /// Pieces of work that are not reported durable.
    pub fn queued(&self) -> u64 {
        self.asked.saturating_sub(self.done)
    }

    /// Lets what is queued be written, then closes the log if it is sound.
    pub fn stop(&mut self, sound: bool) -> Result<(), String> {
        let _ = self.work.send(Work::Stop);
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        match thread.join() {
            Ok(writer) if sound => writer.close().map_err(|error| error.to_string()),
            Ok(_) => Ok(()),
            Err(_) => Err("the log writer panicked".to_owned()),
        }
    }
}

fn write_until_closed(
    mut writer: LogWriter<FsDisk>,
    queue: &Receiver<Work>,
    mailbox: &Mailbox,
) -> LogWriter<FsDisk> {
    // A failed write or sync is final: what is in the page cache may be lost, and only a restart
    // that reads the disk can tell.
    if let Err(error) = write_all(&mut writer, queue, mailbox) {
        mailbox.send(Mail::DiskFailed(error.to_string()));
    }
    writer
}

fn write_all(
    writer: &mut LogWriter<FsDisk>,
    queue: &Receiver<Work>,
    mailbox: &Mailbox,
) -> Result<(), DiskError> {
    let mut batch = Vec::new();
    let mut stopping = false;
    let mut full = false;
    while !stopping {
        let mut next = match queue.try_recv() {
            Ok(work) => work,
            Err(TryRecvError::Disconnected) => return Ok(()),
            Err(TryRecvError::Empty) => {
                // Nothing to do: a good time to set space aside for what is to come. Without it
                // the node stops taking writes while what is set aside still suffices for those
                // that it has taken, and asks again until there is some.
                let prepared = writer.prepare()?;
                if prepared == Prepared::Unfinished {
                    continue;
                }
                let no_space = prepared == Prepared::NoSpace;
                if no_space != full {
                    full = no_space;
                    log::warn!(
                        "the disk {}",
                        if full { "is full" } else { "has space again" }
                    );
                    mailbox.send(Mail::DiskFull(full));
                }
                let wait = if full { SPACE_RETRY } else { Duration::MAX };
                match queue.recv_timeout(wait) {
                    Ok(work) => work,
                    Err(RecvTimeoutError::Timeout) => continue,
                    Err(RecvTimeoutError::Disconnected) => return Ok(()),
                }
            }
        };
        loop {
            match next {
                Work::Persist(persist) => batch.push(persist),
                Work::Stop => stopping = true,
                Work::Publish(meta) => {
                    writer.publish_snapshot(&meta)?;
                    mailbox.send(Mail::SnapshotWritten(meta, true));
                }
            }
            if batch.len() >= BATCHES {
                break;
            }
            next = match queue.try_recv() {
                Ok(work) => work,
                Err(_) => break,
            };
        }
        if !batch.is_empty() {
            let began = now_micros();
            let id = writer.write(&batch)?;
            mailbox.send(Mail::Durable(id, now_micros().saturating_sub(began)));
            batch.clear();
        }
    }
    Ok(())
}
