//! Lives of nodes: boots, turns, what a step puts out, deaths.

use super::*;
use crate::files;

impl Slot {
    fn begin_life(&mut self) {
        self.life += 1;
        self.dies_in = None;
        self.turn_at = None;
    }
}

impl World {
    pub(super) fn boot(&mut self, node: usize) {
        self.nodes[node].booting = false;
        if self.nodes[node].runs() || self.is_outside(node) {
            return;
        }
        if self.nodes[node].is_c {
            self.nodes[node].begin_life();
            return self.c_boot(node);
        }
        self.look_for_damage(node);
        let divisor = match self.plan.retuned {
            true => self.rng.pick(&[1, 1, 4, 10]),
            false => 1,
        };
        let slot = &mut self.nodes[node];
        let before = slot.is_damaged().then(|| slot.disk.files());
        slot.begin_life();
        let booted = Process::boot(
            &slot.us, &self.plan, divisor, self.seed, &slot.disk, &self.vfs,
        );
        let mut process = match booted {
            Ok(process) => Box::new(process),
            Err(BootError::Disk(why)) => {
                self.trace(|| format!("n{} cannot start: {why}", node + 1));
                self.nodes[node].disk.power_cut(Loss::Nothing);
                return self.boot_in(node, SECOND);
            }
            Err(BootError::Corrupt(why)) => {
                if let Some(before) = before {
                    return self.refused(node, &before, &why);
                }
                return self.fail(format!("node {} does not start: {why}", node + 1));
            }
        };
        self.trace(|| format!("n{} starts, life {}", node + 1, self.nodes[node].life));
        if before.is_some() && !self.starts_all_the_same(node) {
            return;
        }
        let driver = process.machine.driver();
        self.checks.started(node, driver);
        let kept = files::check(&self.nodes[node].disk, driver, &BTreeSet::new())
            .and_then(|()| self.nodes[node].said.started(driver, process.on_disk()));
        if let Err(why) = kept {
            return self.fail(format!("node {}: {why}", node + 1));
        }
        let local = self.nodes[node].clock.millis(self.now);
        process.machine.start(local, &mut process.out);
        let flow = self.carry_out(node, &mut process);
        self.put_back(node, process, flow);
        self.schedule_turn(node);
    }

    pub(crate) fn boot_in(&mut self, node: usize, micros: u64) {
        if !self.nodes[node].booting {
            self.nodes[node].booting = true;
            self.after(micros, Event::Boot(node));
        }
    }

    /// Ends a node's life, and restarts it later.
    pub(crate) fn die(&mut self, node: usize, death: Death) {
        self.trace(|| format!("n{} dies: {death:?}", node + 1));
        let slot = &mut self.nodes[node];
        if let Some(process) = slot.process.take() {
            // What still runs on behalf of a dead process writes nothing any more.
            drop(process);
        }
        if slot.c.take().is_some() {
            slot.c_disk.crash(&mut self.rng);
        }
        let life = slot.life;
        slot.life += 1;
        slot.turn_at = None;
        slot.dies_in = None;
        if death != Death::Kill {
            let loss = match self.rng.below(4) {
                _ if death == Death::Blackout => Loss::Everything,
                0 => Loss::Everything,
                1 => Loss::AllAfter(self.rng.below(8) as usize),
                _ => Loss::Random(self.rng.bits()),
            };
            self.nodes[node].disk.power_cut(loss);
        }
        for id in self.net.links.ids() {
            let Some(link) = self.net.links.get_mut(id) else {
                continue;
            };
            for end in 0..2 {
                let ours = match link.ends[end] {
                    End::Accepted {
                        node: n, life: l, ..
                    }
                    | End::Outbound {
                        node: n, life: l, ..
                    } => (n, l) == (node, life),
                    End::Client(_) | End::Gone => false,
                };
                if ours {
                    link.ends[end] = End::Gone;
                    // A kernel tells the other side; a machine without power does not.
                    if death == Death::Kill {
                        let at = self.now + self.plan.delay.1;
                        self.events.push(at, Event::Broken(id, 1 - end));
                    }
                }
            }
        }
        let down = if std::mem::take(&mut self.nodes[node].hurries) {
            let later = self.rng.between(10, self.plan.election_ms) * MS;
            self.after(later, Event::Relief(Relief::Power(node)));
            self.rng.between(1, 5) * MS
        } else {
            self.rng.between(1, 2 * self.plan.election_ms) * MS
        };
        self.boot_in(node, down);
    }

    pub(super) fn put_back(
        &mut self,
        node: usize,
        process: Box<Process>,
        flow: ControlFlow<Death>,
    ) {
        self.nodes[node].process = Some(process);
        if let ControlFlow::Break(death) = flow {
            self.die(node, death);
        }
    }

    /// Puts something into a node's mail.
    pub(crate) fn post(&mut self, node: usize, mail: Mail) {
        if let Some(process) = &mut self.nodes[node].process {
            process.mail.push_back(mail);
            self.schedule_turn(node);
        }
    }

