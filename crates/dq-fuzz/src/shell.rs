//! What the event loop is to a node, in small and without threads: connections whose clients may not
//! read, jobs and disk work that can be put off, a clock that is told.

use std::collections::{BTreeMap, VecDeque};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use dq_raft::log::writer::WriterOptions;
use dq_raft::sim_disk::SimDisk;
use dq_raft::{
    Compression, DataDir, Driver, LogReader, LogWriter, Options, ReadMode, ReadOptions,
    RecoverOptions, SnapshotMeta, SnapshotWriter,
};
use dq_server::config::Settings;
use dq_server::exec::{self, Job};
use dq_server::fsm::{self, Databases};
use dq_server::node::{Input, Machine, Output, Start};
use dq_vfs::{InterruptHandle, Vfs};
use dq_wire::header::Header;
use dq_wire::response::Response;

/// Bound on what requests of all connections may take in a harness, and answers.
pub const MEMORY_MAX: usize = 1 << 20;

/// Largest request body.
const REQUEST_MAX: u64 = 2 << 20;

/// Longest time for a job; then it is interrupted.
const JOB_TIME: Duration = Duration::from_secs(2);

/// A connection as the outside sees it.
#[derive(Debug, Default)]
struct Wire {
    /// What was sent to the node and it does not want to read now.
    inbox: VecDeque<Bytes>,
    paused: bool,
    /// Answers of which the end is still to come.
    partial: Vec<u8>,
    /// Types of whole answers.
    kinds: Vec<u8>,
    /// A notice is owed when the client reads.
    notify: bool,
    /// The client reads.
    reading: bool,
    /// Nothing is decoded: the other side is a node.
    opaque: bool,
}

/// A snapshot that arrives.
#[derive(Debug)]
struct Arriving {
    meta: SnapshotMeta,
    size: u64,
    data: Vec<u8>,
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
    arriving: BTreeMap<u64, Arriving>,
    out: VecDeque<Output>,
}

/// SQLite's VFS, of which a process needs one.
pub fn vfs() -> Arc<Vfs> {
    static VFS: OnceLock<Arc<Vfs>> = OnceLock::new();
    let register = || Vfs::register().expect("SQLite starts");
    VFS.get_or_init(register).clone()
}

impl Shell {
    /// A node with id 1 on a disk; with `bootstrap`, an empty disk becomes a cluster of its own.
    pub fn start(disk: SimDisk, bootstrap: bool) -> Shell {
        let vfs = vfs();
        let dir = DataDir::with_disk(disk.clone()).expect("nobody has locked it");
        let recover = RecoverOptions {
            writer: WriterOptions {
                segment_size: 1 << 18,
                prepared_count: 2,
            },
            ..RecoverOptions::default()
        };
        if bootstrap {
            dir.bootstrap(1, "1", &recover).expect("it is empty");
        }
        let (recovered, writer) = dir.recover(&recover).expect("it is sound");
        let options = Options {
            id: 1,
            election_timeout_ms: 1000,
            heartbeat_ms: 100,
            seed: 1,
            log_bytes_max: 1 << 22,
        };
        let driver = Driver::new(options, recovered)
            .expect("it is sound")
            .with_reads(ReadOptions {
                mode: ReadMode::Quorum,
                promise_found_ms: 0,
                promise_bound_ms: 0,
            });
        let mut settings = Settings::new(1, "1");
        settings.client_memory_max = MEMORY_MAX;
        settings.request_bytes_max = REQUEST_MAX;
        settings.transaction_bytes_max = 4 << 20;
        settings.speculative_bytes_max = 2 << 20;
        settings.snapshot_threshold = 16;
        settings.snapshot_trailing = 16;
        let machine = Machine::new(Start {
            settings,
            vfs: vfs.clone(),
            driver,
            databases: fsm::Images::new(),
            snapshot: None,
        });
        let mut shell = Shell {
            machine,
            defer_jobs: false,
            defer_disk: false,
            fatal: None,
            writer,
            reader: LogReader::new(disk),
            dir,
            vfs,
            now: 1000,
            wires: BTreeMap::new(),
            next: 2,
            jobs: VecDeque::new(),
            durable: VecDeque::new(),
            written: VecDeque::new(),
            arriving: BTreeMap::new(),
            out: VecDeque::new(),
        };
        shell.machine.start(shell.now, &mut shell.out);
        shell.carry_out();
        shell.turn();
        shell
    }

