//! A disk in memory that forgets what was not synced.
//!
//! Two things are kept for every file and for the directory: what is *durable*, and the operations
//! since, in order. Reads see both. [`SimDisk::power_cut`] throws away the operations that a
//! [`Loss`] selects, as a machine does that loses power; a process that merely dies loses nothing,
//! and a new one that opens the same `SimDisk` sees all of it, durable or not.
//!
//! ```text
//!  write ──▶ pending ──sync_data──▶ durable          create, rename, remove ──▶ pending
//!               │                      │                                           │
//!               └──── power cut: kept, torn or dropped ◀──── sync_directory ───────┘
//! ```
//!
//! [`SimDisk::fail`] makes one later operation fail, or cuts the power at it;
//! [`SimDisk::fail_when`] the next one of a kind. Only operations that change something or make it
//! durable are counted: reading never fails here.
//!
//! [`SimDisk::rot`] flips bits of what is durable, and [`Fault::Misdirected`] puts the sectors of a write
//! somewhere else; [`SimDisk::damaged`] names the files that this has hit.
//!
//! Left out: reordering inside the durable part, and reads that fail.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IoSlice;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::disk::{Cause, Disk, DiskError, Listed, Operation, libc_errno};

/// A disk in memory. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

/// An open file of a [`SimDisk`]; it stays readable when its name is gone.
#[derive(Debug)]
pub struct SimFile {
    inode: usize,
    name: String,
    locked: Option<Arc<()>>,
}

/// What a power cut takes away of the operations that were not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Nothing: everything had reached the disk by luck.
    Nothing,
    /// Everything.
    Everything,
    /// Everything after the first so many operations, counted over files and directory together.
    AllAfter(usize),
    /// Each operation, and each 512-byte sector of a write, on its own, by this seed.
    Random(u64),
}

/// Tells by its kind and its file's name whether an operation is the one; an empty name is the directory.
pub type Aim = fn(Operation, &str) -> bool;

/// What happens at an operation chosen by [`SimDisk::fail`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// This operation fails with this error number and changes nothing; later ones work.
    Error(i32),
    /// The operation is begun (what it does is pending) and fails, and so does every one after it,
    /// until [`SimDisk::power_cut`].
    PowerCut,
    /// This operation works, and the power is cut at the one that comes so many after it.
    PowerCutAfter(u64),
    /// This operation, a write, is said to work, and its sectors replace others, chosen by this number,
    /// of any file's. Where they belong everything stays as it was.
    Misdirected(u64),
}

/// A write that has landed elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misdirected {
    /// The file that lacks it, by the name that it had then.
    pub meant_for: String,
    /// The file that has it.
    pub landed_in: String,
    /// What was there is what was to be there.
    pub is_no_loss: bool,
}

impl SimDisk {
    /// An empty disk.
    pub fn new() -> SimDisk {
        SimDisk::default()
    }

