//! A long run of writes, truncations, snapshots and installations, with the power cut at every
//! operation of the disk, and every operation failing: whatever is left opens, and holds what was
//! reported durable.

use std::collections::BTreeMap;
use std::io::Read;
use std::ops::RangeInclusive;

use dq_raft::disk::Disk;
use dq_raft::fs::FsDisk;
use dq_raft::log::recover::recover;
use dq_raft::log::snapshot::{Compression, SnapshotError, SnapshotReader, SnapshotWriter};
use dq_raft::log::writer::LogWriter;
use dq_raft::sim_disk::{Fault, Loss, SimDisk};
use dq_raft::{DiskOp, LogEntry, Persist, Recovered};

use crate::directories::{append, entry, hard_state, open, options, persist, snapshot_meta};

/// What a log should hold.
#[derive(Debug, Clone, Default, PartialEq)]
struct Model {
    term: u64,
    vote: u64,
    /// Index and term.
    snapshot: (u64, u64),
    /// The newest entries, contiguous up to the last one. Never fewer than the snapshot lacks.
    entries: Vec<LogEntry>,
}

impl Model {
    fn last_index(&self) -> u64 {
        self.entries.last().map_or(self.snapshot.0, |e| e.index)
    }

    fn apply(&mut self, op: &DiskOp) {
        match op {
            DiskOp::HardState { term, vote } => (self.term, self.vote) = (*term, *vote),
            DiskOp::Append { entries } => self.entries.extend_from_slice(entries),
            DiskOp::Truncate { from } => self.entries.retain(|entry| entry.index < *from),
            DiskOp::InstallSnapshot { meta } => {
                self.snapshot = (meta.index, meta.term);
                self.entries.clear();
            }
            // What pruning removes may be there for a while: compared from the end only.
            DiskOp::Prune { .. } => {}
        }
    }
}

/// One step of the run. A step is either not done, or done, or partly as [`Step::may_hold`] says.
#[derive(Debug, Clone)]
enum Step {
    Write(Vec<Persist>),
    Publish {
        index: u64,
        term: u64,
    },
    /// Data for an installation, under temporary names.
    Receive {
        index: u64,
        term: u64,
    },
    Prepare,
    /// Close cleanly and open again.
    Restart,
}

/// A repeatable run of about `commits` writes.
fn script(commits: u64, seed: u64) -> Vec<Step> {
    let mut random = Random(seed);
    let mut steps = vec![
        Step::Write(vec![persist(
            1,
            [hard_state(1, 0), append([entry(1, 1, 0)])],
        )]),
        Step::Prepare,
    ];
    let mut model = Model::default();
    let note = |steps: &[Step], model: &mut Model| {
        if let Some(Step::Write(batches)) = steps.last() {
            let ops = batches.iter().flat_map(|batch| &batch.ops);
            ops.for_each(|op| model.apply(op));
        }
    };
    note(&steps[..1], &mut model);
    let mut applied = 1;
    for id in 2..commits {
        let last = model.last_index();
        let append_some = |random: &mut Random, from: u64, term: u64| {
            let count = random.below(4);
            let entries: Vec<_> = (from..=from + count)
                .map(|index| entry(index, term, random.below(60) as usize))
                .collect();
            append(entries)
        };
        match random.below(20) {
            0 | 1 if last > applied + 1 => {
                let from = random.within(applied + 1..=last);
                let term = model.term + 1;
                let batch = [
                    hard_state(term, random.below(3)),
                    DiskOp::Truncate { from },
                    append_some(&mut random, from, term),
                ];
                steps.push(Step::Write(vec![persist(id, batch)]));
            }
            2 if model
                .entries
                .last()
                .is_some_and(|e| e.index > model.snapshot.0 + 3) =>
            {
                let index = random.within(model.snapshot.0 + 1..=last);
                applied = applied.max(index);
                let found = model.entries.iter().find(|entry| entry.index == index);
                let term = found.unwrap().term;
                steps.push(Step::Publish { index, term });
                model.snapshot = (index, term);
                let prune = DiskOp::Prune {
                    snapshot_index: index,
                    trailing: random.below(20),
                };
                steps.push(Step::Write(vec![persist(id, [prune])]));
            }
            3 if random.below(2) == 0 => {
                let index = last + random.below(10) + 1 - random.below(2);
                let index = index.max(applied + 1);
                let term = model.term + 1;
                applied = index;
                steps.push(Step::Receive { index, term });
                let meta = snapshot_meta(index, term);
                steps.push(Step::Write(vec![persist(
                    id,
                    [
                        hard_state(term, 0),
                        DiskOp::InstallSnapshot { meta },
                        append_some(&mut random, index + 1, term),
                    ],
                )]));
            }
            4 => steps.push(Step::Restart),
            5 => {
                let two = append_some(&mut random, last + 1, model.term);
                let mut next = model.clone();
                next.apply(&two);
                let three = append_some(&mut random, next.last_index() + 1, model.term + 1);
                let batches = vec![
                    persist(id * 1000, [two]),
                    persist(id * 1000 + 1, [hard_state(model.term + 1, 2), three]),
                ];
                steps.push(Step::Write(batches));
            }
            _ => {
                let some = append_some(&mut random, last + 1, model.term);
                steps.push(Step::Write(vec![persist(id, [some])]));
            }
        }
        note(&steps, &mut model);
        if random.below(3) == 0 {
            steps.push(Step::Prepare);
        }
    }
    steps
}

