//! What the event loop is to a node, in small and without threads: connections whose clients may not
//! read, jobs and disk work that can be put off, peers that hear what the node says, a clock that is told.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use dq_raft::log::writer::WriterOptions;
use dq_raft::sim_disk::{Loss, SimDisk};
use dq_raft::{
    Compression, DataDir, DiskError, Driver, LogReader, LogWriter, Message, Options, ReadMode,
    ReadOptions, RecoverOptions, SnapshotMeta, SnapshotReader, Usage,
};
use dq_server::RoleTargets;
use dq_server::config::Settings;
use dq_server::exec::{Finished, Job};
use dq_server::fsm::{self, Images};
use dq_server::node::{Input, Machine, Output, Polled, Start};
use dq_vfs::Vfs;

use crate::reached::Reached;
pub use client::{exec, opening, query};
pub use followers::{Answer, encoded, hello};
use wire::Wire;

mod client;
mod followers;
mod jobs;
mod wire;
mod world;

/// Bound on what requests of all connections may take in a harness, and answers.
pub const MEMORY_MAX: usize = 1 << 20;

/// Largest request body.
const REQUEST_MAX: u64 = 2 << 20;

/// Messages that peers have been sent and not answered, at most.
const SAID_MAX: usize = 16;

/// How a node is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setup {
    /// Its id.
    pub id: u64,
    /// An empty disk becomes a cluster of its own.
    pub bootstrap: bool,
    /// Followers promise not to vote.
    pub lease: bool,
    /// Snapshots are compressed.
    pub compress: bool,
    /// The leader manages roles.
    pub roles: bool,
    /// Snapshots are frequent, and so little of the log is kept that followers are served from disk, or
    /// get a snapshot.
    pub short_log: bool,
}

impl Setup {
    /// What a byte chooses.
    pub fn of(byte: u8, bootstrap: bool) -> Setup {
        Setup {
            id: 1,
            bootstrap,
            lease: byte & 1 != 0,
            compress: byte & 2 == 0,
            roles: byte & 4 != 0,
            short_log: byte & 8 != 0,
        }
    }

    fn recover_options(self) -> RecoverOptions {
        RecoverOptions {
            writer: WriterOptions {
                segment_size: 1 << 18,
                prepared_count: 2,
            },
            ..RecoverOptions::default()
        }
    }

    fn compression(self) -> Compression {
        match self.compress {
            true => Compression::Lz4,
            false => Compression::Raw,
        }
    }
}

/// A node and what is around it.
pub struct Shell {
    /// The node.
    pub machine: Machine,
    /// Jobs are run when asked for, else at once.
    pub defer_jobs: bool,
    /// Disk work is reported when asked for, else at once.
    pub defer_disk: bool,
    /// Why the node takes part no longer.
    pub fatal: Option<String>,
    /// What has happened.
    pub reached: Reached,
    /// What the node has said to peers, and they have not answered.
    pub said: VecDeque<(u64, Message)>,
    setup: Setup,
    disk: SimDisk,
    writer: LogWriter<SimDisk>,
    reader: LogReader<SimDisk>,
    dir: DataDir<SimDisk>,
    vfs: Arc<Vfs>,
    now: u64,
    wires: BTreeMap<u64, Wire>,
    next: u64,
    jobs: VecDeque<(u64, Box<Job>)>,
    durable: VecDeque<u64>,
    written: VecDeque<Box<SnapshotMeta>>,
    arriving: BTreeMap<u64, world::Arriving>,
    polls: VecDeque<Vec<(u64, String)>>,
    out: VecDeque<Output>,
}

/// SQLite's VFS, of which a process needs one.
pub fn vfs() -> Arc<Vfs> {
    static VFS: OnceLock<Arc<Vfs>> = OnceLock::new();
    let register = || Vfs::register().expect("SQLite starts");
    VFS.get_or_init(register).clone()
}

