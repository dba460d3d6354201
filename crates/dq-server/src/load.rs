//! Reads a data directory into what a node starts from.

use std::path::Path;

use dq_raft::log::identity;
use dq_raft::{
    DataDir, DiskError, FsDisk, LogWriter, Options, ReadMode, ReadOptions, RecoverOptions,
    Recovered,
};

use crate::fsm::{self, Images};
use crate::handle::{BOOTSTRAP_ID, StartError};
use crate::io::clock;
use crate::promise;

/// Bytes of the log kept in memory; older entries are on disk only.
pub(crate) const LOG_BYTES_MAX: u64 = 16 << 20;

/// Bytes of the log from before the snapshot that are read at the start, so that a leader need not send
/// a snapshot to each follower that was not quite up to date.
const TRAILING_BYTES_MAX: u64 = 64 << 20;

/// Which directory, and whose.
pub(crate) struct Load<'a> {
    pub(crate) dir: &'a Path,
    pub(crate) id: u64,
    pub(crate) address: &'a str,
    pub(crate) auto_recovery: bool,
    /// Whether an empty directory may become that of a new cluster.
    pub(crate) bootstrap: bool,
}

/// A directory that is locked and read.
pub(crate) struct Loaded {
    pub(crate) dir: DataDir,
    pub(crate) recovered: Recovered,
    pub(crate) writer: LogWriter<FsDisk>,
    pub(crate) databases: Images,
}

impl Loaded {
    /// What the driver has to know of promises.
    pub(crate) fn reads(
        &self,
        mode: ReadMode,
        options: &Options,
    ) -> Result<ReadOptions, DiskError> {
        // Whatever it said, no node of this kind has promised longer than this.
        let found = promise::read(self.dir.disk(), ReadOptions::promise_ms(options))?;
        Ok(ReadOptions {
            mode,
            promise_found_ms: found,
            promise_bound_ms: found,
        })
    }
}

/// Locks and reads the directory; an empty one becomes that of a new cluster if the id is one that
/// starts clusters.
pub(crate) fn load(load: &Load<'_>) -> Result<Loaded, StartError> {
    let dir = DataDir::open(load.dir).map_err(StartError::Directory)?;
    let recorded = identity::read(dir.disk()).map_err(StartError::disk)?;
    let mut options = RecoverOptions {
        // What is perhaps somebody else's is not touched before that is clear.
        auto_recovery: load.auto_recovery && recorded.is_none_or(|id| id == load.id),
        trailing_bytes_max: TRAILING_BYTES_MAX,
        now_nanos: clock::wall_nanos(),
        ..RecoverOptions::default()
    };
    let look = |recovered: &Recovered| load.look(&dir, recorded, recovered);
    let (mut recovered, mut writer, databases) = dir.recover_after(&options, look)?;
    options.auto_recovery = load.auto_recovery;
    let starts_clusters = load.bootstrap && (load.id == 1 || load.id == BOOTSTRAP_ID);
    if recovered.term == 0 && starts_clusters {
        drop(writer);
        dir.bootstrap(load.id, load.address, &options)
            .map_err(StartError::Recover)?;
        (recovered, writer) = dir.recover(&options).map_err(StartError::Recover)?;
    }
    if recorded != Some(load.id)
        && let Err(error) = identity::write(dir.disk(), load.id)
    {
        // A node does not depend on it.
        log::warn!("node {}: {error}", load.id);
    }
    load.compare_addresses(&recovered);
    Ok(Loaded {
        dir,
        recovered,
        writer,
        databases,
    })
}

impl Load<'_> {
    /// Before anything is changed: whether this is our directory, and what is in its snapshot.
    fn look(
        &self,
        dir: &DataDir,
        recorded: Option<u64>,
        recovered: &Recovered,
    ) -> Result<Images, StartError> {
        if let Some(why) = identity::objection(recorded, self.id, self.address, recovered) {
            return Err(StartError::Foreign(why));
        }
        match &recovered.snapshot {
            None => Ok(Images::new()),
            Some(meta) => fsm::load_snapshot(dir.disk(), meta).map_err(StartError::Snapshot),
        }
    }

    /// Other members dial what the configuration says, whatever this node listens on.
    fn compare_addresses(&self, recovered: &Recovered) {
        let Some(configuration) = identity::configuration(recovered) else {
            return;
        };
        let id = self.id;
        match configuration.servers.iter().find(|s| s.id == id) {
            Some(server) if server.address != self.address => log::warn!(
                "node {id}: the configuration has it at {}, not at {}: other members go on \
                 dialling that",
                server.address,
                self.address
            ),
            Some(_) => {}
            None => log::info!(
                "node {id}: the configuration does not have it: it was removed, or is yet to be added"
            ),
        }
    }
}