    pub(super) fn mail_after(&mut self, micros: u64, node: usize, mail: Mail) {
        let life = self.nodes[node].life;
        self.after(micros, Event::Mail(node, life, Box::new(mail)));
    }

    pub(crate) fn schedule_turn(&mut self, node: usize) {
        let slot = &mut self.nodes[node];
        let deadline = match (&slot.process, &slot.c) {
            (Some(process), _) if process.mail.is_empty() => Some(process.machine.deadline()),
            (None, Some(c)) if c.mail.is_empty() => Some(c.node.deadline()),
            (None, None) => return,
            _ => None,
        };
        let due = match deadline {
            Some(deadline) => slot.clock.time_of(deadline),
            None => self.now + TURN,
        };
        let due = due.max(self.now).max(slot.paused_until);
        if slot.turn_at.is_none_or(|at| at > due) {
            slot.turn_at = Some(due);
            self.events.ask(&mut slot.alarm, due, Event::Turn(node));
        }
    }

    pub(super) fn turn(&mut self, node: usize) {
        let slot = &mut self.nodes[node];
        self.events.rings(&mut slot.alarm);
        match slot.turn_at {
            Some(at) if at == self.now => slot.turn_at = None,
            Some(at) => return self.events.set(&mut slot.alarm, at, Event::Turn(node)),
            None => return,
        }
        if slot.paused_until > self.now {
            return self.schedule_turn(node);
        }
        if slot.is_c {
            return self.c_turn(node);
        }
        let Some(mut process) = slot.process.take() else {
            return;
        };
        let flow = self.whole_turn(node, &mut process);
        self.put_back(node, process, flow);
        self.schedule_turn(node);
    }

    pub(super) fn whole_turn(&mut self, node: usize, process: &mut Process) -> ControlFlow<Death> {
        for _ in 0..process.mail.len() {
            if let Some(mail) = process.mail.pop_front() {
                self.take_mail(node, process, mail)?;
            }
        }
        let local = self.nodes[node].clock.millis(self.now);
        if process.machine.deadline() <= local {
            self.step(node, process, Input::Deadline)?;
        }
        self.step(node, process, Input::TurnEnd)?;
        if !process.storing_promise
            && let Some(bound_ms) = process.machine.promise_bound_to_store()
        {
            process.storing_promise = true;
            let later = self.disk_time(node);
            self.after(later, Event::Promise(node, self.nodes[node].life, bound_ms));
        }
        self.look_at_files(node, process);
        ControlFlow::Continue(())
    }

    /// Compares the directory of a node whose disk is idle with what the node needs.
    fn look_at_files(&mut self, node: usize, process: &mut Process) {
        if process.disk_running.is_some() || !process.files_changed {
            return;
        }
        process.files_changed = false;
        let arrived = process.machine.arrived().map(files::name_of);
        let temporary = arrived.chain(process.in_transit.iter().copied()).collect();
        let driver = process.machine.driver();
        if let Err(why) = files::check(&self.nodes[node].disk, driver, &temporary) {
            self.fail(format!("node {}: {why}", node + 1));
        }
    }

    pub(super) fn take_mail(
        &mut self,
        node: usize,
        process: &mut Process,
        mail: Mail,
    ) -> ControlFlow<Death> {
        let input = match mail {
            Mail::Accepted(conn) => Input::Accepted(conn),
            Mail::Bytes(conn, bytes) => {
                return self.step(node, process, Input::Bytes(conn, &bytes));
            }
            Mail::Eof(conn) => Input::Eof(conn),
            Mail::Closed(conn) => {
                process.accepted.remove(&conn);
                process.arriving.remove(&conn);
                Input::Closed(conn)
            }
            Mail::Drained(conn) => Input::Drained(conn),
            Mail::Durable(id) => Input::Durable(id),
            Mail::DiskFailed(why) => {
                self.trace(|| format!("n{} ends: {why}", node + 1));
                return ControlFlow::Break(Death::Kill);
            }
            Mail::Finished(conn, finished) => Input::Finished(conn, finished),
            Mail::SnapshotWritten(meta, written) => Input::SnapshotWritten(meta, written),
            Mail::SnapshotStored(conn, size) => Input::SnapshotStored(conn, size),
            Mail::SnapshotReceived(conn, received) => {
                if let Ok((meta, _)) = &*received {
                    process.in_transit.remove(&files::name_of(meta));
                }
                process.files_changed = true;
                Input::SnapshotReceived(conn, received)
            }
            Mail::PeerConnected(peer) => Input::PeerConnected(peer),
            Mail::PeerLost(peer) => Input::PeerLost(peer),
            Mail::LogRead(range, entries) => Input::LogRead(range, entries),
            Mail::SnapshotUnreadable(index) => Input::SnapshotUnreadable(index),
            Mail::SnapshotSent(peer, sent) => Input::SnapshotSent(peer, sent),
            Mail::PromiseStored(bound_ms) => {
                process.storing_promise = false;
                process.machine.promise_bound_stored(bound_ms);
                return ControlFlow::Continue(());
            }
        };
        self.step(node, process, input)
    }

