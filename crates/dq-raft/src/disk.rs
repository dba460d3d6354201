//! What the log asks of a disk.
//!
//! Everything that the on-disk log does goes through the few methods of [`Disk`], so that the same
//! code runs on a directory of the real file system ([`FsDisk`](crate::fs::FsDisk)) and on a disk in
//! memory that can lose what was not synced ([`SimDisk`](crate::sim_disk::SimDisk)).
//!
//! What is assumed of a disk, and nothing more:
//!
//! - a write that was followed by a successful [`sync_data`](Disk::sync_data) of its file survives a
//!   power cut; one that was not may survive whole, in part (any subset of 512-byte sectors) or
//!   not at all, and the file's size may have changed without its content;
//! - creating, renaming and removing are atomic each, and survive a power cut when
//!   [`sync_directory`](Disk::sync_directory) came after them;
//! - a sector of 512 bytes is written whole or not at all;
//! - after an error nothing is known any more: nobody tries again.
//!
//! Names are file names inside one data directory, never paths. Methods take `&self`, so that the
//! log's writer and a snapshot's writer can share a disk; they never touch the same file.

use std::fmt;
use std::io::IoSlice;

use dq_wire::disk::names;

/// One data directory, as the log sees it.
pub trait Disk: Clone + fmt::Debug {
    /// An open file. Dropping it closes it, and gives up the lock that [`Disk::lock`] took.
    type File: fmt::Debug;

    /// All regular files of the directory, in no particular order.
    fn list(&self) -> Result<Vec<Listed>, DiskError>;

    /// Opens a file that exists, for reading and writing.
    fn open(&self, name: &str) -> Result<Self::File, DiskError>;

    /// Creates a file that must not exist, readable by its owner only.
    fn create(&self, name: &str) -> Result<Self::File, DiskError>;

    /// Opens or creates `name` and takes an exclusive lock on it, without waiting.
    /// [`DiskError::is_locked`] is true if somebody else holds it.
    fn lock(&self, name: &str) -> Result<Self::File, DiskError>;

    /// Makes the file at least `size` bytes long, new bytes zero, with its space set aside.
    fn allocate(&self, file: &Self::File, size: u64) -> Result<(), DiskError>;

    /// Current size of the file in bytes.
    fn size(&self, file: &Self::File) -> Result<u64, DiskError>;

    /// Fills as much of `buffer` as the file holds from `offset` on; short only at the end.
    fn read_at(
        &self,
        file: &Self::File,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<usize, DiskError>;

    /// Writes all pieces, one after the other, from `offset` on.
    fn write_at(
        &self,
        file: &Self::File,
        offset: u64,
        pieces: &[IoSlice<'_>],
    ) -> Result<(), DiskError>;

    /// Makes content and size durable.
    fn sync_data(&self, file: &Self::File) -> Result<(), DiskError>;

    /// Cuts the file (or extends it with zeros) to `size` bytes.
    fn truncate(&self, file: &Self::File, size: u64) -> Result<(), DiskError>;

    /// Gives a file another name, replacing what had it.
    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError>;

    /// Removes a file.
    fn remove(&self, name: &str) -> Result<(), DiskError>;

    /// Makes creations, renames and removals durable.
    fn sync_directory(&self) -> Result<(), DiskError>;

    /// The whole content of a file, which must not be larger than `size_max` bytes.
    fn read(&self, name: &str, size_max: u64) -> Result<Vec<u8>, DiskError> {
        let file = self.open(name)?;
        let size = self.size(&file)?;
        if size > size_max {
            return Err(DiskError::new(
                Operation::Read,
                name,
                Cause::TooLarge { size, size_max },
            ));
        }
        let size = usize::try_from(size).map_err(|_| {
            DiskError::new(Operation::Read, name, Cause::TooLarge { size, size_max })
        })?;
        let mut content = vec![0; size];
        let got = self.read_at(&file, 0, &mut content)?;
        content.truncate(got);
        Ok(content)
    }
}

/// A file of the directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
}

/// A disk operation that failed: which one, on which file, why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskError {
    /// What was tried.
    pub operation: Operation,
    /// The file's name inside the data directory; empty for the directory itself.
    pub file: String,
    /// Why it failed.
    pub cause: Cause,
}

