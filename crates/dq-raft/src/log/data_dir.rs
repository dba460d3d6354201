//! A data directory as a whole: taking it, beginning it, opening it, and forcing a configuration.
//!
//! Nothing is touched before the lock is held. It is the lock file of C dqlite (1.16.5 and later), so
//! a node of either kind keeps the other out. The lock belongs to the [`DataDir`]: keep that until the
//! last write is done.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::Path;

use bytes::Bytes;
use dq_wire::disk::names::{FileName, LOCK_FILE};
use dq_wire::{Configuration, Role, Server};
use nix::unistd::{AccessFlags, access};

use crate::disk::{Disk, DiskError};
use crate::fs::FsDisk;
use crate::log::execute::{encode_segment, put_file};
use crate::log::recover::{RecoverError, RecoverOptions, analyze, recover, recover_after};
use crate::log::writer::LogWriter;
use crate::types::{DiskOp, EntryKind, LogEntry, Persist, Recovered};

/// A data directory that is ours, by its lock.
///
/// ```
/// use dq_raft::log::data_dir::{Bootstrap, DataDir};
/// use dq_raft::log::recover::RecoverOptions;
/// # let directory = tempfile::tempdir()?;
///
/// let dir = DataDir::open(directory.path())?;
/// let options = RecoverOptions::default();
/// assert_eq!(dir.bootstrap(1, "127.0.0.1:9001", &options)?, Bootstrap::Done);
/// let (recovered, mut writer) = dir.recover(&options)?;
/// assert_eq!((recovered.term, recovered.entries.len()), (1, 1));
/// writer.prepare()?;
/// writer.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct DataDir<D: Disk = FsDisk> {
    disk: D,
    _lock: D::File,
}

/// What [`DataDir::bootstrap`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bootstrap {
    /// The directory was empty, and is that of a cluster of one now.
    Done,
    /// The directory has been in use.
    AlreadyThere,
}

impl DataDir<FsDisk> {
    /// Takes the directory at `path`.
    ///
    /// # Errors
    /// It is none that a node can use, or another node uses it.
    pub fn open(path: &Path) -> Result<DataDir<FsDisk>, OpenError> {
        DataDir::with_disk(DataDir::look(path)?)
    }

    /// Whether a node can use the directory at `path`: it exists, and can be read and written. Takes
    /// no lock and changes nothing.
    ///
    /// # Errors
    /// It is none that a node can use.
    pub fn look(path: &Path) -> Result<FsDisk, OpenError> {
        /// The longest path in bytes that C dqlite takes.
        const PATH_SIZE_MAX: usize = 894;

        let dir = path.display().to_string();
        if path.as_os_str().len() > PATH_SIZE_MAX {
            return Err(OpenError::PathTooLong);
        }
        match std::fs::metadata(path) {
            Ok(metadata) if !metadata.is_dir() => return Err(OpenError::NotADirectory { dir }),
            Ok(_) => {}
            Err(e) => {
                return Err(match e.kind() {
                    io::ErrorKind::NotFound => OpenError::DoesNotExist { dir },
                    io::ErrorKind::PermissionDenied => OpenError::NoAccess { dir },
                    _ => OpenError::Stat {
                        dir,
                        why: e.to_string(),
                    },
                });
            }
        }
        if access(path, AccessFlags::R_OK | AccessFlags::X_OK).is_err() {
            return Err(OpenError::NoAccess { dir });
        }
        if access(path, AccessFlags::W_OK).is_err() {
            return Err(OpenError::NotWritable { dir });
        }
        FsDisk::new(path).map_err(|e| OpenError::Stat {
            dir,
            why: e.to_string(),
        })
    }
}

impl<D: Disk> DataDir<D> {
    /// Takes a disk.
    ///
    /// # Errors
    /// Another node uses it, or it fails.
    pub fn with_disk(disk: D) -> Result<DataDir<D>, OpenError> {
        match disk.lock(LOCK_FILE) {
            Ok(lock) => Ok(DataDir { disk, _lock: lock }),
            Err(error) if error.is_locked() => Err(OpenError::Locked),
            Err(error) => Err(OpenError::Disk(error)),
        }
    }

    /// The disk, for snapshots and inspection.
    pub fn disk(&self) -> &D {
        &self.disk
    }