/// Runs the script until something fails. Returns the model before the step that failed, that step,
/// and whether all was done.
fn run<D: Disk>(disk: &D, steps: &[Step]) -> (Model, Option<Step>) {
    let mut model = Model::default();
    let mut writer: Option<LogWriter<D>> = None;
    for step in steps {
        // A step that fails leaves the model alone.
        if do_step(disk, &mut writer, &mut model, step).is_err() {
            return (model, Some(step.clone()));
        }
    }
    (model, None)
}

fn do_step<D: Disk>(
    disk: &D,
    slot: &mut Option<LogWriter<D>>,
    model: &mut Model,
    step: &Step,
) -> Result<(), String> {
    let mut writer = match slot.take() {
        Some(writer) => writer,
        None => open(disk).map_err(|e| e.to_string())?.1,
    };
    match step {
        Step::Write(batches) => {
            writer.write(batches).map_err(|e| e.to_string())?;
            let ops = batches.iter().flat_map(|batch| &batch.ops);
            ops.for_each(|op| model.apply(op));
        }
        Step::Publish { index, term } => {
            let meta = write_snapshot(disk, *index, *term).map_err(|e| e.to_string())?;
            writer.publish_snapshot(&meta).map_err(|e| e.to_string())?;
            model.snapshot = (*index, *term);
        }
        Step::Receive { index, term } => {
            write_snapshot(disk, *index, *term).map_err(|e| e.to_string())?;
        }
        Step::Prepare => {
            writer.prepare().map_err(|e| e.to_string())?;
        }
        Step::Restart => return writer.close().map_err(|e| e.to_string()),
    }
    *slot = Some(writer);
    Ok(())
}

fn write_snapshot<D: Disk>(
    disk: &D,
    index: u64,
    term: u64,
) -> Result<dq_raft::SnapshotMeta, SnapshotError> {
    let data = index.to_le_bytes();
    let mut writer = SnapshotWriter::create(
        disk.clone(),
        snapshot_meta(index, term),
        8,
        Compression::Lz4,
    )?;
    writer.write(&data)?;
    writer.finish()
}

fn at(entries: &[LogEntry], index: u64) -> Option<&LogEntry> {
    let position = index.checked_sub(entries.first()?.index)?;
    entries.get(position as usize)
}

