//! Disk work: queued, done in one go at its beginning or its end, reported when its time is over.

use super::*;
use crate::files;

impl World {
    pub(super) fn disk_time(&mut self, node: usize) -> u64 {
        let (shortest, longest) = self.plan.disk;
        let time = self.rng.between(shortest, longest);
        if self.nodes[node].slow_until > self.now {
            time * 100
        } else {
            time
        }
    }

    /// Takes all the work that waits, unless some is under way.
    pub(super) fn start_disk(&mut self, node: usize, process: &mut Process) -> ControlFlow<Death> {
        if process.disk_running.is_some() || process.disk_queue.is_empty() {
            return ControlFlow::Continue(());
        }
        let work: Vec<DiskWork> = process.disk_queue.drain(..).collect();
        let running = if self.rng.chance(500) {
            let done = process.write(work);
            if done.is_err() && !process.dir.disk().has_power() {
                return ControlFlow::Break(Death::Power);
            }
            Running::Done(done)
        } else {
            Running::Ahead(work)
        };
        process.disk_running = Some(running);
        let later = self.disk_time(node);
        self.after(later, Event::Disk(node, self.nodes[node].life));
        ControlFlow::Continue(())
    }

    pub(super) fn disk_done(&mut self, node: usize, life: u64) {
        if self.nodes[node].life != life {
            return;
        }
        if self.is_frozen(node) {
            return self.after(MS, Event::Disk(node, life));
        }
        if self.nodes[node].is_c {
            return self.c_disk_done(node);
        }
        let Some(mut process) = self.nodes[node].process.take() else {
            return;
        };
        process.files_changed = true;
        let done = match process.disk_running.take() {
            Some(Running::Ahead(work)) => process.write(work),
            Some(Running::Done(done)) => done,
            None => Ok(Vec::new()),
        };
        let done = done.and_then(|mail| {
            if process.disk_queue.is_empty() {
                process.writer.prepare()?;
            }
            Ok(mail)
        });
        let flow = match done {
            Ok(mail) => {
                process.mail.extend(mail);
                self.start_disk(node, &mut process)
            }
            Err(_) if !process.dir.disk().has_power() => ControlFlow::Break(Death::Power),
            Err(error) => {
                process.mail.push_back(Mail::DiskFailed(error.to_string()));
                ControlFlow::Continue(())
            }
        };
        self.put_back(node, process, flow);
        self.schedule_turn(node);
    }

    /// A bound on promises becomes durable, or there are no longer promises.
    pub(super) fn promise_due(&mut self, node: usize, life: u64, bound_ms: u64) {
        if self.nodes[node].life != life {
            return;
        }
        match promise::store(&self.nodes[node].disk, bound_ms) {
            Ok(()) => self.post(node, Mail::PromiseStored(bound_ms)),
            Err(_) if !self.nodes[node].disk.has_power() => self.die(node, Death::Power),
            Err(_) => {}
        }
    }

    pub(super) fn snapshot_due(
        &mut self,
        node: usize,
        meta: Box<SnapshotMeta>,
        databases: Vec<(Bytes, Version)>,
    ) {
        let Some(mut process) = self.nodes[node].process.take() else {
            return;
        };
        self.trace(|| format!("n{} writes a snapshot at {}", node + 1, meta.index));
        let flow = match process.write_snapshot((*meta).clone(), &databases) {
            Ok(written) => {
                let work = DiskWork::Publish(Box::new(written));
                process.disk_queue.push_back(work);
                self.start_disk(node, &mut process)
            }
            Err(_) if !process.dir.disk().has_power() => ControlFlow::Break(Death::Power),
            Err(_) => {
                process.mail.push_back(Mail::SnapshotWritten(meta, false));
                ControlFlow::Continue(())
            }
        };
        self.put_back(node, process, flow);
        self.schedule_turn(node);
    }

    pub(super) fn snapshot_data(
        &mut self,
        node: usize,
        process: &mut Process,
        conn: u64,
        bytes: &Bytes,
    ) -> ControlFlow<Death> {
        let Some(arriving) = process.arriving.get_mut(&conn) else {
            return ControlFlow::Continue(());
        };
        arriving.data.extend_from_slice(bytes);
        let whole = arriving.data.len() as u64 >= arriving.size;
        let later = self.disk_time(node);
        self.mail_after(later, node, Mail::SnapshotStored(conn, bytes.len()));
        if whole && let Some(arrived) = process.arriving.remove(&conn) {
            let index = arrived.meta.index;
            let stored = process.store_snapshot(&self.vfs, arrived);
            if let Ok((meta, _)) = &stored {
                process.in_transit.insert(files::name_of(meta));
            }
            if !process.dir.disk().has_power() {
                return ControlFlow::Break(Death::Power);
            }
            self.trace(|| {
                let what = stored
                    .as_ref()
                    .map_or_else(String::clone, |_| "stored".to_owned());
                format!("n{} snapshot at {index} arrived: {what}", node + 1)
            });
            self.mail_after(
                later + 1,
                node,
                Mail::SnapshotReceived(conn, Box::new(stored)),
            );
        }
        ControlFlow::Continue(())
    }
}
