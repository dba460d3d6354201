//! Carrying out what the node wants.

use bytes::BytesMut;
use dq_raft::{DiskOp, Message, RaftRole, SnapshotMeta, SnapshotReader, SnapshotWriter};
use dq_server::fsm::{self, Databases};
use dq_server::node::{Input, Output};
use dq_server::peers::{self, Received};

use super::{SAID_MAX, Shell, jobs, works};

/// A snapshot that arrives.
#[derive(Debug)]
pub(super) struct Arriving {
    meta: SnapshotMeta,
    size: u64,
    data: Vec<u8>,
}

impl Shell {
    pub(super) fn carry_out(&mut self) {
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
                wire.take(&pieces, &mut self.reached);
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
            Output::Pause(conn) => {
                self.reached.note("connection paused");
                self.pause(conn, true);
            }
            Output::Resume(conn) => self.pause(conn, false),
            Output::Execute(conn, job) if job.inline => {
                let finished = Box::new(jobs::run(*job));
                self.again(Input::Finished(conn, finished));
            }
            Output::Execute(conn, job) => {
                self.reached.note("job for a worker");
                self.jobs.push_back((conn, job));
                if !self.defer_jobs
                    && let Some((conn, job)) = self.jobs.pop_front()
                {
                    let finished = Box::new(jobs::run(*job));
                    self.again(Input::Finished(conn, finished));
                }
            }
            Output::Persist(persist) => {
                for op in &persist.ops {
                    self.reached.note(match op {
                        DiskOp::HardState { .. } => "disk: term and vote",
                        DiskOp::Truncate { .. } => "disk: truncate",
                        DiskOp::Append { .. } => "disk: append",
                        DiskOp::InstallSnapshot { .. } => "disk: install a snapshot",
                        DiskOp::Prune { .. } => "disk: prune",
                    });
                }
                let id = works(self.writer.write(&[persist]));
                self.durable.push_back(id);
                if !self.defer_disk
                    && let Some(id) = self.durable.pop_back()
                {
                    self.durable.clear();
                    self.again(Input::Durable(id));
                }
            }
            Output::ReadLog(range) => {
                self.reached.note("log read back");
                let entries = self.reader.read(range).ok();
                self.again(Input::LogRead(range, entries));
            }
            Output::Snapshot(meta, databases) => {
                self.reached.note("snapshot taken");
                let compression = self.setup.compression();
                let meta = fsm::write_snapshot(self.dir.disk(), *meta, &databases, compression)
                    .expect("the disk works");
                works(self.writer.publish_snapshot(&meta));
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
            Output::SendPeer { to, message, .. } => self.carry_to_peer(to, message),
            Output::Poll(members) => {
                self.reached.note("members asked how they are");
                self.polls.push_back(members);
            }
            Output::Fatal(why) => {
                self.reached.note("gave up");
                self.fatal = Some(why);
            }
            Output::HandedOver(done) => self.reached.note(match done {
                true => "leadership handed over",
                false => "leadership not handed over",
            }),
            Output::Discard(meta) => {
                self.reached.note("snapshot discarded");
                dq_raft::discard_snapshot(self.dir.disk(), &meta);
            }
            Output::CancelSnapshot(_) | Output::Release(_) => {}
        }
    }

    /// What is said to a peer is what it can read, down to the last byte of a snapshot.
    fn carry_to_peer(&mut self, to: u64, message: Message) {
        let mut size = 0;
        self.reached.note(match &message {
            Message::AppendEntries(m) if m.entries.is_empty() => "said: heartbeat",
            Message::AppendEntries(_) => "said: entries",
            Message::AppendEntriesResult(m) if m.rejected == 0 => "said: entries taken",
            Message::AppendEntriesResult(_) => "said: entries refused",
            Message::RequestVote(m) if m.pre_vote => "said: would you vote",
            Message::RequestVote(_) => "said: vote",
            Message::RequestVoteResult(m) if m.granted => "said: vote granted",
            Message::RequestVoteResult(_) => "said: vote refused",
            Message::InstallSnapshot { .. } => "said: snapshot",
            Message::TimeoutNow { .. } => "said: take over",
        });
        if self.machine.driver().role() == RaftRole::Leader {
            self.reached.note("led others");
        }
        if let Message::InstallSnapshot { meta, .. } = &message {
            // It may have been replaced by a newer one since.
            if let Ok(mut reader) = SnapshotReader::open(self.dir.disk(), meta) {
                size = reader.size();
                fsm::read_snapshot(&mut reader).expect("a snapshot on disk is sound");
            }
        }
        let pieces = peers::encode(&message, size).expect("peers accept what is sent");
        let mut bytes = BytesMut::from(&pieces.concat()[..]);
        let taken = peers::take(&mut bytes).expect("peers can read it");
        match (taken, &message) {
            (Some(Received::Message(taken)), said) => assert_eq!(taken, *said),
            (
                Some(Received::Snapshot { term, .. }),
                Message::InstallSnapshot { term: said, .. },
            ) => {
                assert_eq!(term, *said);
            }
            (taken, said) => panic!("{said:?} is read as {taken:?}"),
        }
        assert!(bytes.is_empty());
        if self.said.len() == SAID_MAX {
            self.said.pop_front();
        }
        self.said.push_back((to, message));
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
        self.reached.note(match *received {
            Ok(_) => "snapshot arrived",
            Err(_) => "snapshot refused",
        });
        self.again(Input::SnapshotReceived(conn, received));
    }

    fn store(&self, arriving: Arriving) -> Result<(SnapshotMeta, Databases), String> {
        let Arriving { meta, size, data } = arriving;
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let images = fsm::read_snapshot(&mut &data[..]).map_err(|e| text(&e))?;
        let databases = fsm::check_images(images, &self.vfs)?;
        let disk = self.dir.disk().clone();
        let mut writer = SnapshotWriter::create(disk, meta, size, self.setup.compression())
            .map_err(|e| text(&e))?;
        writer.write(&data).map_err(|e| text(&e))?;
        let meta = writer.finish().map_err(|e| text(&e))?;
        Ok((meta, databases))
    }
}