    /// A disk with the given durable files.
    pub fn with_files<'a>(files: impl IntoIterator<Item = (&'a str, Vec<u8>)>) -> SimDisk {
        let disk = SimDisk::new();
        {
            let mut state = disk.state();
            for (name, content) in files {
                let inode = state.inodes.len();
                let content = Arc::new(content);
                state.inodes.push(Inode {
                    durable: content.clone(),
                    current: content,
                    is_damaged: false,
                });
                state.durable_names.insert(name.into(), inode);
                state.names.insert(name.into(), inode);
            }
        }
        disk
    }

    /// An independent copy of the disk as it is, pending operations included, without faults.
    pub fn fork(&self) -> SimDisk {
        let state = self.state();
        SimDisk {
            state: Arc::new(Mutex::new(State {
                inodes: state.inodes.clone(),
                names: state.names.clone(),
                durable_names: state.durable_names.clone(),
                pending: state.pending.clone(),
                operations: state.operations,
                faults: BTreeMap::new(),
                aimed: Vec::new(),
                misdirected: state.misdirected.clone(),
                hits: Vec::new(),
                elsewhere: None,
                power_is_off: false,
                space: state.space,
                locks: BTreeMap::new(),
            })),
        }
    }

    /// Lets the operation number `number` (from 0, see [`SimDisk::operations`]) fail.
    pub fn fail(&self, number: u64, fault: Fault) {
        self.state().faults.insert(number, fault);
    }

    /// Lets the next operation fail that `aim` holds for.
    pub fn fail_when(&self, aim: Aim, fault: Fault) {
        self.state().aimed.push((aim, fault));
    }

    /// The operations that faults have hit since this was last asked, with their files' names.
    pub fn take_hits(&self) -> Vec<(Fault, Operation, String)> {
        std::mem::take(&mut self.state().hits)
    }

    /// Whether a fault has hit this operation on a file of this name, since they were last taken.
    pub fn was_hit(&self, operation: Operation, name: &str) -> bool {
        let hits = &self.state().hits;
        hits.iter()
            .any(|(_, hit, file)| *hit == operation && file == name)
    }

    /// Takes back all faults that have not happened.
    pub fn clear_faults(&self) {
        let mut state = self.state();
        state.faults.clear();
        state.aimed.clear();
    }

    /// Whether the power is on: it is not between [`Fault::PowerCut`] and
    /// [`SimDisk::power_cut`].
    pub fn has_power(&self) -> bool {
        !self.state().power_is_off
    }

    /// Operations carried out or failed so far.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Operations that a power cut might lose.
    pub fn pending(&self) -> usize {
        self.state().pending.len()
    }

    /// Limits the total size of all files; allocating or writing beyond it fails with `ENOSPC`.
    pub fn set_space(&self, bytes: Option<u64>) {
        self.state().space = bytes;
    }

    /// Cuts the power and restores it: what was not synced is lost as `loss` says, the rest is
    /// durable. Files open at that moment must not be used any more.
    pub fn power_cut(&self, loss: Loss) {
        self.state().power_cut(loss);
    }

    /// Flips the bits of `mask` in the byte at `offset` of what is durable of a file. Readers see it unless
    /// something was written over it that is not durable yet. False if there is no such byte.
    pub fn rot(&self, name: &str, offset: usize, mask: u8) -> bool {
        let mut state = self.state();
        let Some(&inode) = state.names.get(name) else {
            return false;
        };
        let covered = state
            .pending
            .iter()
            .any(|change| change.covers(inode, offset));
        let Inode {
            durable,
            current,
            is_damaged,
        } = &mut state.inodes[inode];
        let Some(byte) = Arc::make_mut(durable).get_mut(offset) else {
            return false;
        };
        *byte ^= mask;
        *is_damaged = true;
        if !covered && let Some(byte) = Arc::make_mut(current).get_mut(offset) {
            *byte ^= mask;
        }
        true
    }

    /// Names of the files that bits were flipped in, that have a write meant for others, or lack one of
    /// theirs.
    pub fn damaged(&self) -> Vec<String> {
        let state = self.state();
        let names = state.names.iter();
        let damaged = names.filter(|(_, inode)| state.inodes[**inode].is_damaged);
        damaged.map(|(name, _)| name.to_string()).collect()
    }

    /// Writes that have landed elsewhere, in order.
    pub fn misdirected(&self) -> Vec<Misdirected> {
        self.state().misdirected.clone()
    }

    /// Forgets which files were damaged, not the damage.
    pub fn forget_damage(&self) {
        let mut state = self.state();
        state.misdirected.clear();
        for inode in &mut state.inodes {
            inode.is_damaged = false;
        }
    }

    /// What is durable of a file, whatever its name was then.
    pub fn durable(&self, name: &str) -> Arc<Vec<u8>> {
        let state = self.state();
        let inode = state.names.get(name);
        inode.map_or_else(Arc::default, |inode| state.inodes[*inode].durable.clone())
    }

    /// Names of all files as a process would see them, ascending.
    pub fn names(&self) -> Vec<Arc<str>> {
        self.state().names.keys().cloned().collect()
    }

    /// All files and their content as a process would read them.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let state = self.state();
        state
            .names
            .iter()
            .map(|(name, inode)| (name.to_string(), state.inodes[*inode].current.to_vec()))
            .collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves the state as it was between two operations.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs one counted operation: `act` puts it among the pending ones.
    fn operate(
        &self,
        operation: Operation,
        name: &str,
        act: impl FnOnce(&mut State) -> Result<(), i32>,
    ) -> Result<(), DiskError> {
        let mut state = self.state();
        let number = state.operations;
        state.operations += 1;
        let failed = |errno| Err(DiskError::new(operation, name, Cause::Os(errno)));
        if state.power_is_off {
            return failed(libc_errno::EIO);
        }
        let aimed = state.aimed.iter().position(|(aim, _)| aim(operation, name));
        let aimed = aimed.map(|at| state.aimed.remove(at).1);
        let fault = state.faults.remove(&number).or(aimed);
        let fault = match fault {
            Some(Fault::PowerCutAfter(count)) if count > 0 => {
                state.faults.insert(number + count, Fault::PowerCut);
                None
            }
            other => other,
        };
        if let Some(fault) = fault {
            state.hits.push((fault, operation, name.to_owned()));
        }
        match fault {
            Some(Fault::Error(errno)) => failed(errno),
            Some(Fault::PowerCut | Fault::PowerCutAfter(_)) => {
                // A sync that was cut off has made nothing certain, so it is as if not begun.
                if operation != Operation::Sync {
                    let _ = act(&mut state);
                }
                state.power_is_off = true;
                failed(libc_errno::EIO)
            }
            Some(Fault::Misdirected(choice)) => {
                state.elsewhere = Some(choice);
                let done = act(&mut state);
                state.elsewhere = None;
                done.or_else(failed)
            }
            None => act(&mut state).or_else(failed),
        }
    }
}