/// Whether `found` is right after `step` failed on a log that was as `before`.
fn check_against(found: &Recovered, before: &Model, step: Option<&Step>) -> Result<(), String> {
    let found_snapshot = found
        .snapshot
        .as_ref()
        .map_or((0, 0), |s| (s.index, s.term));
    let mut candidates = vec![before.clone()];
    match step {
        Some(Step::Write(batches)) => {
            let mut model = before.clone();
            for op in batches.iter().flat_map(|batch| &batch.ops) {
                // A hard state comes before everything else, also of earlier batches.
                if let DiskOp::Append { entries } = op {
                    for entry in entries {
                        model.entries.push(entry.clone());
                        candidates.push(model.clone());
                    }
                } else if let DiskOp::Truncate { from } = op {
                    while model.last_index() >= *from {
                        model.entries.pop();
                        candidates.push(model.clone());
                    }
                } else {
                    model.apply(op);
                    candidates.push(model.clone());
                }
            }
            let hard_states = candidates.iter().map(|m| (m.term, m.vote));
            let hard_states: Vec<_> = hard_states.collect();
            if !hard_states.contains(&(found.term, found.vote)) {
                return Err(format!("term {} and vote {}", found.term, found.vote));
            }
        }
        Some(Step::Publish { index, term }) => {
            let mut model = before.clone();
            model.snapshot = (*index, *term);
            candidates.push(model);
        }
        _ => {}
    }
    if step.is_none() && (found.term, found.vote) != (before.term, before.vote) {
        return Err(format!("term {} and vote {}", found.term, found.vote));
    }
    let fits = candidates.iter().any(|model| {
        // Entries that a snapshot contains may be gone; the others are there, and no more.
        let needed = model.entries.iter().filter(|e| e.index > model.snapshot.0);
        let needed: Vec<&LogEntry> = needed.collect();
        let last = model.last_index().max(model.snapshot.0);
        let found_last = found.entries.last().map_or(found_snapshot.0, |e| e.index);
        found_snapshot == model.snapshot
            && found_last == last
            && needed
                .iter()
                .all(|entry| at(&found.entries, entry.index) == Some(entry))
            && found.entries.iter().all(|e| {
                let known = at(&model.entries, e.index);
                known.is_none_or(|known| known == e)
            })
    });
    match fits {
        true => Ok(()),
        false => {
            let span = |entries: &[LogEntry]| -> Option<RangeInclusive<u64>> {
                Some(entries.first()?.index..=entries.last()?.index)
            };
            let shown: Vec<_> = candidates
                .iter()
                .map(|m| (m.snapshot, span(&m.entries)))
                .collect();
            Err(format!(
                "snapshot {found_snapshot:?} and entries {:?}, not one of {shown:?}",
                span(&found.entries)
            ))
        }
    }
}

/// Opens what is left, checks it, and goes on writing.
fn open_and_go_on(disk: &SimDisk, before: &Model, step: Option<&Step>) -> Result<(), String> {
    let (found, mut writer) = open(disk).map_err(|e| format!("does not open: {e}"))?;
    check_against(&found, before, step)?;
    if let Some(meta) = &found.snapshot {
        let mut reader = SnapshotReader::open(disk, meta).map_err(|e| e.to_string())?;
        let mut data = Vec::new();
        reader.read_to_end(&mut data).map_err(|e| e.to_string())?;
        assert_eq!(data, meta.index.to_le_bytes());
    }
    // Opening has made all of it durable.
    let fork = disk.fork();
    fork.power_cut(Loss::Everything);
    let (again, _) = open(&fork).map_err(|e| format!("does not open again: {e}"))?;
    if again != found {
        return Err("another result after opening and losing power".into());
    }
    let next = writer.last_index() + 1;
    let more = entry(next, found.term.max(1) + 1, 3);
    let ops = [hard_state(found.term + 2, 0), append([more.clone()])];
    writer
        .write(&[persist(1, ops)])
        .map_err(|e| e.to_string())?;
    disk.power_cut(Loss::Everything);
    let (after, _) = open(disk).map_err(|e| format!("does not open at last: {e}"))?;
    match after.entries.last() == Some(&more) {
        true => Ok(()),
        false => Err("the entry written after the restart is lost".into()),
    }
}