/// A kind of disk operation, as it appears in messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Listing the directory.
    List,
    /// Opening a file.
    Open,
    /// Creating a file.
    Create,
    /// Locking a file.
    Lock,
    /// Setting space aside.
    Allocate,
    /// Reading.
    Read,
    /// Writing.
    Write,
    /// Making durable.
    Sync,
    /// Changing a file's size.
    Truncate,
    /// Giving another name.
    Rename,
    /// Removing.
    Remove,
}

/// Why a disk operation failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The operating system's error number.
    Os(i32),
    /// The operation ended without an error and without having done all.
    Incomplete,
    /// The file is larger than any valid one.
    TooLarge {
        /// Size found.
        size: u64,
        /// Largest size accepted.
        size_max: u64,
    },
}

impl DiskError {
    /// An error of `operation` on `file`.
    pub fn new(operation: Operation, file: &str, cause: Cause) -> DiskError {
        DiskError {
            operation,
            file: file.to_owned(),
            cause,
        }
    }

    /// True if there was no space left, or no quota.
    pub fn is_no_space(&self) -> bool {
        matches!(
            self.cause,
            Cause::Os(libc_errno::ENOSPC | libc_errno::EDQUOT)
        )
    }

    /// True if [`Disk::lock`] found the lock taken.
    pub fn is_locked(&self) -> bool {
        self.operation == Operation::Lock && self.cause == Cause::Os(libc_errno::EWOULDBLOCK)
    }

    /// True if the file does not exist.
    pub fn is_not_found(&self) -> bool {
        self.cause == Cause::Os(libc_errno::ENOENT)
    }

    /// Whether the file was larger than the caller could use.
    pub fn is_too_large(&self) -> bool {
        matches!(self.cause, Cause::TooLarge { .. })
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Operation::List => "list",
            Operation::Open => "open",
            Operation::Create => "create",
            Operation::Lock => "lock",
            Operation::Allocate => "allocate",
            Operation::Read => "read",
            Operation::Write => "write",
            Operation::Sync => "sync",
            Operation::Truncate => "truncate",
            Operation::Rename => "rename",
            Operation::Remove => "remove",
        })
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Os(errno) => write!(f, "{}", std::io::Error::from_raw_os_error(*errno)),
            Cause::Incomplete => f.write_str("ended early"),
            Cause::TooLarge { size, size_max } => {
                write!(f, "{size} bytes, more than {size_max}")
            }
        }
    }
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = match self.file.as_str() {
            "" => "data directory",
            name => name,
        };
        write!(f, "{} {file}: {}", self.operation, self.cause)
    }
}

impl std::error::Error for DiskError {}

/// Makes `contents` the whole of a small file, durably: after a power cut it holds this or what it held
/// before.
///
/// # Errors
/// The disk's; the file is as it was, and nothing is left beside it if that can be helped.
pub fn replace<D: Disk>(disk: &D, name: &str, contents: &[u8]) -> Result<(), DiskError> {
    let temporary = names::temporary(&name);
    let put = || {
        let file = disk.create(&temporary)?;
        disk.write_at(&file, 0, &[IoSlice::new(contents)])?;
        disk.sync_data(&file)?;
        disk.rename(&temporary, name)
    };
    put().inspect_err(|_| {
        // What cannot be removed now is removed at the next start.
        let _ = disk.remove(&temporary);
    })?;
    disk.sync_directory()
}

/// The error numbers that the log looks at, under names that do not depend on the platform.
pub(crate) mod libc_errno {
    use nix::errno::Errno;

    pub(crate) const ENOSPC: i32 = Errno::ENOSPC as i32;
    pub(crate) const EDQUOT: i32 = Errno::EDQUOT as i32;
    pub(crate) const ENOENT: i32 = Errno::ENOENT as i32;
    pub(crate) const EEXIST: i32 = Errno::EEXIST as i32;
    pub(crate) const EIO: i32 = Errno::EIO as i32;
    pub(crate) const EWOULDBLOCK: i32 = Errno::EWOULDBLOCK as i32;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_operation_and_the_file() {
        let error = DiskError::new(Operation::Write, "open-1", Cause::Os(libc_errno::ENOSPC));
        assert!(error.to_string().starts_with("write open-1: No space left"));
        assert!(error.is_no_space());
        let error = DiskError::new(Operation::List, "", Cause::Os(libc_errno::EIO));
        assert!(error.to_string().starts_with("list data directory: "));
        assert!(!error.is_no_space());
    }
}
