//! The background threads: writing snapshots, sending them to peers, and reading entries of the log
//! that are in memory no more.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, unbounded};
use dq_raft::{Compression, FsDisk, LogRange, LogReader, Message, SnapshotMeta};
use dq_vfs::Version;

use super::dial::{Introduction, Way};
use super::log_writer::LogQueue;
use super::mailbox::{Mail, Mailbox};
use super::peers::Peers;
use crate::fsm::{self, Databases};
use crate::peers;
use crate::promise;

/// Bytes of a snapshot sent at a time.
const CHUNK_BYTES: usize = 256 * 1024;

/// How often the node hears that a snapshot makes progress.
const PROGRESS: Duration = Duration::from_secs(1);

/// A peer that takes nothing of a snapshot for so long does not get it.
const STALL: Duration = Duration::from_secs(30);

/// Writes snapshots, one at a time, and starts a thread for each one that is sent.
#[derive(Debug)]
pub struct Background {
    disk: FsDisk,
    mailbox: Mailbox,
    work: Option<Sender<(Box<SnapshotMeta>, Databases)>>,
    thread: Option<JoinHandle<()>>,
    /// The thread that reads the log, from the first time on that a follower lags.
    reads: Option<(Sender<LogRange>, JoinHandle<()>)>,
    /// The thread that stores a bound on promises, or did.
    promise: Option<JoinHandle<()>>,
    /// Snapshots that are being sent, or have been, by peer; true stops it.
    sending: BTreeMap<u64, Arc<AtomicBool>>,
}

impl Background {
    /// Starts the thread. Snapshots are written to `disk` under temporary names, and published by
    /// the log writer, in order with what the log does.
    pub fn start(
        disk: FsDisk,
        compression: Compression,
        log: LogQueue,
        mailbox: Mailbox,
    ) -> io::Result<Background> {
        let (work, queue) = unbounded::<(Box<SnapshotMeta>, Databases)>();
        let target = disk.clone();
        let report = mailbox.clone();
        let thread = std::thread::Builder::new()
            .name("dq-snapshot".to_owned())
            .spawn(move || {
                for (meta, databases) in queue {
                    let index = meta.index;
                    let failed = meta.clone();
                    let written = fsm::write_snapshot(&target, *meta, &databases, compression);
                    // The versions go before the report, so that their memory is free when it arrives.
                    drop(databases);
                    match written {
                        Ok(meta) => log.publish(Box::new(meta)),
                        Err(error) => {
                            log::error!("snapshot at {index}: {error}");
                            report.send(Mail::SnapshotWritten(failed, false));
                        }
                    }
                }
            })?;
        Ok(Background {
            disk,
            mailbox,
            work: Some(work),
            thread: Some(thread),
            reads: None,
            promise: None,
            sending: BTreeMap::new(),
        })
    }

    /// Reads entries of the log, and reports them. The node asks for no more at a time than it has
    /// followers.
    pub fn read_log(&mut self, range: LogRange) {
        if self.reads.is_none() {
            self.reads = self.start_reading();
        }
        match &self.reads {
            Some((reads, _)) => {
                // The thread lives as long as the sender.
                let _ = reads.send(range);
            }
            None => self.mailbox.send(Mail::LogRead(range, None)),
        }
    }

    fn start_reading(&self) -> Option<(Sender<LogRange>, JoinHandle<()>)> {
        let (reads, queue) = unbounded();
        let mut reader = LogReader::new(self.disk.clone());
        let mailbox = self.mailbox.clone();
        let read = move || {
            for range in queue {
                let entries = reader.read(range);
                if let Err(error) = &entries {
                    log::warn!("entries {} to {}: {error}", range.first, range.last);
                }
                mailbox.send(Mail::LogRead(range, entries.ok()));
            }
        };
        let thread = std::thread::Builder::new().name("dq-read".to_owned());
        match thread.spawn(read) {
            Ok(thread) => Some((reads, thread)),
            Err(error) => {
                log::warn!("no thread to read the log: {error}");
                None
            }
        }
    }

    /// Queues a snapshot; the node asks for one at a time.
    pub fn snapshot(&self, meta: Box<SnapshotMeta>, databases: Databases) {
        if let Some(work) = &self.work {
            // The thread lives as long as the sender.
            let _ = work.send((meta, databases));
        }
    }

    /// Makes another bound on promises durable; nobody asks for a second one before the answer. Without
    /// one there are no promises, and reads ask a majority.
    pub fn store_promise(&mut self, bound_ms: u64) {
        let (disk, mailbox) = (self.disk.clone(), self.mailbox.clone());
        let store = move || match promise::store(&disk, bound_ms) {
            Ok(()) => mailbox.send(Mail::PromiseStored(bound_ms)),
            Err(error) => log::warn!("no other promise than before is given: {error}"),
        };
        let thread = std::thread::Builder::new().name("dq-promise".to_owned());
        match thread.spawn(store) {
            Ok(thread) => self.promise = Some(thread),
            Err(error) => log::warn!("no thread to store a promise: {error}"),
        }
    }