impl Disk for SimDisk {
    type File = SimFile;

    fn list(&self) -> Result<Vec<Listed>, DiskError> {
        let state = self.state();
        let listed = |(name, inode): (&Arc<str>, &usize)| Listed {
            name: name.to_string(),
            size: state.inodes[*inode].current.len() as u64,
        };
        Ok(state.names.iter().map(listed).collect())
    }

    fn open(&self, name: &str) -> Result<SimFile, DiskError> {
        match self.state().names.get(name) {
            Some(inode) => Ok(SimFile {
                inode: *inode,
                name: name.to_owned(),
                locked: None,
            }),
            None => Err(DiskError::new(
                Operation::Open,
                name,
                Cause::Os(libc_errno::ENOENT),
            )),
        }
    }

    fn create(&self, name: &str) -> Result<SimFile, DiskError> {
        let mut inode = 0;
        self.operate(Operation::Create, name, |state| {
            if state.names.contains_key(name) {
                return Err(libc_errno::EEXIST);
            }
            inode = state.inodes.len();
            state.inodes.push(Inode::default());
            state.change(Change::Link {
                name: name.into(),
                inode,
            });
            Ok(())
        })?;
        Ok(SimFile {
            inode,
            name: name.to_owned(),
            locked: None,
        })
    }

    fn lock(&self, name: &str) -> Result<SimFile, DiskError> {
        let mut file = match self.open(name) {
            Err(e) if e.is_not_found() => self.create(name)?,
            opened => opened?,
        };
        let mut state = self.state();
        let held = state.locks.entry(name.to_owned()).or_default();
        if Arc::strong_count(held) > 1 {
            return Err(DiskError::new(
                Operation::Lock,
                name,
                Cause::Os(libc_errno::EWOULDBLOCK),
            ));
        }
        file.locked = Some(held.clone());
        Ok(file)
    }

    fn allocate(&self, file: &SimFile, size: u64) -> Result<(), DiskError> {
        self.operate(Operation::Allocate, &file.name, |state| {
            let current = state.inodes[file.inode].current.len() as u64;
            if current < size {
                state.charge(size - current)?;
                state.change(Change::Resize {
                    inode: file.inode,
                    size,
                });
            }
            Ok(())
        })
    }

    fn size(&self, file: &SimFile) -> Result<u64, DiskError> {
        Ok(self.state().inodes[file.inode].current.len() as u64)
    }

    fn read_at(&self, file: &SimFile, offset: u64, buffer: &mut [u8]) -> Result<usize, DiskError> {
        let state = self.state();
        let content = &state.inodes[file.inode].current;
        let start = usize::try_from(offset).map_or(content.len(), |o| o.min(content.len()));
        let got = buffer.len().min(content.len() - start);
        buffer[..got].copy_from_slice(&content[start..start + got]);
        Ok(got)
    }