    /// A new connection, of a client or, with `opaque`, of a node.
    pub fn connect(&mut self, opaque: bool) -> u64 {
        let id = self.next;
        self.next += 1;
        let wire = Wire {
            reading: true,
            opaque,
            ..Wire::default()
        };
        self.wires.insert(id, wire);
        self.step(Input::Accepted(id));
        id
    }

    /// Ids of the open connections.
    pub fn connections(&self) -> Vec<u64> {
        self.wires.keys().copied().collect()
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

    /// Runs a job that was put off.
    pub fn run_job(&mut self) -> bool {
        let Some((id, job)) = self.jobs.pop_front() else {
            return false;
        };
        let finished = Box::new(run(*job));
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
        let held = self.machine.status().client_memory;
        // Both bounds, one answer that is let through alone, and the last read.
        assert!(
            held <= 2 * MEMORY_MAX + (5 << 20),
            "clients hold {held} bytes"
        );
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.out.pop_front() {
            self.output(output);
        }
    }

    fn again(&mut self, input: Input<'_>) {
        self.machine.step(self.now, input, &mut self.out);
    }

    fn output(&mut self, output: Output) {
        match output {
            Output::Send {
                conn,
                pieces,
                notify,
            } => {
                let Some(wire) = self.wires.get_mut(&conn) else {
                    return;
                };
                wire.take(&pieces);
                if notify && wire.reading {
                    self.again(Input::Drained(conn));
                } else {
                    wire.notify |= notify;
                }
            }
            Output::Close(conn) | Output::Cut(conn) => {
                self.wires.remove(&conn);
                self.arriving.remove(&conn);
            }
            Output::Pause(conn) => self.pause(conn, true),
            Output::Resume(conn) => self.pause(conn, false),
            Output::Execute(conn, job) if job.inline => {
                let finished = Box::new(run(*job));
                self.again(Input::Finished(conn, finished));
            }
            Output::Execute(conn, job) => {
                self.jobs.push_back((conn, job));
                if !self.defer_jobs
                    && let Some((conn, job)) = self.jobs.pop_front()
                {
                    let finished = Box::new(run(*job));
                    self.again(Input::Finished(conn, finished));
                }
            }
            Output::Persist(persist) => {
                let id = self.writer.write(&[persist]).expect("the disk works");
                self.durable.push_back(id);
                if !self.defer_disk
                    && let Some(id) = self.durable.pop_back()
                {
                    self.durable.clear();
                    self.again(Input::Durable(id));
                }
            }
            Output::ReadLog(range) => {
                let entries = self.reader.read(range).ok();
                self.again(Input::LogRead(range, entries));
            }
            Output::Snapshot(meta, databases) => {
                let disk = self.dir.disk();
                let meta = fsm::write_snapshot(disk, *meta, &databases, Compression::Lz4)
                    .expect("the disk works");
                self.writer.publish_snapshot(&meta).expect("the disk works");
                self.written.push_back(Box::new(meta));
                if !self.defer_disk
                    && let Some(meta) = self.written.pop_front()
                {
                    self.again(Input::SnapshotWritten(meta, true));
                }
            }
            Output::ReceiveSnapshot(conn, meta, size) => {
                let arriving = Arriving {
                    meta: *meta,
                    size,
                    data: Vec::new(),
                };
                self.arriving.insert(conn, arriving);
                self.arrived(conn);
            }
            Output::SnapshotData(conn, bytes) => {
                if let Some(arriving) = self.arriving.get_mut(&conn) {
                    arriving.data.extend_from_slice(&bytes);
                    self.again(Input::SnapshotStored(conn, bytes.len()));
                    self.arrived(conn);
                }
            }
            Output::Fatal(why) => self.fatal = Some(why),
            Output::SendPeer { .. }
            | Output::Discard(_)
            | Output::CancelSnapshot(_)
            | Output::Release(_)
            | Output::Poll(_)
            | Output::HandedOver(_) => {}
        }
    }

    fn pause(&mut self, conn: u64, paused: bool) {
        let Some(wire) = self.wires.get_mut(&conn) else {
            return;
        };
        wire.paused = paused;
        while let Some(wire) = self.wires.get_mut(&conn)
            && !wire.paused
            && let Some(bytes) = wire.inbox.pop_front()
        {
            self.again(Input::Bytes(conn, &bytes));
        }
    }

    /// Checks a snapshot that has arrived whole, as the receiver does.
    fn arrived(&mut self, conn: u64) {
        let whole = |arriving: &Arriving| arriving.data.len() as u64 >= arriving.size;
        if !self.arriving.get(&conn).is_some_and(whole) {
            return;
        }
        let Some(arriving) = self.arriving.remove(&conn) else {
            return;
        };
        let received = Box::new(self.store(arriving));
        self.again(Input::SnapshotReceived(conn, received));
    }

    fn store(&self, arriving: Arriving) -> Result<(SnapshotMeta, Databases), String> {
        let Arriving { meta, size, data } = arriving;
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let disk = self.dir.disk().clone();
        let mut writer =
            SnapshotWriter::create(disk, meta, size, Compression::Lz4).map_err(|e| text(&e))?;
        writer.write(&data).map_err(|e| text(&e))?;
        let images = fsm::read_snapshot(&mut &data[..]).map_err(|e| text(&e))?;
        let databases = fsm::check_images(images, &self.vfs)?;
        let meta = writer.finish().map_err(|e| text(&e))?;
        Ok((meta, databases))
    }
}

impl Wire {
    /// Answers have to be whole messages that can be decoded.
    fn take(&mut self, pieces: &[Bytes]) {
        if self.opaque {
            return;
        }
        for piece in pieces {
            self.partial.extend_from_slice(piece);
        }
        let mut at = 0;
        while let Ok(header) = Header::decode(&self.partial[at..]) {
            let size = usize::try_from(header.body_size()).expect("answers fit in memory");
            let start = at + Header::SIZE;
            let Some(body) = self.partial.get(start..start + size) else {
                break;
            };
            // Those two depend on what was asked, and how.
            let plain = !matches!(header.kind, 1 | 3);
            if let (true, Err(error)) = (plain, Response::decode(&header, body)) {
                panic!(
                    "an answer of type {} cannot be decoded: {error}",
                    header.kind
                );
            }
            self.kinds.push(header.kind);
            at = start + size;
        }
        self.partial.drain(..at);
    }
}

/// Runs a job, and interrupts it if it takes too long.
fn run(mut job: Job) -> exec::Finished {
    if job.inline {
        return exec::run(job);
    }
    type Watched = (InterruptHandle, Arc<Mutex<bool>>);
    static WATCH: OnceLock<Sender<Watched>> = OnceLock::new();
    let watch = WATCH.get_or_init(|| {
        let (sender, jobs) = channel::<Watched>();
        std::thread::spawn(move || {
            for (handle, done) in jobs {
                for _ in 0..JOB_TIME.as_millis() / 10 {
                    if *done.lock().expect("nobody panics with it") {
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(10));
                }
                while !*done.lock().expect("nobody panics with it") {
                    handle.interrupt();
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
        });
        sender
    });
    let done = Arc::new(Mutex::new(false));
    let handle = job.handle.db().interrupt_handle();
    // The thread lives as long as the process.
    let _ = watch.send((handle, done.clone()));
    let finished = exec::run(job);
    *done.lock().expect("nobody panics with it") = true;
    finished
}