    /// Makes an empty directory that of a new cluster, whose only member, a voter, is this node.
    ///
    /// # Errors
    /// See [`RecoverError`].
    pub fn bootstrap(
        &self,
        id: u64,
        address: &str,
        options: &RecoverOptions,
    ) -> Result<Bootstrap, RecoverError> {
        let (recovered, mut writer) = self.recover(options)?;
        let is_empty = recovered.snapshot.is_none() && recovered.entries.is_empty();
        if recovered.term != 0 || !is_empty {
            return Ok(Bootstrap::AlreadyThere);
        }
        let servers = vec![Server {
            id,
            address: address.to_owned(),
            role: Role::Voter,
        }];
        // The log first: with metadata and no log this node would wait to be added, for ever. A log
        // without metadata is begun again.
        self.put_configuration(1, 1, &Configuration { servers })?;
        let ops = vec![DiskOp::HardState { term: 1, vote: 0 }];
        writer.write(&[Persist { id: 1, ops }])?;
        Ok(Bootstrap::Done)
    }

    /// Repairs and reads the directory: what the node starts with, and the log's writer.
    ///
    /// # Errors
    /// See [`RecoverError`].
    pub fn recover(
        &self,
        options: &RecoverOptions,
    ) -> Result<(Recovered, LogWriter<D>), RecoverError> {
        recover(self.disk.clone(), options)
    }

    /// As [`DataDir::recover`], but asks `look` about what was found before it changes anything (other
    /// than what automatic recovery sets aside): an error of it is the answer.
    ///
    /// # Errors
    /// See [`RecoverError`], and those of `look`.
    pub fn recover_after<T, E: From<RecoverError>>(
        &self,
        options: &RecoverOptions,
        look: impl FnOnce(&Recovered) -> Result<T, E>,
    ) -> Result<(Recovered, LogWriter<D>, T), E> {
        recover_after(self.disk.clone(), options, look)
    }

    /// Forces a configuration: appends it to the log, in the current term and a closed segment of
    /// its own, as if it had been replicated. For clusters that have lost their majority: stop all
    /// nodes, do this on one, copy its directory to the others.
    ///
    /// Returns index and term of the entry.
    ///
    /// # Errors
    /// See [`RecoverError`].
    pub fn force_configuration(
        &self,
        configuration: &Configuration,
        options: &RecoverOptions,
    ) -> Result<(u64, u64), RecoverError> {
        let (recovered, writer) = self.recover(options)?;
        if recovered.term == 0 {
            return Err(RecoverError::NeverStarted);
        }
        let index = writer.last_index() + 1;
        writer.close()?;
        self.put_configuration(index, recovered.term, configuration)?;
        Ok((index, recovered.term))
    }

    fn put_configuration(
        &self,
        index: u64,
        term: u64,
        configuration: &Configuration,
    ) -> Result<(), DiskError> {
        let mut payload = Vec::new();
        configuration.encode(&mut payload);
        let entry = LogEntry {
            index,
            term,
            kind: EntryKind::Change,
            payload: Bytes::from(payload).into(),
        };
        let name = FileName::ClosedSegment {
            first: index,
            last: index,
        };
        put_file(&self.disk, name, &encode_segment(&[entry]))
    }
}

/// Whether a cluster can have these members: at least one votes, and no two share an id or an address.
///
/// # Errors
/// What is wrong with them.
pub fn check_members(configuration: &Configuration) -> Result<(), &'static str> {
    let servers = &configuration.servers;
    let ids: BTreeSet<u64> = servers.iter().map(|server| server.id).collect();
    let addresses: BTreeSet<&str> = servers.iter().map(|s| s.address.as_str()).collect();
    if ids.len() < servers.len() || addresses.len() < servers.len() {
        return Err("two members have the same id or address");
    }
    if ids.contains(&0) {
        return Err("0 is no id of a member");
    }
    if addresses.contains("") {
        return Err("a member has no address");
    }
    if !servers.iter().any(|server| server.role == Role::Voter) {
        return Err("no member is a voter");
    }
    Ok(())
}

/// Index and term of the last entry in a directory (of its snapshot, if there is none; zeros, if
/// there is nothing). Changes nothing and takes no lock: on the directory of a running node the
/// answer may be late, or an error.
///
/// # Errors
/// See [`RecoverError`].
pub fn last_entry<D: Disk>(disk: &D, options: &RecoverOptions) -> Result<(u64, u64), RecoverError> {
    Ok(analyze(disk, options)?.last_entry())
}

