//! `dq-server check`: what a data directory holds, for people and for programs.
//!
//! It only reads, and takes no lock, so it may look at the directory of a running node; what it then
//! says of the files that are being written is of no moment.

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use dq_raft::log::check::{self, Report, StartReport, Starter};
use dq_raft::{FsDisk, RecoverOptions};
use dq_server::fsm;
use dq_wire::disk::names::{FileName, LOCK_FILE};

/// Status when something is damaged.
const DAMAGED: u8 = 1;

/// Status when the directory cannot be read.
const UNREADABLE: u8 = 2;

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// The data directory.
    dir: PathBuf,
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
    /// Say what a start as the node with this id would do.
    #[arg(long, requires = "address")]
    id: Option<u64>,
    /// The address of that node.
    #[arg(long, requires = "id")]
    address: Option<String>,
}

impl Check {
    /// Prints the report; the exit code says whether the directory is sound.
    pub(crate) fn run(&self) -> ExitCode {
        let disk = match FsDisk::new(&self.dir) {
            Ok(disk) => disk,
            Err(error) => return self.unreadable(&error),
        };
        let starter = self.id.zip(self.address.clone());
        let starter = starter.map(|(id, address)| Starter { id, address });
        let mut report = match check::check_for(&disk, &RecoverOptions::default(), starter.as_ref())
        {
            Ok(report) => report,
            Err(error) => return self.unreadable(&error),
        };
        report.examine_snapshots(|name| fsm::examine_snapshot(&disk, name));
        let holder = holder(&self.dir);
        let text = match (self.json, holder) {
            (true, holder) => format!("{}\n", Json(&report, holder)),
            (false, None) => report.to_string(),
            (false, Some(process)) => format!(
                "{LOCK_FILE}: locked by process {process}: a node uses the directory, what follows is \
                 of no moment where it writes\n{report}"
            ),
        };
        match io::stdout().write_all(text.as_bytes()) {
            Err(error) => self.unreadable(&error),
            Ok(()) if report.is_sound() => ExitCode::SUCCESS,
            Ok(()) => ExitCode::from(DAMAGED),
        }
    }

    fn unreadable(&self, error: &dyn fmt::Display) -> ExitCode {
        log::error!("{}: {error}", self.dir.display());
        ExitCode::from(UNREADABLE)
    }
}

/// The process whose lock keeps others out of a directory, if the system tells.
pub(crate) fn holder(dir: &Path) -> Option<u32> {
    use nix::sys::stat::{major, minor, stat};

    let lock = stat(&dir.join(LOCK_FILE)).ok()?;
    let file = format!(
        "{:02x}:{:02x}:{}",
        major(lock.st_dev),
        minor(lock.st_dev),
        lock.st_ino
    );
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        match fields[..] {
            [_, "FLOCK", _, _, process, of, ..] if of == file => process.parse().ok(),
            _ => None,
        }
    })
}

/// A report as JSON, and who has the lock. Indexes and terms are numbers, which may exceed what
/// JavaScript keeps exact.
struct Json<'a>(&'a Report, Option<u32>);