    fn write_at(
        &self,
        file: &SimFile,
        offset: u64,
        pieces: &[IoSlice<'_>],
    ) -> Result<(), DiskError> {
        let pieces: Vec<&[u8]> = pieces.iter().map(|piece| &**piece).collect();
        let bytes = pieces.concat();
        self.operate(Operation::Write, &file.name, |state| {
            let end = offset + bytes.len() as u64;
            let current = state.inodes[file.inode].current.len() as u64;
            state.charge(end.saturating_sub(current))?;
            match state.elsewhere {
                Some(choice) => state.write_elsewhere(file, offset as usize, &bytes, choice),
                None => state.change(Change::Write {
                    inode: file.inode,
                    offset: offset as usize,
                    bytes,
                }),
            }
            Ok(())
        })
    }

    fn sync_data(&self, file: &SimFile) -> Result<(), DiskError> {
        self.operate(Operation::Sync, &file.name, |state| {
            let durable = Arc::make_mut(&mut state.inodes[file.inode].durable);
            state.pending.retain(|change| {
                let is_of_file = change.inode_written() == Some(file.inode);
                if is_of_file {
                    apply_content(durable, change);
                }
                !is_of_file
            });
            Ok(())
        })
    }

    fn truncate(&self, file: &SimFile, size: u64) -> Result<(), DiskError> {
        self.operate(Operation::Truncate, &file.name, |state| {
            state.change(Change::Resize {
                inode: file.inode,
                size,
            });
            Ok(())
        })
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        self.operate(Operation::Rename, from, |state| {
            let inode = *state.names.get(from).ok_or(libc_errno::ENOENT)?;
            state.change(Change::Rename {
                from: from.into(),
                to: to.into(),
                inode,
            });
            Ok(())
        })
    }

    fn remove(&self, name: &str) -> Result<(), DiskError> {
        self.operate(Operation::Remove, name, |state| {
            let inode = *state.names.get(name).ok_or(libc_errno::ENOENT)?;
            state.change(Change::Unlink {
                name: name.into(),
                inode,
            });
            Ok(())
        })
    }

    fn sync_directory(&self) -> Result<(), DiskError> {
        self.operate(Operation::Sync, "", |state| {
            state
                .pending
                .retain(|change| change.inode_written().is_some());
            state.durable_names = state.names.clone();
            Ok(())
        })
    }
}

/// Inodes by name.
type Names = BTreeMap<Arc<str>, usize>;

#[derive(Debug, Default)]
struct State {
    inodes: Vec<Inode>,
    names: Names,
    durable_names: Names,
    pending: Vec<Change>,
    operations: u64,
    faults: BTreeMap<u64, Fault>,
    aimed: Vec<(Aim, Fault)>,
    misdirected: Vec<Misdirected>,
    hits: Vec<(Fault, Operation, String)>,
    /// The write that is being done goes elsewhere.
    elsewhere: Option<u64>,
    power_is_off: bool,
    space: Option<u64>,
    locks: BTreeMap<String, Arc<()>>,
}

#[derive(Debug, Clone, Default)]
struct Inode {
    /// Shared with forks until one of them changes it.
    durable: Arc<Vec<u8>>,
    current: Arc<Vec<u8>>,
    is_damaged: bool,
}

#[derive(Debug, Clone)]
enum Change {
    Write {
        inode: usize,
        offset: usize,
        bytes: Vec<u8>,
    },
    Resize {
        inode: usize,
        size: u64,
    },
    Link {
        name: Arc<str>,
        inode: usize,
    },
    Unlink {
        name: Arc<str>,
        inode: usize,
    },
    Rename {
        from: Arc<str>,
        to: Arc<str>,
        inode: usize,
    },
}

const SECTOR: usize = 512;

impl State {
    /// Carries a change out for readers and keeps it as pending.
    fn change(&mut self, change: Change) {
        match &change {
            Change::Write { inode, .. } | Change::Resize { inode, .. } => {
                apply_content(Arc::make_mut(&mut self.inodes[*inode].current), &change);
            }
            _ => apply_name(&mut self.names, &change),
        }
        self.pending.push(change);
    }