    /// Lets go of versions, off the loop: freeing a large database takes a while.
    pub fn release(&self, versions: Vec<Version>) {
        // Without a thread they are freed right here.
        let _ = std::thread::Builder::new()
            .name("dq-release".to_owned())
            .spawn(move || drop(versions));
    }

    /// Sends a snapshot to a peer, on a thread and a stream of its own. One that is still being sent
    /// to the same peer is given up.
    pub fn send_snapshot(
        &mut self,
        peers: &Peers,
        to: u64,
        address: &str,
        term: u64,
        meta: SnapshotMeta,
    ) {
        let (way, us, mailbox) = peers.snapshot_stream();
        let (disk, address) = (self.disk.clone(), address.to_owned());
        let report = mailbox.clone();
        self.cancel_snapshot(to);
        let cancelled = Arc::new(AtomicBool::new(false));
        self.sending.insert(to, cancelled.clone());
        let spawned = std::thread::Builder::new()
            .name(format!("dq-send-{to}"))
            .spawn(move || {
                let index = meta.index;
                let mut sending = Sending {
                    to,
                    mailbox: &mailbox,
                    cancelled: &cancelled,
                    reported: Instant::now(),
                    unreadable: false,
                };
                let sent = sending.send(&disk, &way, &us, &address, term, meta);
                if cancelled.load(Ordering::Relaxed) {
                    return;
                }
                match &sent {
                    Ok(()) => log::info!("snapshot at {index} sent to peer {to}"),
                    Err(error) => log::warn!("snapshot at {index} to peer {to}: {error}"),
                }
                if sending.unreadable {
                    mailbox.send(Mail::SnapshotUnreadable(index));
                }
                mailbox.send(Mail::SnapshotSent(to, sent.is_ok()));
            });
        if let Err(error) = spawned {
            log::warn!("snapshot to peer {to}: {error}");
            report.send(Mail::SnapshotSent(to, false));
        }
    }

    /// Nobody waits any more for what is being sent to this peer.
    pub fn cancel_snapshot(&mut self, to: u64) {
        if let Some(cancelled) = self.sending.remove(&to) {
            cancelled.store(true, Ordering::Relaxed);
        }
    }

    /// Waits for what is at work.
    pub fn stop(&mut self) {
        for cancelled in self.sending.values() {
            cancelled.store(true, Ordering::Relaxed);
        }
        if let Some((reads, thread)) = self.reads.take() {
            drop(reads);
            let _ = thread.join();
        }
        if let Some(thread) = self.promise.take() {
            let _ = thread.join();
        }
        self.work = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A snapshot on its way to a peer.
struct Sending<'a> {
    to: u64,
    mailbox: &'a Mailbox,
    cancelled: &'a AtomicBool,
    reported: Instant,
    /// It is the disk that does not give it back.
    unreadable: bool,
}

impl Sending<'_> {
    fn send(
        &mut self,
        disk: &FsDisk,
        way: &Way,
        us: &Introduction,
        address: &str,
        term: u64,
        meta: SnapshotMeta,
    ) -> io::Result<()> {
        // Nobody minds if the file is gone: then there is a newer one.
        self.unreadable = true;
        let mut reader = fsm::open_to_send(disk, &meta).map_err(io::Error::other)?;
        self.unreadable = false;
        let size = reader.size();
        let head = peers::encode(&Message::InstallSnapshot { term, meta }, size)
            .ok_or_else(|| io::Error::other("larger than peers accept"))?;
        log::info!("snapshot of {size} bytes goes to peer {}", self.to);
        let mut stream = way.introduce(address, us)?;
        stream.limit(PROGRESS, STALL)?;
        for piece in head {
            stream.write_all(&piece)?;
        }
        let mut way_is_open = true;
        let handed_on = fsm::hand_on_snapshot(&mut reader, CHUNK_BYTES, |piece| {
            let written = stream.write_all(piece).and_then(|()| self.progress());
            way_is_open = written.is_ok();
            written
        });
        self.unreadable = way_is_open && handed_on.is_err();
        handed_on?;
        let mut chunk = [0; 256];
        // The peer reads to the end before it sees ours. One of our kind closes its side when it has
        // checked and taken what it got; a C node does so at once.
        stream.finish()?;
        loop {
            match stream.read(&mut chunk) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_timeout(&error) => {}
                // It has been read to the end or not: the peer's answer tells, or that none comes.
                Err(_) => return Ok(()),
            }
            self.progress()?;
        }
    }

    /// Tells the node now and then that this goes on.
    fn progress(&mut self) -> io::Result<()> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(io::Error::other("nobody waits for it any more"));
        }
        if self.reported.elapsed() >= PROGRESS {
            self.reported = Instant::now();
            self.mailbox.send(Mail::SnapshotProgress(self.to));
        }
        Ok(())
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}