impl fmt::Display for Json<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = self.0;
        write!(
            f,
            "{{\"sound\":{},\"in_use_by\":{},\"node\":{},\"members\":",
            report.is_sound(),
            Maybe(self.1),
            Maybe(report.node)
        )?;
        list(f, &report.members, |f, server| {
            let (id, address, role) = (server.id, Text(&server.address), server.role);
            write!(
                f,
                "{{\"id\":{id},\"address\":{address},\"role\":\"{role}\"}}"
            )
        })?;
        write!(
            f,
            ",\"last_index\":{},\"last_term\":{}",
            Maybe(report.last.map(|(index, _)| index)),
            Maybe(report.last.map(|(_, term)| term))
        )?;
        f.write_str(",\"metadata\":")?;
        list(f, &report.metadata, |f, metadata| {
            let (content, problem) = parts(&metadata.content);
            write!(
                f,
                "{{\"file\":{},\"content\":{},\"problem\":{}}}",
                Text(&metadata.file),
                Maybe(content.map(|content| Text(content))),
                Maybe(problem.map(Text))
            )
        })?;
        f.write_str(",\"snapshots\":")?;
        list(f, &report.snapshots, |f, snapshot| {
            let (members, bad_meta) = parts(&snapshot.members);
            let (bytes, bad_data) = parts(&snapshot.data);
            write!(
                f,
                "{{\"file\":{},\"term\":{},\"index\":{},\"members\":{},\"bytes\":{},\"problem\":{}}}",
                Text(&FileName::Snapshot(snapshot.name).to_string()),
                snapshot.name.term,
                snapshot.name.index,
                Maybe(members),
                Maybe(bytes),
                Maybe(bad_meta.or(bad_data).map(Text))
            )
        })?;
        f.write_str(",\"segments\":")?;
        list(f, &report.segments, |f, segment| {
            write!(
                f,
                "{{\"file\":{},\"bytes\":{},\"entries\":{},\"first_term\":{},\"last_term\":{},\"problem\":{}}}",
                Text(&segment.file),
                segment.size,
                segment.entries,
                Maybe(segment.terms.map(|(first, _)| first)),
                Maybe(segment.terms.map(|(_, last)| last)),
                Maybe(segment.problem.as_deref().map(Text))
            )
        })?;
        for (name, files) in [
            ("leftovers", &report.leftovers),
            ("set_aside", &report.set_aside),
            ("others", &report.others),
        ] {
            write!(f, ",\"{name}\":")?;
            list(f, files, |f, file| write!(f, "{}", Text(file)))?;
        }
        f.write_str(",\"start\":")?;
        start(f, &report.start)?;
        f.write_str("}")
    }
}

fn start(f: &mut fmt::Formatter<'_>, start: &StartReport) -> fmt::Result {
    match start {
        StartReport::Starts {
            term,
            vote,
            snapshot,
            entries,
            repairs,
            notes,
        } => {
            write!(
                f,
                "{{\"starts\":true,\"term\":{term},\"vote\":{vote},\"snapshot_index\":{},\
                 \"first_entry\":{},\"last_entry\":{},\"repairs\":",
                Maybe(snapshot.map(|snapshot| snapshot.index)),
                Maybe(entries.map(|(first, _)| first)),
                Maybe(entries.map(|(_, last)| last))
            )?;
            list(f, repairs, |f, repair| {
                write!(f, "{}", Text(&repair.to_string()))
            })?;
            f.write_str(",\"notes\":")?;
            list(f, notes, |f, note| write!(f, "{}", Text(note)))?;
            f.write_str("}")
        }
        StartReport::Refuses {
            file,
            detail,
            can_recover_automatically,
        } => write!(
            f,
            "{{\"starts\":false,\"file\":{},\"detail\":{},\
             \"can_recover_automatically\":{can_recover_automatically}}}",
            Text(file),
            Text(detail)
        ),
    }
}

/// What a part of the report says, and what is wrong with it.
fn parts<T>(result: &Result<T, String>) -> (Option<&T>, Option<&str>) {
    match result {
        Ok(value) => (Some(value), None),
        Err(problem) => (None, Some(problem)),
    }
}

fn list<T>(
    f: &mut fmt::Formatter<'_>,
    items: &[T],
    mut write: impl FnMut(&mut fmt::Formatter<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    f.write_char('[')?;
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            f.write_char(',')?;
        }
        write(f, item)?;
    }
    f.write_char(']')
}

/// A value, or `null`.
struct Maybe<T>(Option<T>);

impl<T: fmt::Display> fmt::Display for Maybe<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(value) => value.fmt(f),
            None => f.write_str("null"),
        }
    }
}

/// A JSON string.
struct Text<'a>(&'a str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for c in self.0.chars() {
            match c {
                '"' | '\\' => write!(f, "\\{c}")?,
                c if c.is_control() => write!(f, "\\u{:04x}", u32::from(c))?,
                c => f.write_char(c)?,
            }
        }
        f.write_char('"')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_escaped_as_json_wants_them() {
        assert_eq!(
            Text("a\"b\\c\n\u{7f}ü").to_string(),
            r#""a\"b\\c\u000a\u007fü""#
        );
    }
}