    /// Puts the sectors that a write would change over those of some file, durably, and leaves the file
    /// itself as it is, but for its size.
    fn write_elsewhere(&mut self, file: &SimFile, offset: usize, bytes: &[u8], choice: u64) {
        let mut random = SplitMix(choice);
        let mut below = |end: usize| (random.next() % end.max(1) as u64) as usize;
        let end = offset + bytes.len();
        let mut content = self.inodes[file.inode].current.to_vec();
        if content.len() < end {
            self.change(Change::Resize {
                inode: file.inode,
                size: end as u64,
            });
            content.resize(end, 0);
        }
        let is_no_loss = content[offset..end] == *bytes;
        content[offset..end].copy_from_slice(bytes);
        content.resize(content.len().next_multiple_of(SECTOR), 0);
        let (first, last) = (offset / SECTOR, end.div_ceil(SECTOR));
        let sectors = &content[first * SECTOR..last * SECTOR];

        let places: Vec<(&Arc<str>, &usize)> = self
            .names
            .iter()
            .filter(|(_, inode)| !self.inodes[**inode].durable.is_empty())
            .collect();
        let mut landed_in = String::new();
        if !places.is_empty() {
            let (name, inode) = places[below(places.len())];
            let Inode {
                durable,
                current,
                is_damaged,
            } = &mut self.inodes[*inode];
            let mut sector = below(durable.len().div_ceil(SECTOR));
            if *inode == file.inode && sector == first {
                sector += 1;
            }
            for content in [durable, current] {
                let content = Arc::make_mut(content);
                let start = (sector * SECTOR).min(content.len());
                let size = sectors.len().min(content.len() - start);
                content[start..start + size].copy_from_slice(&sectors[..size]);
            }
            *is_damaged = true;
            landed_in = name.to_string();
        }
        self.inodes[file.inode].is_damaged = true;
        self.misdirected.push(Misdirected {
            meant_for: file.name.clone(),
            landed_in,
            is_no_loss,
        });
    }

    fn charge(&self, more: u64) -> Result<(), i32> {
        let Some(space) = self.space else {
            return Ok(());
        };
        let used: u64 = self
            .names
            .values()
            .map(|inode| self.inodes[*inode].current.len() as u64)
            .sum();
        if used + more > space {
            return Err(libc_errno::ENOSPC);
        }
        Ok(())
    }

    fn power_cut(&mut self, loss: Loss) {
        let mut random = match loss {
            Loss::Random(seed) => SplitMix(seed),
            _ => SplitMix(0),
        };
        let mut inodes_renamed_lost = BTreeSet::new();
        let pending = std::mem::take(&mut self.pending);
        for (number, change) in pending.into_iter().enumerate() {
            let keep = match loss {
                Loss::Nothing => true,
                Loss::Everything => false,
                Loss::AllAfter(count) => number < count,
                Loss::Random(_) => random.next() % 4 != 0,
            };
            match &change {
                Change::Write {
                    inode,
                    offset,
                    bytes,
                } => {
                    let durable = Arc::make_mut(&mut self.inodes[*inode].durable);
                    if let Loss::Random(_) = loss {
                        tear(durable, *offset, bytes, &mut random);
                    } else if keep {
                        apply_content(durable, &change);
                    }
                }
                Change::Resize { inode, .. } if keep => {
                    apply_content(Arc::make_mut(&mut self.inodes[*inode].durable), &change);
                }
                Change::Resize { .. } => {}
                // What follows a lost change of the same file's names cannot survive it.
                Change::Link { inode, .. }
                | Change::Unlink { inode, .. }
                | Change::Rename { inode, .. } => {
                    if keep && !inodes_renamed_lost.contains(inode) {
                        apply_name(&mut self.durable_names, &change);
                    } else {
                        inodes_renamed_lost.insert(*inode);
                    }
                }
            }
        }
        for inode in &mut self.inodes {
            inode.current.clone_from(&inode.durable);
        }
        self.names = self.durable_names.clone();
        self.faults.clear();
        self.aimed.clear();
        self.power_is_off = false;
        self.locks.clear();
    }
}

impl Change {
    /// Whether it says what the byte of a file at `offset` is.
    fn covers(&self, file: usize, at: usize) -> bool {
        match self {
            Change::Write {
                inode,
                offset,
                bytes,
            } => *inode == file && (*offset..offset + bytes.len()).contains(&at),
            Change::Resize { inode, size } => *inode == file && *size <= at as u64,
            _ => false,
        }
    }

