//! `dq-server export`: a database as a file of SQLite's, from a running cluster or a stopped node.

use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use dq_client::{Cluster, MemStore};
use dq_server::{fsm, offline};
use dq_vfs::{Version, Vfs};

use crate::recover::locked;
use crate::tls::Tls;

#[derive(Debug, Args)]
pub(crate) struct Export {
    /// Members of a running cluster, separated by commas: its leader is asked.
    #[arg(
        long,
        value_delimiter = ',',
        required_unless_present = "dir",
        conflicts_with = "dir"
    )]
    server: Vec<String>,
    /// The data directory of a node that does not run.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Name of the database.
    #[arg(long)]
    database: String,
    /// The file to write; it must not exist.
    #[arg(long)]
    out: PathBuf,
    #[command(flatten)]
    tls: Tls,
}

impl Export {
    pub(crate) fn run(&self) -> Result<(), Box<dyn Error>> {
        if self.out.try_exists()? {
            return Err(format!("{} exists already", self.out.display()).into());
        }
        let vfs = Vfs::register()?;
        let version = match &self.dir {
            Some(dir) => self.in_directory(dir, &vfs)?,
            None => self.in_cluster()?,
        };
        version
            .quick_check(&vfs)
            .map_err(|error| format!("database {}: {error}", self.database))?;
        let bytes = write(&version, &self.out)
            .map_err(|error| format!("{}: {error}", self.out.display()))?;
        writeln!(io::stdout(), "{}: {bytes} bytes", self.out.display())?;
        Ok(())
    }

    fn in_directory(&self, dir: &Path, vfs: &Arc<Vfs>) -> Result<Version, Box<dyn Error>> {
        let databases = offline::databases(dir, vfs).map_err(|error| match error {
            offline::ReadError::Directory(error) => locked(&error, dir),
            error => format!("{error} (in {})", dir.display()),
        })?;
        let names = databases
            .iter()
            .map(|(name, _)| String::from_utf8_lossy(name).into_owned());
        let names = names.collect::<Vec<_>>().join(", ");
        let mut databases = databases.into_iter();
        match databases.find(|(name, _)| *name == self.database) {
            Some((_, version)) => Ok(version),
            None => Err(format!(
                "{}: there is no database {:?}; there are: {names}",
                dir.display(),
                self.database
            )
            .into()),
        }
    }

    fn in_cluster(&self) -> Result<Version, Box<dyn Error>> {
        let store = MemStore::new(self.server.iter().cloned());
        let files = Cluster::new(self.tls.client()?, store).dump(&self.database)?;
        let file = |name: &str| {
            let file = files.iter().find(|file| file.name == name);
            file.map_or(&[][..], |file| &file.data)
        };
        let wal = file(&format!("{}-wal", self.database));
        let pages = fsm::image(file(&self.database), wal)?;
        // What C dqlite up to 1.18.2 answers for a database that it does not have.
        if pages.is_empty() {
            return Err(format!("there is no database {:?}", self.database).into());
        }
        Ok(Version::from_pages(1, pages))
    }
}

/// Writes the file under another name first, so that it is there as a whole or not at all.
fn write(version: &Version, path: &Path) -> io::Result<u64> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".unfinished");
    let unfinished = PathBuf::from(unfinished);
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&unfinished)?;
    let written = write_pages(version, file).and_then(|bytes| {
        fs::rename(&unfinished, path)?;
        let parent = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))?.sync_all()?;
        Ok(bytes)
    });
    if written.is_err() {
        // The first error is what matters.
        let _ = fs::remove_file(&unfinished);
    }
    written
}

fn write_pages(version: &Version, file: File) -> io::Result<u64> {
    let mut out = BufWriter::with_capacity(1 << 20, file);
    let mut bytes = 0;
    for (index, page) in version.pages().enumerate() {
        let mut page = *page.bytes();
        if index == 0 {
            // Replicas are in WAL mode. As a file without a WAL it shall open read-only too, so its
            // header says that it has a rollback journal.
            page[18..20].fill(1);
        }
        out.write_all(&page)?;
        bytes += page.len() as u64;
    }
    out.into_inner()?.sync_all()?;
    Ok(bytes)
}
