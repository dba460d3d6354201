//! The file with the longest promise not to vote that this node may have given, in decimal milliseconds,
//! twice: a digit that has decayed would make it shorter.
//!
//! A longer one is durable before it can be given: after a crash the node must keep promises that it no
//! longer remembers. C dqlite takes no notice of the file, and a node without it waits for nothing.

use dq_raft::DiskError;
use dq_raft::disk::{self, Disk};

/// The file's name.
pub const PROMISE_FILE: &str = "dq-promise";

/// Longer than any promise, ms: a day. Such a bound is no longer the text that was written.
const BOUND_END: u64 = 86_400_000;

/// The bound in the file; 0 without one, and `unreadable` where it cannot be understood.
pub fn read<D: Disk>(disk: &D, unreadable: u64) -> Result<u64, DiskError> {
    match disk.read(PROMISE_FILE, 32) {
        Ok(bytes) => Ok(std::str::from_utf8(&bytes)
            .ok()
            .and_then(|text| text.strip_suffix('\n')?.split_once(' '))
            .filter(|(bound, again)| bound == again)
            .and_then(|(bound, _)| bound.parse().ok())
            .filter(|bound| *bound < BOUND_END)
            .unwrap_or(unreadable)),
        Err(error) if error.is_too_large() => Ok(unreadable),
        Err(error) if error.is_not_found() => Ok(0),
        Err(error) => Err(error),
    }
}

/// Makes another bound durable; for 0 the file goes.
pub fn store<D: Disk>(disk: &D, bound_ms: u64) -> Result<(), DiskError> {
    if bound_ms == 0 {
        return match disk.remove(PROMISE_FILE) {
            Err(error) if !error.is_not_found() => Err(error),
            _ => disk.sync_directory(),
        };
    }
    disk::replace(
        disk,
        PROMISE_FILE,
        format!("{bound_ms} {bound_ms}\n").as_bytes(),
    )
}

#[cfg(test)]
mod tests {
    use dq_raft::sim_disk::{Fault, SimDisk};

    use super::*;

    #[test]
    fn a_file_that_cannot_be_understood_is_taken_for_the_longest_promise() {
        let long = [b'1'; 33];
        let absurd = format!("{0} {0}\n", u64::MAX);
        let odd = [
            &b""[..],
            b"x",
            b"\xff",
            b"-1 -1\n",
            b"1\n",
            b"1 2\n",
            b"1 1",
        ];
        for content in odd.into_iter().chain([absurd.as_bytes(), &long]) {
            let disk = SimDisk::with_files([(PROMISE_FILE, content.to_vec())]);
            assert_eq!(read(&disk, 7), Ok(7), "{content:?}");
        }
    }

    #[test]
    fn no_bit_that_decays_makes_a_promise_shorter() {
        let disk = SimDisk::new();
        store(&disk, 1500).expect("stored");
        let whole = disk.files()[PROMISE_FILE].clone();
        for bit in 0..whole.len() * 8 {
            let mut content = whole.clone();
            content[bit / 8] ^= 1 << (bit % 8);
            let disk = SimDisk::with_files([(PROMISE_FILE, content)]);
            assert_eq!(read(&disk, 3000), Ok(3000), "bit {bit}");
        }
    }

    #[test]
    fn a_bound_that_cannot_be_stored_leaves_no_file_behind() {
        for operation in 0..4 {
            let disk = SimDisk::new();
            disk.fail(disk.operations() + operation, Fault::Error(5));
            store(&disk, 1500).expect_err("the disk fails");
            assert!(disk.files().is_empty(), "at operation {operation}");
            store(&disk, 1500).expect("the next time it is stored");
        }
    }

    #[test]
    fn the_bound_is_kept_replaced_and_removed() {
        let disk = SimDisk::new();
        assert_eq!(read(&disk, 7), Ok(0));
        for bound in [1500, 60, 0, 0, 9] {
            store(&disk, bound).expect("stored");
            assert_eq!(read(&disk, 7), Ok(bound));
        }
        let names: Vec<String> = disk.files().into_keys().collect();
        assert_eq!(names, [PROMISE_FILE]);
        store(&disk, 0).expect("removed");
        assert!(disk.files().is_empty());
    }
}
