//! What server processes use of the machine, from `/proc`.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::stat::{major, minor};

/// Ticks per second in `/proc/PID/stat`: a constant of Linux's interface, whatever the kernel's own
/// clock does.
const TICKS_PER_SECOND: u64 = 100;

/// What a set of processes has used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Processor time in all threads, user and system, in microseconds; a hundredth of a second is
    /// the finest step.
    pub cpu_us: u64,
    /// Memory in use now, in bytes.
    pub rss: u64,
    /// The most that was ever in use, in bytes.
    pub rss_peak: u64,
    /// Bytes written to disks by the kernel's account, which takes a whole cached unit (up to some
    /// MiB on newer file systems) for each write into it: right for direct I/O, far too much
    /// otherwise. [`device_bytes_written`] is what to compare.
    pub disk_bytes: u64,
    /// Bytes given to write calls, to sockets and memory file systems as well.
    pub written_bytes: u64,
}

impl Usage {
    /// The sum over the given processes. A process that cannot be read counts as nothing.
    pub fn of(pids: &[u32]) -> Usage {
        pids.iter().fold(Usage::default(), |sum, &pid| {
            let one = Usage::of_one(pid).unwrap_or_default();
            Usage {
                cpu_us: sum.cpu_us + one.cpu_us,
                rss: sum.rss + one.rss,
                rss_peak: sum.rss_peak + one.rss_peak,
                disk_bytes: sum.disk_bytes + one.disk_bytes,
                written_bytes: sum.written_bytes + one.written_bytes,
            }
        })
    }

    /// What was used since `start`; memory is a state and stays as it is.
    pub fn since(self, start: &Usage) -> Usage {
        Usage {
            cpu_us: self.cpu_us.saturating_sub(start.cpu_us),
            disk_bytes: self.disk_bytes.saturating_sub(start.disk_bytes),
            written_bytes: self.written_bytes.saturating_sub(start.written_bytes),
            ..self
        }
    }

    fn of_one(pid: u32) -> Option<Usage> {
        let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).ok();
        let ticks = cpu_ticks(&read("stat")?)?;
        let (status, io) = (read("status")?, read("io")?);
        Some(Usage {
            cpu_us: ticks * (1_000_000 / TICKS_PER_SECOND),
            rss: field(&status, "VmRSS:")? * 1024,
            rss_peak: field(&status, "VmHWM:")? * 1024,
            disk_bytes: field(&io, "write_bytes:")?,
            written_bytes: field(&io, "wchar:")?,
        })
    }
}

/// Bytes written so far, by anybody, to the device that a directory is on; `None` if that is no
/// block device, as for file systems in memory.
pub fn device_bytes_written(dir: &Path) -> Option<u64> {
    /// The unit of the kernel's block statistics, whatever the device's own is.
    const SECTOR_SIZE: u64 = 512;
    let device = fs::metadata(dir).ok()?.dev();
    let (major, minor) = (major(device), minor(device));
    let stat = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).ok()?;
    let sectors: u64 = stat.split_ascii_whitespace().nth(6)?.parse().ok()?;
    Some(sectors * SECTOR_SIZE)
}

/// User and system time: the 14th and 15th field. The 2nd is the program's name in parentheses and
/// may hold anything, so fields are counted from the last closing one.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// The number after a label at the start of a line.
fn field(text: &str, label: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(label))?;
    rest.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let stat = "42 (a (b) c) S 1 42 42 0 -1 4194560 100 0 0 0 7 5 0 0 20 0 1 0 100 0 0";
        assert_eq!(cpu_ticks(stat), Some(12));
        assert_eq!(cpu_ticks("42 (short) S 1"), None);
        assert_eq!(cpu_ticks(""), None);
    }

    #[test]
    fn fields_are_found_at_the_start_of_a_line_only() {
        let io = "rchar: 5\nwchar: 6\ncancelled_write_bytes: 9\nwrite_bytes: 8\n";
        assert_eq!(field(io, "write_bytes:"), Some(8));
        assert_eq!(field(io, "absent:"), None);
    }

    #[test]
    fn this_process_uses_memory_and_one_that_is_not_there_uses_nothing() {
        assert!(Usage::of(&[std::process::id()]).rss > 0);
        assert_eq!(Usage::of(&[u32::MAX]), Usage::default());
        assert_eq!(Usage::of(&[]), Usage::default());
    }
}
