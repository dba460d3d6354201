//! The background threads: writing snapshots, sending them to peers, and reading entries of the log
//! that are in memory no more.

use std::io::{self, Read, Write};
use std::thread::JoinHandle;

use bytes::Bytes;
use crossbeam_channel::{Sender, unbounded};
use dq_raft::{Compression, FsDisk, LogRange, LogReader, Message, SnapshotMeta, SnapshotReader};
use dq_vfs::Version;

use super::dial::{Dial, Introduction, connect};
use super::log_writer::LogQueue;
use super::mailbox::{Mail, Mailbox};
use super::peers::Peers;
use crate::fsm;
use crate::peers;

type Databases = Vec<(Bytes, Version)>;

/// Bytes of a snapshot sent at a time.
const CHUNK_BYTES: usize = 256 * 1024;

/// Writes snapshots, one at a time, and starts a thread for each one that is sent.
#[derive(Debug)]
pub struct Background {
    disk: FsDisk,
    mailbox: Mailbox,
    work: Option<Sender<(Box<SnapshotMeta>, Databases)>>,
    thread: Option<JoinHandle<()>>,
    /// The thread that reads the log, from the first time on that a follower lags.
    reads: Option<(Sender<LogRange>, JoinHandle<()>)>,
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

    /// Sends a snapshot to a peer, on a thread and a stream of its own.
    pub fn send_snapshot(
        &self,
        peers: &Peers,
        to: u64,
        address: &str,
        term: u64,
        meta: SnapshotMeta,
    ) {
        let (dialer, us, mailbox) = peers.snapshot_stream();
        let (disk, address) = (self.disk.clone(), address.to_owned());
        let report = mailbox.clone();
        let spawned = std::thread::Builder::new()
            .name(format!("dq-send-{to}"))
            .spawn(move || {
                let index = meta.index;
                let sent = send(&disk, &*dialer, &us, &address, term, meta);
                if let Err(error) = &sent {
                    log::warn!("snapshot at {index} to peer {to}: {error}");
                }
                mailbox.send(Mail::SnapshotSent(to, sent.is_ok()));
            });
        if let Err(error) = spawned {
            log::warn!("snapshot to peer {to}: {error}");
            report.send(Mail::SnapshotSent(to, false));
        }
    }

    /// Waits for what is at work.
    pub fn stop(&mut self) {
        if let Some((reads, thread)) = self.reads.take() {
            drop(reads);
            let _ = thread.join();
        }
        self.work = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn send(
    disk: &FsDisk,
    dialer: &dyn Dial,
    us: &Introduction,
    address: &str,
    term: u64,
    meta: SnapshotMeta,
) -> io::Result<()> {
    let mut reader = SnapshotReader::open(disk, &meta).map_err(io::Error::other)?;
    let size = reader.size();
    let head = peers::encode(&Message::InstallSnapshot { term, meta }, size)
        .ok_or_else(|| io::Error::other("larger than peers accept"))?;
    let mut stream = connect(dialer, address, us)?;
    for piece in head {
        stream.write_all(&piece)?;
    }
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let count = reader.read(&mut chunk)?;
        if count == 0 {
            break;
        }
        stream.write_all(&chunk[..count])?;
    }
    // The peer reads to the end before it sees ours: closing does not cut it short.
    stream.shutdown(std::net::Shutdown::Write)
}
