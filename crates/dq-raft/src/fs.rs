//! The real disk: a directory of the file system.
//!
//! Plain buffered writes at exact offsets and `fdatasync`: the block size that C dqlite writes with
//! leaves no trace in the files, so neither `O_DIRECT` nor kernel AIO is needed. Every file is
//! created with mode 0600 and close-on-exec; interrupted calls are repeated here and nowhere else.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, IoSlice};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;

use crate::disk::{Cause, Disk, DiskError, Listed, Operation, libc_errno};

/// The files of one directory.
#[derive(Debug, Clone)]
pub struct FsDisk {
    directory: Arc<PathBuf>,
}

/// An open file and the name that it was opened by, for messages.
#[derive(Debug)]
pub struct FsFile {
    file: File,
    name: String,
}

impl FsDisk {
    /// The disk that is the directory at `path`. The path is made absolute, so that the process may
    /// change its working directory later.
    pub fn new(path: &Path) -> io::Result<FsDisk> {
        Ok(FsDisk {
            directory: Arc::new(path.canonicalize()?),
        })
    }

    /// The directory's absolute path.
    pub fn path(&self) -> &Path {
        &self.directory
    }

    fn open_with(
        &self,
        operation: Operation,
        name: &str,
        options: &mut OpenOptions,
    ) -> Result<FsFile, DiskError> {
        let file = options
            .read(true)
            .write(true)
            .mode(0o600)
            .open(self.directory.join(name))
            .map_err(|e| error(operation, name, &e))?;
        Ok(FsFile {
            file,
            name: name.to_owned(),
        })
    }
}

impl Disk for FsDisk {
    type File = FsFile;

    fn list(&self) -> Result<Vec<Listed>, DiskError> {
        let failed = |e: io::Error| error(Operation::List, "", &e);
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&*self.directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            // A name that is not UTF-8 is none of ours.
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                // Removed since the directory was read, by somebody whose file it was.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(error(Operation::List, &name, &e)),
            };
            if metadata.is_file() {
                files.push(Listed {
                    name,
                    size: metadata.len(),
                });
            }
        }
        Ok(files)
    }

    fn open(&self, name: &str) -> Result<FsFile, DiskError> {
        self.open_with(Operation::Open, name, &mut OpenOptions::new())
    }

    fn create(&self, name: &str) -> Result<FsFile, DiskError> {
        self.open_with(Operation::Create, name, OpenOptions::new().create_new(true))
    }

    fn lock(&self, name: &str) -> Result<FsFile, DiskError> {
        let file = self.open_with(Operation::Lock, name, OpenOptions::new().create(true))?;
        loop {
            match file.file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) => {
                    return Err(DiskError::new(
                        Operation::Lock,
                        name,
                        Cause::Os(libc_errno::EWOULDBLOCK),
                    ));
                }
                Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(TryLockError::Error(e)) => return Err(error(Operation::Lock, name, &e)),
            }
        }
    }

    fn allocate(&self, file: &FsFile, size: u64) -> Result<(), DiskError> {
        let failed = |e: &io::Error| error(Operation::Allocate, &file.name, e);
        let current = file.file.metadata().map_err(|e| failed(&e))?.len();
        if current >= size {
            return Ok(());
        }
        match fallocate(&file.file, current, size - current) {
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => {
                // This file system cannot set space aside: writing zeros does.
                write_zeros(&file.file, current, size).map_err(|e| failed(&e))
            }
            Err(errno) => Err(DiskError::new(
                Operation::Allocate,
                &file.name,
                Cause::Os(errno as i32),
            )),
            Ok(()) => Ok(()),
        }
    }

    fn size(&self, file: &FsFile) -> Result<u64, DiskError> {
        match file.file.metadata() {
            Ok(metadata) => Ok(metadata.len()),
            Err(e) => Err(error(Operation::Read, &file.name, &e)),
        }
    }

    fn read_at(&self, file: &FsFile, offset: u64, buffer: &mut [u8]) -> Result<usize, DiskError> {
        let mut done = 0;
        while done < buffer.len() {
            match file.file.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(error(Operation::Read, &file.name, &e)),
            }
        }
        Ok(done)
    }

    fn write_at(
        &self,
        file: &FsFile,
        offset: u64,
        pieces: &[IoSlice<'_>],
    ) -> Result<(), DiskError> {
        write_pieces(&file.file, offset, pieces)
            .map_err(|cause| DiskError::new(Operation::Write, &file.name, cause))
    }

    fn sync_data(&self, file: &FsFile) -> Result<(), DiskError> {
        file.file
            .sync_data()
            .map_err(|e| error(Operation::Sync, &file.name, &e))
    }

    fn truncate(&self, file: &FsFile, size: u64) -> Result<(), DiskError> {
        file.file
            .set_len(size)
            .map_err(|e| error(Operation::Truncate, &file.name, &e))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        std::fs::rename(self.directory.join(from), self.directory.join(to))
            .map_err(|e| error(Operation::Rename, from, &e))
    }

    fn remove(&self, name: &str) -> Result<(), DiskError> {
        std::fs::remove_file(self.directory.join(name))
            .map_err(|e| error(Operation::Remove, name, &e))
    }

    fn sync_directory(&self) -> Result<(), DiskError> {
        File::open(&*self.directory)
            .and_then(|directory| directory.sync_all())
            .map_err(|e| error(Operation::Sync, "", &e))
    }
}

fn error(operation: Operation, name: &str, e: &io::Error) -> DiskError {
    let cause = match e.raw_os_error() {
        Some(errno) => Cause::Os(errno),
        None => Cause::Incomplete,
    };
    DiskError::new(operation, name, cause)
}