impl Shell {
    /// A node on an empty disk.
    pub fn start(setup: Setup) -> Shell {
        Shell::open(SimDisk::new(), setup, 1000).expect("an empty disk is sound")
    }

    /// A node on a disk; what is wrong if it does not start.
    pub fn open(disk: SimDisk, setup: Setup, now: u64) -> Result<Shell, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let dir = DataDir::with_disk(disk.clone()).map_err(|error| text(&error))?;
        let recover = setup.recover_options();
        let (mut recovered, mut writer) = dir.recover(&recover).map_err(|error| text(&error))?;
        if setup.bootstrap && recovered.term == 0 {
            drop(writer);
            dir.bootstrap(setup.id, "1", &recover)
                .map_err(|error| text(&error))?;
            (recovered, writer) = dir.recover(&recover).map_err(|error| text(&error))?;
        }
        let databases = match &recovered.snapshot {
            None => Images::new(),
            Some(meta) => {
                let mut reader = SnapshotReader::open(&disk, meta).map_err(|error| text(&error))?;
                fsm::read_snapshot(&mut reader).map_err(|error| text(&error))?
            }
        };
        let options = Options {
            id: setup.id,
            election_timeout_ms: 1000,
            heartbeat_ms: 100,
            seed: 1,
            log_bytes_max: if setup.short_log { 0 } else { 1 << 22 },
        };
        let promise = ReadOptions::promise_ms(&options);
        let snapshot = recovered.snapshot.clone();
        let reads = match setup.lease {
            true => ReadOptions {
                mode: ReadMode::Lease,
                promise_found_ms: promise,
                promise_bound_ms: promise,
            },
            false => ReadOptions {
                mode: ReadMode::Quorum,
                promise_found_ms: 0,
                promise_bound_ms: 0,
            },
        };
        let driver = Driver::new(options, recovered)
            .map_err(|error| text(&error))?
            .with_reads(reads);
        let vfs = vfs();
        let machine = Machine::new(Start {
            settings: settings(setup),
            vfs: vfs.clone(),
            driver,
            databases,
            snapshot,
        });
        let mut shell = Shell {
            machine,
            defer_jobs: false,
            defer_disk: false,
            fatal: None,
            reached: Reached::default(),
            said: VecDeque::new(),
            setup,
            reader: LogReader::new(disk.clone()),
            disk,
            writer,
            dir,
            vfs,
            now,
            wires: BTreeMap::new(),
            next: 2,
            jobs: VecDeque::new(),
            durable: VecDeque::new(),
            written: VecDeque::new(),
            arriving: BTreeMap::new(),
            polls: VecDeque::new(),
            out: VecDeque::new(),
        };
        shell.machine.start(shell.now, &mut shell.out);
        shell.carry_out();
        shell.turn();
        Ok(shell)
    }

    /// The same node, after the power was cut: what it had not made durable is lost.
    ///
    /// # Panics
    /// If what it has left on its disk does not open.
    pub fn reopened(&self) -> Shell {
        let disk = self.disk.fork();
        disk.power_cut(Loss::Everything);
        Shell::open(disk, self.setup, self.now).expect("a node can read what it has written")
    }

    /// A sole voter finds on its disk what it holds.
    ///
    /// # Panics
    /// If it finds something else, or does not lead.
    pub fn starts_again(&self) {
        let mut again = self.reopened();
        // It may have promised not to vote.
        again.pass(10_000);
        again.settle();
        assert!(again.machine.status().leading);
        let (had, found) = (self.contents(), again.contents());
        let names = |contents: &BTreeMap<Bytes, Vec<u8>>| {
            let sizes = contents.iter();
            let sizes = sizes.map(|(name, pages)| (name.clone(), pages.len()));
            sizes.collect::<Vec<_>>()
        };
        assert_eq!(names(&found), names(&had), "a start finds other databases");
        assert!(found == had, "a start finds other pages");
    }

    /// The power is cut, and the node starts again; all connections are gone.
    pub fn restart(&mut self) {
        let mut again = self.reopened();
        again.reached.add(&self.reached);
        again.reached.note("restart");
        *self = again;
    }

    /// The files on its disk.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        self.disk.files()
    }

    /// The databases of more than the page that opening one makes, with all their pages.
    pub fn contents(&self) -> BTreeMap<Bytes, Vec<u8>> {
        let databases = self.machine.databases();
        databases
            .filter(|(_, version)| version.page_count() > 1)
            .map(|(name, version)| {
                let pages = version.pages().flat_map(|page| page.as_ref());
                (name.clone(), pages.copied().collect())
            })
            .collect()
    }

    /// A new connection, of a client.
    pub fn connect(&mut self) -> u64 {
        self.accept(None)
    }

    /// A new connection, of a node.
    pub fn connect_peer(&mut self, peer: u64) -> u64 {
        self.accept(Some(peer))
    }

    fn accept(&mut self, peer: Option<u64>) -> u64 {
        let id = self.next;
        self.next += 1;
        self.wires.insert(id, Wire::new(peer));
        self.step(Input::Accepted(id));
        id
    }

    /// Ids of the open connections.
    pub fn connections(&self) -> Vec<u64> {
        self.wires.keys().copied().collect()
    }

    /// An open connection of a node.
    pub fn connection_of(&self, peer: u64) -> Option<u64> {
        let mut wires = self.wires.iter();
        wires
            .find(|(_, wire)| wire.peer == Some(peer))
            .map(|(id, _)| *id)
    }

    /// Bytes from the other side; kept back while the node does not want to read.
    pub fn send(&mut self, id: u64, bytes: &[u8]) {
        let Some(wire) = self.wires.get_mut(&id) else {
            return;
        };
        if wire.paused || !wire.inbox.is_empty() {
            // As much as a kernel would take.
            if wire.inbox.iter().map(Bytes::len).sum::<usize>() < 1 << 18 {
                wire.inbox.push_back(Bytes::copy_from_slice(bytes));
            }
            return;
        }
        self.step(Input::Bytes(id, bytes));
    }

    /// The other side sends no more.
    pub fn end_sending(&mut self, id: u64) {
        if self.wires.get(&id).is_some_and(|wire| !wire.paused) {
            self.step(Input::Eof(id));
        }
    }

    /// The other side is gone.
    pub fn close(&mut self, id: u64) {
        if self.wires.remove(&id).is_some() {
            self.arriving.remove(&id);
            self.step(Input::Closed(id));
        }
    }

    /// The client begins to read, or stops.
    pub fn read(&mut self, id: u64, reading: bool) {
        if let Some(wire) = self.wires.get_mut(&id) {
            wire.reading = reading;
            if reading && std::mem::take(&mut wire.notify) {
                self.step(Input::Drained(id));
            }
        }
    }

    /// Types of the answers that a client has had since it was last asked.
    pub fn answers(&mut self, id: u64) -> Vec<u8> {
        self.wires
            .get_mut(&id)
            .map(|wire| std::mem::take(&mut wire.kinds))
            .unwrap_or_default()
    }

    /// The disk becomes full, or is so no more.
    pub fn disk_full(&mut self, full: bool) {
        self.step(Input::DiskFull(full));
    }

    /// A stream to a peer opens or breaks.
    pub fn peer(&mut self, id: u64, connected: bool) {
        self.step(match connected {
            true => Input::PeerConnected(id),
            false => Input::PeerLost(id),
        });
    }

    /// A snapshot on its way to a peer makes progress, or has come to its end.
    pub fn snapshot_sent(&mut self, id: u64, sent: Option<bool>) {
        self.step(match sent {
            None => Input::SnapshotProgress(id),
            Some(sent) => Input::SnapshotSent(id, sent),
        });
    }

    /// The members that were asked how they are answer, each as told; false if none were asked.
    pub fn answer_poll(&mut self, mut answer: impl FnMut(u64) -> Option<(u64, u64)>) -> bool {
        let Some(members) = self.polls.pop_front() else {
            return false;
        };
        let polled = |(id, _)| Polled {
            id,
            answer: answer(id),
        };
        let answers = members.into_iter().map(polled).collect();
        self.step(Input::Polled(answers));
        true
    }

    /// The node is asked to give leadership away.
    pub fn hand_over(&mut self) {
        self.step(Input::HandOver);
    }

    /// Time passes; what is due happens.
    pub fn pass(&mut self, ms: u64) {
        let until = self.now + ms;
        while self.fatal.is_none() && self.machine.deadline() <= until {
            self.now = self.now.max(self.machine.deadline());
            let before = self.machine.deadline();
            self.step(Input::Deadline);
            self.turn();
            if self.machine.deadline() <= before {
                // What is due may stay due until something else happens.
                break;
            }
        }
        self.now = until;
        self.turn();
    }

    /// A turn of the loop ends.
    pub fn turn(&mut self) {
        self.step(Input::TurnEnd);
    }

    /// A job that was put off, for somebody else to run.
    pub fn take_job(&mut self) -> Option<(u64, Box<Job>)> {
        self.jobs.pop_front()
    }

    /// It is back.
    pub fn job_is_back(&mut self, id: u64, finished: Finished) {
        self.step(Input::Finished(id, Box::new(finished)));
    }

    /// Runs a job that was put off.
    pub fn run_job(&mut self) -> bool {
        let Some((id, job)) = self.jobs.pop_front() else {
            return false;
        };
        let finished = Box::new(jobs::run(*job));
        self.step(Input::Finished(id, finished));
        true
    }

    /// Reports disk work that was put off.
    pub fn finish_disk(&mut self) -> bool {
        if let Some(id) = self.durable.pop_front() {
            self.step(Input::Durable(id));
        } else if let Some(meta) = self.written.pop_front() {
            self.step(Input::SnapshotWritten(meta, true));
        } else {
            return false;
        }
        true
    }

    /// Puts nothing off any more, and lets everything come to its end.
    pub fn settle(&mut self) {
        self.defer_jobs = false;
        self.defer_disk = false;
        self.disk_full(false);
        for _ in 0..4 {
            while self.run_job() || self.finish_disk() {}
            self.turn();
        }
    }

    fn step(&mut self, input: Input<'_>) {
        self.machine.step(self.now, input, &mut self.out);
        self.carry_out();
        let status = self.machine.status();
        let held = status.client_memory;
        // Both bounds, one answer that is let through alone, and the last read.
        assert!(
            held <= 2 * MEMORY_MAX + (5 << 20),
            "clients hold {held} bytes"
        );
        self.machine.usage(|Usage { what, held, bound }| {
            assert!(held <= bound, "{held} {what}, the bound is {bound}");
        });
        assert!(status.applied_index <= status.commit_index);
        assert!(status.commit_index <= status.last_index);
    }
}

fn settings(setup: Setup) -> Settings {
    let mut settings = Settings::new(setup.id, "1");
    settings.client_memory_max = MEMORY_MAX;
    settings.request_bytes_max = REQUEST_MAX;
    settings.transaction_bytes_max = 4 << 20;
    settings.speculative_bytes_max = 2 << 20;
    settings.old_pages_max = 4 << 20;
    let entries = if setup.short_log { 3 } else { 16 };
    settings.snapshot_threshold = entries;
    settings.snapshot_trailing = entries;
    settings.roles = setup.roles.then(RoleTargets::default);
    settings
}

/// The disk of a harness works, but for what a peer makes the node do with names that exist already.
fn works<T>(done: Result<T, DiskError>) -> T {
    done.unwrap_or_else(|error| panic!("the disk works, but: {error}"))
}