fn sweep(commits: u64, seed: u64, stride: u64) {
    let steps = script(commits, seed);
    let whole = SimDisk::new();
    let (model, failed) = run(&whole, &steps);
    assert!(failed.is_none(), "{failed:?}");
    let operations = whole.operations();
    assert!(operations > 2 * commits);
    open_and_go_on(&whole, &model, None).unwrap();
    for at in (0..operations).step_by(stride as usize) {
        let disk = SimDisk::new();
        disk.fail(at, Fault::PowerCut);
        let (before, step) = run(&disk, &steps);
        assert!(step.is_some(), "operation {at} of {operations} was reached");
        // Only the process dies: everything is there, and not yet durable.
        if let Err(why) = open_and_go_on(&disk.fork(), &before, step.as_ref()) {
            panic!("seed {seed}, killed at {at}, in {step:?}: {why}");
        }
        let pending = disk.pending();
        let mut losses = vec![Loss::Nothing, Loss::Everything];
        losses.extend((1..pending.min(3)).map(Loss::AllAfter));
        losses.extend((0..2).map(|n| Loss::Random(seed ^ (at * 64 + n))));
        for loss in losses {
            let disk = disk.fork();
            disk.power_cut(loss);
            if let Err(why) = open_and_go_on(&disk, &before, step.as_ref()) {
                panic!("seed {seed}, power cut at {at}, {loss:?}, in {step:?}: {why}");
            }
        }
    }
}

#[test]
fn a_power_cut_at_any_operation_loses_nothing_that_was_durable() {
    sweep(200, 1, 1);
}

#[test]
fn other_runs_survive_power_cuts_as_well() {
    for seed in 2..20 {
        sweep(60, seed, 7);
    }
}

#[test]
fn an_error_at_any_operation_ends_the_writer_and_a_restart_finds_everything() {
    let steps = script(50, 5);
    let whole = SimDisk::new();
    run(&whole, &steps);
    for at in 0..whole.operations() {
        for errno in [5, 28] {
            let disk = SimDisk::new();
            disk.fail(at, Fault::Error(errno));
            let (before, step) = run(&disk, &steps);
            // Preparing may find the disk full without harm.
            let step = match step {
                None if errno == 28 => continue,
                step => step,
            };
            assert!(step.is_some(), "the error at {at} was noticed");
            if let Err(why) = open_and_go_on(&disk, &before, step.as_ref()) {
                panic!("error {errno} at {at}, in {step:?}: {why}");
            }
        }
    }
}

#[test]
fn a_power_cut_while_opening_is_no_worse() {
    let steps = script(120, 9);
    let whole = SimDisk::new();
    run(&whole, &steps);
    let mut opened = 0;
    for at in (0..whole.operations()).step_by(11) {
        let disk = SimDisk::new();
        disk.fail(at, Fault::PowerCut);
        let (before, step) = run(&disk, &steps);
        disk.power_cut(Loss::Random(at));
        for during in 0.. {
            let disk = disk.fork();
            disk.fail(disk.operations() + during, Fault::PowerCut);
            if recover(disk.clone(), &options()).is_ok() {
                break;
            }
            opened += 1;
            disk.power_cut(Loss::Random(at + during));
            if let Err(why) = open_and_go_on(&disk, &before, step.as_ref()) {
                panic!("power cut at {at} and {during} operations into opening: {why}");
            }
        }
    }
    assert!(opened > 100);
}

#[test]
fn the_real_disk_and_the_simulated_one_end_with_the_same_files() {
    let steps = script(60, 3);
    let simulated = SimDisk::new();
    let directory = tempfile::tempdir().unwrap();
    let real = FsDisk::new(directory.path()).unwrap();
    let (model, failed) = run(&real, &steps);
    assert!(failed.is_none());
    assert_eq!(run(&simulated, &steps).0, model);
    let names = |disk: &FsDisk| -> Vec<String> {
        disk.list()
            .unwrap()
            .into_iter()
            .map(|file| file.name)
            .collect()
    };
    let files = |disk: &FsDisk| -> BTreeMap<String, Vec<u8>> {
        let read = |name: String| (name.clone(), disk.read(&name, 1 << 20).unwrap());
        names(disk).into_iter().map(read).collect()
    };
    assert_eq!(files(&real), simulated.files());
    let (found, _) = open(&real).unwrap();
    check_against(&found, &model, None).unwrap();
    open(&simulated).unwrap();
    assert_eq!(files(&real), simulated.files(), "after opening, too");
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(99_991);
        (self.0 >> 33) % end
    }

    fn within(&mut self, range: RangeInclusive<u64>) -> u64 {
        range.start() + self.below(range.end() - range.start() + 1)
    }
}
