//! Metrics from outside of the event loop: asked of it, completed with what the disk says.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::bounded;
use dq_wire::disk::names::FileName;

use super::mailbox::{Mail, Mailbox};
use crate::metrics::{DiskMetrics, Metrics};

/// Longest wait for the event loop's answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Reads a node's metrics; cheap to clone.
#[derive(Debug, Clone)]
pub struct Meter {
    mailbox: Mailbox,
    dir: Arc<PathBuf>,
}

impl Meter {
    /// For the node behind this mailbox, whose data are in `dir`.
    pub fn new(mailbox: Mailbox, dir: PathBuf) -> Meter {
        let dir = Arc::new(dir);
        Meter { mailbox, dir }
    }

    /// How everything is; `None` if the node has stopped, or is stuck.
    pub fn read(&self) -> Option<Metrics> {
        let (reply, answer) = bounded(1);
        self.mailbox.send(Mail::Metrics(reply));
        let mut metrics = *answer.recv_timeout(PATIENCE).ok()?;
        // The disk may be slow, and is none of the loop's business.
        metrics.disk = self.disk();
        Some(metrics)
    }

    fn disk(&self) -> Option<DiskMetrics> {
        let mut disk = DiskMetrics::default();
        for entry in std::fs::read_dir(&*self.dir).ok()? {
            let entry = entry.ok()?;
            // One that has just been removed counts as nothing.
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            let name = entry.file_name();
            let part = match name.to_str().map(FileName::parse) {
                Some(Some(FileName::OpenSegment { .. } | FileName::ClosedSegment { .. })) => {
                    &mut disk.log
                }
                Some(Some(FileName::Snapshot(_) | FileName::SnapshotMeta(_))) => {
                    &mut disk.snapshots
                }
                _ => &mut disk.other,
            };
            *part += metadata.len();
        }
        let system = nix::sys::statvfs::statvfs(&*self.dir).ok()?;
        disk.free = system.blocks_available() as u64 * system.fragment_size() as u64;
        Some(disk)
    }
}