    fn inode_written(&self) -> Option<usize> {
        match self {
            Change::Write { inode, .. } | Change::Resize { inode, .. } => Some(*inode),
            _ => None,
        }
    }
}

fn apply_content(content: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write { offset, bytes, .. } => {
            let end = offset + bytes.len();
            if content.len() < end {
                content.resize(end, 0);
            }
            content[*offset..end].copy_from_slice(bytes);
        }
        Change::Resize { size, .. } => {
            let size = *size as usize;
            match content.is_empty() {
                // As the allocator has it zero already, if it can.
                true => *content = vec![0; size],
                false => content.resize(size, 0),
            }
            // A segment that is closed is far smaller than what was set aside for it.
            content.shrink_to(2 * size);
        }
        _ => {}
    }
}

fn apply_name(names: &mut Names, change: &Change) {
    match change {
        Change::Link { name, inode } => {
            names.insert(name.clone(), *inode);
        }
        Change::Unlink { name, .. } => {
            names.remove(name);
        }
        Change::Rename { from, to, inode } => {
            names.remove(from);
            names.insert(to.clone(), *inode);
        }
        Change::Write { .. } | Change::Resize { .. } => {}
    }
}

/// Writes a random subset of the sectors that `bytes` touches. The size may grow without content.
fn tear(content: &mut Vec<u8>, offset: usize, bytes: &[u8], random: &mut SplitMix) {
    // Whole, not at all, the beginning, or any subset: the first three are likelier than chance.
    let mode = random.next() % 4;
    let end = offset + bytes.len();
    let mut at = offset;
    let mut beginning_is_over = false;
    let mut reached = 0;
    while at < end {
        let sector_end = ((at / SECTOR + 1) * SECTOR).min(end);
        let keep = match mode {
            0 => true,
            1 => false,
            2 => {
                beginning_is_over |= random.next().is_multiple_of(4);
                !beginning_is_over
            }
            _ => random.next().is_multiple_of(2),
        };
        if keep {
            if content.len() < sector_end {
                content.resize(sector_end, 0);
            }
            content[at..sector_end].copy_from_slice(&bytes[at - offset..sector_end - offset]);
            reached = sector_end;
        }
        at = sector_end;
    }
    if reached < end && content.len() < end && random.next().is_multiple_of(2) {
        content.resize(end, 0);
    }
}