/// Why a directory cannot be taken. The texts are those of C dqlite, without its prefixes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpenError {
    /// The path is longer than C dqlite takes.
    PathTooLong,
    /// There is nothing at the path.
    DoesNotExist {
        /// The path.
        dir: String,
    },
    /// There is something else at the path.
    NotADirectory {
        /// The path.
        dir: String,
    },
    /// The directory cannot be read.
    NoAccess {
        /// The path.
        dir: String,
    },
    /// The directory cannot be written to.
    NotWritable {
        /// The path.
        dir: String,
    },
    /// It cannot be found out what is at the path.
    Stat {
        /// The path.
        dir: String,
        /// The system's reason.
        why: String,
    },
    /// Another node uses the directory.
    Locked,
    /// The disk failed.
    Disk(DiskError),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::PathTooLong => f.write_str("directory path too long"),
            OpenError::DoesNotExist { dir } => write!(f, "directory '{dir}' does not exist"),
            OpenError::NotADirectory { dir } => write!(f, "path '{dir}' is not a directory"),
            OpenError::NoAccess { dir } => write!(f, "can't access directory '{dir}'"),
            OpenError::NotWritable { dir } => write!(f, "directory '{dir}' is not writable"),
            OpenError::Stat { dir, why } => write!(f, "can't stat '{dir}': {why}"),
            OpenError::Locked => f.write_str("couldn't lock the raft directory"),
            OpenError::Disk(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for OpenError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim_disk::{Fault, Loss, SimDisk};

    #[test]
    fn a_bootstrapped_directory_has_the_bytes_of_the_original() {
        let disk = SimDisk::new();
        let dir = DataDir::with_disk(disk.clone()).unwrap();
        let options = RecoverOptions::default();
        assert_eq!(dir.bootstrap(1, "1", &options), Ok(Bootstrap::Done));
        assert_eq!(dir.bootstrap(1, "1", &options), Ok(Bootstrap::AlreadyThere));
        let files = disk.files();
        let names: Vec<&str> = files.keys().map(String::as_str).collect();
        let segment = "0000000000000001-0000000000000001";
        assert_eq!(names, [segment, "dqlite-lock", "metadata1"]);
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        assert_eq!(
            hex(&files[segment]),
            "01000000000000007ff2049b6f5fe0a501000000000000000100000000000000\
             0300000018000000010100000000000000010000000000000031000100000000"
        );
        assert_eq!(
            hex(&files["metadata1"]),
            "0100000000000000010000000000000001000000000000000000000000000000"
        );
    }

    #[test]
    fn a_bootstrap_cut_short_can_be_repeated() {
        let options = RecoverOptions::default();
        let bootstrap = |disk: &SimDisk| {
            let dir = DataDir::with_disk(disk.clone()).unwrap();
            dir.bootstrap(1, "1", &options)
        };
        let whole = SimDisk::new();
        bootstrap(&whole).unwrap();
        for at in 1..whole.operations() {
            for loss in [
                Loss::Nothing,
                Loss::Everything,
                Loss::AllAfter(1),
                Loss::Random(at),
            ] {
                let disk = SimDisk::new();
                disk.fail(at, Fault::PowerCut);
                assert!(bootstrap(&disk).is_err());
                disk.power_cut(loss);
                bootstrap(&disk).unwrap();
                assert_eq!(bootstrap(&disk), Ok(Bootstrap::AlreadyThere));
                let mut files = disk.files();
                files.insert("dqlite-lock".into(), Vec::new());
                assert_eq!(files, whole.files());
            }
        }
    }

    #[test]
    fn a_forced_configuration_follows_the_last_entry_in_the_current_term() {
        let disk = SimDisk::new();
        let dir = DataDir::with_disk(disk.clone()).unwrap();
        let options = RecoverOptions::default();
        let configuration = Configuration {
            servers: vec![Server {
                id: 7,
                address: "here".to_owned(),
                role: Role::Voter,
            }],
        };
        assert_eq!(
            dir.force_configuration(&configuration, &options),
            Err(RecoverError::NeverStarted)
        );
        dir.bootstrap(1, "1", &options).unwrap();
        assert_eq!(last_entry(&disk, &options), Ok((1, 1)));
        assert_eq!(
            dir.force_configuration(&configuration, &options),
            Ok((2, 1))
        );
        assert_eq!(last_entry(&disk, &options), Ok((2, 1)));
        let (recovered, _) = dir.recover(&options).unwrap();
        let entry = &recovered.entries[1];
        assert_eq!(entry.kind, EntryKind::Change);
        let read = Configuration::decode(&entry.payload.to_bytes()).unwrap();
        assert_eq!(read, configuration);
    }

    #[test]
    fn a_configuration_is_forced_whole_or_not_at_all_wherever_the_power_fails() {
        let options = RecoverOptions::default();
        let configuration = |id| Configuration {
            servers: vec![Server {
                id,
                address: "here".to_owned(),
                role: Role::Voter,
            }],
        };
        // A crashed node's: an open segment, with an entry in it, has to be closed first.
        let crashed = || {
            let disk = SimDisk::new();
            let dir = DataDir::with_disk(disk.clone()).unwrap();
            dir.bootstrap(1, "1", &options).unwrap();
            let (_, mut writer) = dir.recover(&options).unwrap();
            writer.prepare().unwrap();
            let entry = LogEntry {
                index: 2,
                term: 1,
                kind: EntryKind::Barrier,
                payload: Bytes::from_static(&[0; 8]).into(),
            };
            let entries = vec![entry];
            let ops = vec![DiskOp::Append { entries }];
            writer.write(&[Persist { id: 1, ops }]).unwrap();
            drop((writer, dir));
            disk
        };
        let force = |disk: &SimDisk, id| {
            let dir = DataDir::with_disk(disk.clone()).unwrap();
            dir.force_configuration(&configuration(id), &options)
        };
        let whole = crashed();
        let before = whole.operations();
        assert_eq!(force(&whole, 7), Ok((3, 1)));
        let count = whole.operations() - before;
        assert!(count > 4, "it does something: {count}");
        for at in 1..=count {
            for loss in [Loss::Nothing, Loss::Everything, Loss::Random(at)] {
                let disk = crashed();
                disk.fail(disk.operations() + at, Fault::PowerCut);
                let done = force(&disk, 7);
                disk.power_cut(loss);
                let dir = DataDir::with_disk(disk.clone()).unwrap();
                let (recovered, writer) = dir.recover(&options).unwrap();
                writer.close().unwrap();
                let newest = crate::log::identity::configuration(&recovered).unwrap();
                let ids: Vec<u64> = newest.servers.iter().map(|server| server.id).collect();
                match recovered.entries.len() {
                    2 if done.is_err() => assert_eq!(ids, [1]),
                    3 => assert_eq!(ids, [7]),
                    other => panic!("{other} entries after {done:?}"),
                }
                drop(dir);
                let index = recovered.entries.len() as u64 + 1;
                assert_eq!(force(&disk, 8), Ok((index, 1)), "it can be repeated");
            }
        }
    }

    #[test]
    fn members_that_no_cluster_can_have_are_refused() {
        let check = |members: &[(u64, &str, Role)]| {
            let servers = members.iter().map(|(id, address, role)| Server {
                id: *id,
                address: (*address).to_owned(),
                role: *role,
            });
            check_members(&Configuration {
                servers: servers.collect(),
            })
        };
        let one = (1, "a", Role::Voter);
        assert_eq!(check(&[one, (2, "b", Role::Spare)]), Ok(()));
        for (members, why) in [
            (&[one, (1, "b", Role::Voter)][..], "same id"),
            (&[one, (2, "a", Role::Voter)], "same id or address"),
            (&[(0, "a", Role::Voter)], "no id"),
            (&[(1, "", Role::Voter)], "no address"),
            (&[(1, "a", Role::Standby)], "voter"),
            (&[], "voter"),
        ] {
            let refusal = check(members).unwrap_err();
            assert!(refusal.contains(why), "{refusal}");
        }
    }

    #[test]
    fn a_directory_that_cannot_be_used_is_refused_in_the_words_of_the_original() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let open = |path: &Path| DataDir::open(path).unwrap_err().to_string();
        let missing = path.join("missing");
        assert_eq!(
            open(&missing),
            format!("directory '{}' does not exist", missing.display())
        );
        let file = path.join("file");
        std::fs::write(&file, "").unwrap();
        assert_eq!(
            open(&file),
            format!("path '{}' is not a directory", file.display())
        );
        assert_eq!(open(Path::new(&"x".repeat(895))), "directory path too long");
        let held = DataDir::open(path).unwrap();
        assert_eq!(open(path), "couldn't lock the raft directory");
        drop(held);
        DataDir::open(path).unwrap();
    }
}