    pub(super) fn step(
        &mut self,
        node: usize,
        process: &mut Process,
        input: Input<'_>,
    ) -> ControlFlow<Death> {
        let local = self.nodes[node].clock.millis(self.now);
        process.machine.step(local, input, &mut process.out);
        self.carry_out(node, process)
    }

    /// Carries outputs out, in order, as the real shell does.
    pub(super) fn carry_out(&mut self, node: usize, process: &mut Process) -> ControlFlow<Death> {
        // Also if it dies before the end of this: what it wants cut off may be gone by then.
        self.nodes[node].said.stepped(process.machine.driver());
        if let Some(epoch) = process.machine.driver().epoch() {
            self.confide_next(node, epoch.term);
        }
        while let Some(output) = process.out.pop_front() {
            if let Some(left) = &mut self.nodes[node].dies_in {
                if *left == 0 {
                    return ControlFlow::Break(Death::Kill);
                }
                *left -= 1;
            }
            self.output(node, process, output)?;
        }
        self.nodes[node].said.stepped(process.machine.driver());
        let applied = process.machine.driver().applied_index();
        let certain = process.on_disk().certain;
        if applied > certain {
            self.fail(format!(
                "node {}: has applied {applied}, its disk is certain of {certain}",
                node + 1
            ));
        }
        let checked = self.checks.look(node, &process.machine);
        self.note(1, &[node as u64, process.machine.driver().applied_index()]);
        if let Err(why) = checked {
            self.fail(format!("node {}: {why}", node + 1));
        }
        ControlFlow::Continue(())
    }

    pub(super) fn output(
        &mut self,
        node: usize,
        process: &mut Process,
        output: Output,
    ) -> ControlFlow<Death> {
        match output {
            Output::Send {
                conn,
                pieces,
                notify,
            } => {
                if let Some(link) = process.accepted.get(&conn) {
                    self.send(*link, 1, Item::Bytes(joined(&pieces)));
                    if notify {
                        let mut later = self.delay();
                        let slow = self.plan.slow_reading;
                        if slow > 0 && self.rng.chance(slow) {
                            later += self.rng.below(2 * self.plan.election_ms * MS);
                        }
                        self.mail_after(later, node, Mail::Drained(conn));
                    }
                }
            }
            Output::Close(conn) | Output::Cut(conn) => {
                if let Some(link) = process.accepted.remove(&conn) {
                    self.hang_up(link, 1);
                }
            }
            Output::Pause(conn) => self.pause(process.accepted.get(&conn).copied(), true),
            Output::Resume(conn) => self.pause(process.accepted.get(&conn).copied(), false),
            Output::Execute(conn, mut job) => {
                let late = self.nodes[node].jobs_late_until.saturating_sub(self.now);
                if late == 0 && job.inline && !self.rng.chance(self.plan.deferred) {
                    let input = Input::Finished(conn, Box::new(exec::run(*job)));
                    let local = self.nodes[node].clock.millis(self.now);
                    process.machine.step(local, input, &mut process.out);
                    return ControlFlow::Continue(());
                }
                job.inline = false;
                let later = late + self.rng.below(self.plan.deferred_for.max(MS));
                if self.rng.chance(500) {
                    self.later_after(later, node, Later::Job(conn, job));
                } else {
                    let finished = Box::new(exec::run(*job));
                    self.mail_after(later, node, Mail::Finished(conn, finished));
                }
            }
            Output::Persist(persist) => {
                process.disk_queue.push_back(DiskWork::Persist(persist));
                return self.start_disk(node, process);
            }
            Output::ReadLog(range) => {
                let entries = process.reader.read(range).ok();
                let later = self.disk_time(node);
                self.mail_after(later, node, Mail::LogRead(range, entries));
            }
            Output::Snapshot(meta, databases) => {
                let later = self.disk_time(node);
                self.later_after(later, node, Later::Snapshot(meta, databases));
            }
            Output::SendPeer {
                to,
                address,
                message,
            } => self.send_peer(node, process, to, &address, message),
            Output::ReceiveSnapshot(conn, meta, size) => {
                let arriving = Arriving {
                    meta: *meta,
                    size,
                    data: BytesMut::new(),
                };
                process.arriving.insert(conn, arriving);
            }
            Output::SnapshotData(conn, bytes) => {
                return self.snapshot_data(node, process, conn, &bytes);
            }
            Output::Discard(meta) => {
                dq_raft::discard_snapshot(process.dir.disk(), &meta);
                process.files_changed = true;
                if !process.dir.disk().has_power() {
                    return ControlFlow::Break(Death::Power);
                }
            }
            // Roles are changed by a client here, and nobody asks for a graceful end.
            Output::Poll(_) | Output::HandedOver(_) => {}
            // Snapshots arrive whole here, and freeing memory takes no time.
            Output::CancelSnapshot(_) | Output::Release(_) => {}
            Output::Fatal(why) => {
                self.fail(format!("node {} gave up: {why}", node + 1));
                return ControlFlow::Break(Death::Kill);
            }
        }
        // Whichever operation cut it: that of a snapshot that arrives is reported to nobody else.
        match process.dir.disk().has_power() {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(Death::Power),
        }
    }
}