/// The generator of that name: a few lines, and the same numbers for ever.
#[derive(Debug)]
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(disk: &SimDisk, file: &SimFile, offset: u64, bytes: &[u8]) {
        disk.write_at(file, offset, &[IoSlice::new(bytes)]).unwrap();
    }

    #[test]
    fn what_was_synced_survives_and_the_rest_does_not() {
        let disk = SimDisk::new();
        let file = disk.create("a").unwrap();
        write(&disk, &file, 0, b"one");
        disk.sync_data(&file).unwrap();
        disk.sync_directory().unwrap();
        write(&disk, &file, 3, b"two");
        disk.create("b").unwrap();
        assert_eq!(disk.read("a", 100).unwrap(), b"onetwo");
        disk.power_cut(Loss::Everything);
        assert_eq!(
            disk.files(),
            BTreeMap::from([("a".into(), b"one".to_vec())])
        );
    }

    #[test]
    fn a_name_is_durable_only_with_its_directory() {
        let disk = SimDisk::new();
        let file = disk.create("a").unwrap();
        write(&disk, &file, 0, b"one");
        disk.sync_data(&file).unwrap();
        disk.power_cut(Loss::Everything);
        assert!(disk.files().is_empty());
    }

    #[test]
    fn torn_writes_are_torn_at_sectors() {
        let mut torn = BTreeSet::new();
        for seed in 0..1000 {
            let disk = SimDisk::with_files([("a", vec![0; 2048])]);
            let file = disk.open("a").unwrap();
            write(&disk, &file, 0, &[7; 2048]);
            disk.power_cut(Loss::Random(seed));
            let content = disk.read("a", 4096).unwrap();
            for sector in content.chunks(SECTOR) {
                assert!(sector.iter().all(|b| *b == sector[0]));
            }
            torn.insert(
                content
                    .chunks(SECTOR)
                    .map(|s| s[0] == 7)
                    .collect::<Vec<_>>(),
            );
        }
        assert_eq!(torn.len(), 16, "every subset of four sectors occurs");
    }

    #[test]
    fn faults_hit_the_operation_they_name() {
        let disk = SimDisk::new();
        disk.fail(1, Fault::Error(libc_errno::ENOSPC));
        let file = disk.create("a").unwrap();
        assert!(disk.allocate(&file, 10).unwrap_err().is_no_space());
        disk.allocate(&file, 10).unwrap();
        disk.fail(disk.operations(), Fault::PowerCut);
        assert!(disk.sync_data(&file).is_err());
        assert!(disk.sync_directory().is_err());
        disk.power_cut(Loss::Nothing);
        assert_eq!(disk.files()["a"], [0; 10]);
    }

    #[test]
    fn an_aimed_fault_waits_for_its_operation() {
        let disk = SimDisk::new();
        let aim: Aim = |operation, name| operation == Operation::Sync && name == "b";
        disk.fail_when(aim, Fault::Error(libc_errno::EIO));
        let (one, other) = (disk.create("a").unwrap(), disk.create("b").unwrap());
        disk.sync_data(&one).unwrap();
        assert!(disk.sync_data(&other).is_err());
        disk.sync_data(&other).unwrap();
    }

    #[test]
    fn bits_flip_in_what_is_durable_until_it_is_written_again() {
        let disk = SimDisk::with_files([("a", b"old".to_vec())]);
        let file = disk.open("a").unwrap();
        write(&disk, &file, 1, b"ew");
        assert!(disk.rot("a", 0, 1) && disk.rot("a", 1, 1));
        assert!(!disk.rot("a", 3, 1) && !disk.rot("b", 0, 1));
        assert_eq!(disk.files()["a"], b"new");
        assert_eq!(disk.damaged(), ["a"]);
        let lost = disk.fork();
        lost.power_cut(Loss::Everything);
        assert_eq!(lost.files()["a"], b"nmd");
        disk.sync_data(&file).unwrap();
        disk.power_cut(Loss::Everything);
        assert_eq!(disk.files()["a"], b"new");
    }

    #[test]
    fn a_misdirected_write_replaces_sectors_and_leaves_its_own_as_they_were() {
        let mut landed = BTreeSet::new();
        for choice in 0..200 {
            let files = [("a", vec![1; 1500]), ("b", vec![2; 700])];
            let disk = SimDisk::with_files(files);
            let file = disk.open("a").unwrap();
            disk.fail(0, Fault::Misdirected(choice));
            write(&disk, &file, 1000, &[7; 100]);
            assert_eq!(disk.misdirected()[0].meant_for, "a");
            let files = disk.files();
            disk.power_cut(Loss::Everything);
            assert_eq!(disk.files(), files, "it was durable at once");
            let (a, b) = (&files["a"], &files["b"]);
            assert_eq!((a.len(), b.len()), (1500, 700));
            assert_ne!(a[1000..1024], [7; 24], "not here");
            let whole = |content: &Vec<u8>| content.windows(100).position(|w| w == [7; 100]);
            landed.insert((whole(a), whole(b)));
        }
        // 1000 is 488 in its sector; where a file ends the rest is lost.
        let places = [(Some(488), None), (None, Some(488)), (None, None)];
        assert!(landed.is_superset(&BTreeSet::from(places)), "{landed:?}");
    }

    #[test]
    fn a_full_disk_refuses_to_grow() {
        let disk = SimDisk::new();
        disk.set_space(Some(100));
        let file = disk.create("a").unwrap();
        disk.allocate(&file, 100).unwrap();
        let other = disk.create("b").unwrap();
        let refused = disk.write_at(&other, 0, &[IoSlice::new(b"x")]);
        assert!(refused.unwrap_err().is_no_space());
    }
}