#[cfg(target_os = "linux")]
fn fallocate(file: &File, offset: u64, length: u64) -> Result<(), Errno> {
    use nix::fcntl::{FallocateFlags, fallocate};

    let offset = i64::try_from(offset).map_err(|_| Errno::EFBIG)?;
    let length = i64::try_from(length).map_err(|_| Errno::EFBIG)?;
    loop {
        match fallocate(file, FallocateFlags::empty(), offset, length) {
            Err(Errno::EINTR) => {}
            done => return done,
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn fallocate(_file: &File, _offset: u64, _length: u64) -> Result<(), Errno> {
    Err(Errno::EOPNOTSUPP)
}

fn write_zeros(file: &File, from: u64, to: u64) -> io::Result<()> {
    let zeros = vec![0; 1 << 20];
    let mut at = from;
    while at < to {
        let length = usize::try_from(to - at).map_or(zeros.len(), |rest| rest.min(zeros.len()));
        file.write_all_at(&zeros[..length], at)?;
        at += length as u64;
    }
    Ok(())
}

/// `pwritev`, as often as the kernel's limit on pieces and short writes make necessary: once, but
/// for the largest batches.
fn write_pieces(file: &File, offset: u64, pieces: &[IoSlice<'_>]) -> Result<(), Cause> {
    /// IOV_MAX of Linux and macOS.
    const PIECES_MAX: usize = 1024;

    let mut at = offset;
    for group in pieces.chunks(PIECES_MAX) {
        let mut group: Vec<&[u8]> = group.iter().map(|piece| &**piece).collect();
        let mut rest = &mut group[..];
        loop {
            while rest.first().is_some_and(|piece| piece.is_empty()) {
                rest = &mut rest[1..];
            }
            if rest.is_empty() {
                break;
            }
            let slices: Vec<IoSlice<'_>> = rest.iter().map(|piece| IoSlice::new(piece)).collect();
            let position = i64::try_from(at).map_err(|_| Cause::Os(Errno::EFBIG as i32))?;
            let mut written = match nix::sys::uio::pwritev(file, &slices, position) {
                Ok(0) => return Err(Cause::Incomplete),
                Ok(written) => written,
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(Cause::Os(errno as i32)),
            };
            at += written as u64;
            while written > 0 {
                let step = written.min(rest[0].len());
                rest[0] = &rest[0][step..];
                written -= step;
                if rest[0].is_empty() {
                    rest = &mut rest[1..];
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn disk() -> (tempfile::TempDir, FsDisk) {
        let directory = tempfile::tempdir().unwrap();
        let disk = FsDisk::new(directory.path()).unwrap();
        (directory, disk)
    }

    #[test]
    fn pieces_land_one_after_the_other_however_many_there_are() {
        let (_directory, disk) = disk();
        let file = disk.create("f").unwrap();
        let content: Vec<u8> = (0..3000u32).map(|i| i as u8).collect();
        let mut pieces: Vec<IoSlice<'_>> = content.chunks(1).map(IoSlice::new).collect();
        pieces.insert(7, IoSlice::new(&[]));
        pieces.push(IoSlice::new(&[]));
        disk.write_at(&file, 5, &pieces).unwrap();
        let read = disk.read("f", 10_000).unwrap();
        assert_eq!(read[..5], [0; 5]);
        assert_eq!(read[5..], content);
    }

    #[test]
    fn allocation_extends_with_zeros_and_never_shrinks() {
        let (_directory, disk) = disk();
        let file = disk.create("f").unwrap();
        disk.write_at(&file, 0, &[IoSlice::new(b"ab")]).unwrap();
        disk.allocate(&file, 10_000).unwrap();
        assert_eq!(disk.size(&file).unwrap(), 10_000);
        disk.allocate(&file, 10).unwrap();
        let content = disk.read("f", 10_000).unwrap();
        assert_eq!(content.len(), 10_000);
        assert_eq!(&content[..4], b"ab\0\0");
    }

    #[test]
    fn zeros_are_written_where_space_cannot_be_set_aside() {
        let (_directory, disk) = disk();
        let file = disk.create("f").unwrap();
        write_zeros(&file.file, 0, (1 << 20) + 3).unwrap();
        assert_eq!(disk.size(&file).unwrap(), (1 << 20) + 3);
    }

    #[test]
    fn files_belong_to_their_owner_alone_and_are_created_once() {
        let (directory, disk) = disk();
        disk.create("f").unwrap();
        let mode = std::fs::metadata(directory.path().join("f"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        let again = disk.create("f").unwrap_err();
        assert_eq!(again.operation, Operation::Create);
        assert_eq!(again.cause, Cause::Os(libc_errno::EEXIST));
    }

    #[test]
    fn a_lock_excludes_until_its_file_is_dropped() {
        let (_directory, disk) = disk();
        let held = disk.lock("dqlite-lock").unwrap();
        assert!(disk.lock("dqlite-lock").unwrap_err().is_locked());
        drop(held);
        disk.lock("dqlite-lock").unwrap();
    }

    #[test]
    fn a_listing_holds_regular_files_only() {
        let (directory, disk) = disk();
        disk.create("f").unwrap();
        std::fs::create_dir(directory.path().join("d")).unwrap();
        let names: Vec<String> = disk.list().unwrap().into_iter().map(|l| l.name).collect();
        assert_eq!(names, ["f"]);
    }

    #[test]
    fn a_file_larger_than_allowed_is_not_read() {
        let (_directory, disk) = disk();
        let file = disk.create("f").unwrap();
        disk.truncate(&file, 1 << 40).unwrap();
        let error = disk.read("f", 100).unwrap_err();
        assert!(matches!(error.cause, Cause::TooLarge { .. }));
    }
}
