//! Data directories that something has happened to: those of C dqlite and of ours with files changed, cut,
//! swapped or renamed, and with contents that are wrong behind sound checksums.
//!
//! Mostly a node starts on a disk in memory; now and then on a real directory, with threads, as programs
//! start it.

use arbitrary::{Result, Unstructured};
use dq_raft::log::check::{self, StartReport};
use dq_raft::sim_disk::SimDisk;
use dq_raft::{DataDir, RecoverOptions, Recovered, SnapshotReader};
use dq_server::BOOTSTRAP_ID;
use dq_wire::header::response_type;
use dq_wire::request::Request;

use crate::reached::Reached;
use crate::shell::{Setup, Shell, exec, opening, query};
use begun::Files;

mod begun;
mod change;
mod real;

/// Changes, at most.
const CHANGES_MAX: usize = 8;

/// What the corpus has to reach.
pub const REACHES: &[&str] = &[
    "a real start",
    "a real start is refused",
    "answer: database",
    "answer: rows",
    "check: refuses",
    "check: starts",
    "disk: append",
    "gave up",
    "leads",
    "recovered automatically",
    "refused: directory",
    "refused: snapshot or configuration",
    "repaired: cut",
    "repaired: removed",
    "repaired: renamed",
    "started",
];

/// Starts a node on a directory.
///
/// # Panics
/// If the start does, says nothing of what is wrong, or changes what it refuses; if it does what `check`
/// did not say; or if the node that has started does not answer, or does not start again.
pub fn run(bytes: &[u8]) -> Reached {
    let mut u = Unstructured::new(bytes);
    let mut reached = Reached::default();
    let choice: u8 = u.arbitrary().unwrap_or_default();
    let Ok(files) = directory(&mut u) else {
        return reached;
    };
    let recovery = choice & 1 != 0;
    if choice.is_multiple_of(16) {
        real::start(&files, u.ratio(1, 4).unwrap_or(false), &mut reached);
    } else {
        foretold(&files, recovery, &mut reached);
        in_memory(&files, choice >> 4, &mut reached);
    }
    reached
}

fn disk(files: &Files) -> SimDisk {
    SimDisk::with_files(
        files
            .iter()
            .map(|(name, content)| (name.as_str(), content.clone())),
    )
}

/// Reading a directory does what `check` has said of it, and what it refuses is as it was.
fn foretold(files: &Files, auto_recovery: bool, reached: &mut Reached) {
    let disk = disk(files);
    let options = RecoverOptions {
        auto_recovery,
        ..RecoverOptions::default()
    };
    let report = check::check(&disk, &options).expect("the disk works");
    assert!(!report.to_string().is_empty());
    assert!(disk.files() == *files, "a check has changed something");
    let dir = DataDir::with_disk(disk.clone()).expect("nobody has locked it");
    let recovered = dir.recover(&options).map_err(|error| error.to_string());
    // What was left over may go before a snapshot is found to be damaged.
    let repaired = auto_recovery || recovered.is_ok();
    let recovered = recovered.and_then(|(recovered, _)| whole(&disk, recovered));
    match (report.start, recovered) {
        (
            StartReport::Starts {
                term,
                vote,
                entries,
                repairs,
                ..
            },
            Ok(recovered),
        ) => {
            reached.note("check: starts");
            for repair in &repairs {
                reached.note(begun::name_of(repair));
            }
            assert_eq!((recovered.term, recovered.vote), (term, vote));
            let first = recovered.entries.first().map(|entry| entry.index);
            let last = recovered.entries.last().map(|entry| entry.index);
            assert_eq!(first.zip(last), entries);
        }
        (
            StartReport::Refuses {
                can_recover_automatically: true,
                ..
            },
            Ok(_),
        ) if auto_recovery => reached.note("recovered automatically"),
        (StartReport::Refuses { detail, .. }, Err(error)) => {
            reached.note("check: refuses");
            assert!(!detail.is_empty() && !error.is_empty());
            let mut now = disk.files();
            now.retain(|name, _| files.contains_key(name));
            assert!(
                repaired || now == *files,
                "something was changed, and then: {error}"
            );
        }
        (start, recovered) => {
            panic!("a check says {start:?}, and a start {recovered:?}");
        }
    }
}

/// What was recovered, if its snapshot can be read to the end.
fn whole(disk: &SimDisk, recovered: Recovered) -> std::result::Result<Recovered, String> {
    if let Some(meta) = &recovered.snapshot {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let mut reader = SnapshotReader::open(disk, meta).map_err(|error| text(&error))?;
        std::io::copy(&mut reader, &mut std::io::sink()).map_err(|error| text(&error))?;
    }
    Ok(recovered)
}

/// A node starts, if it can, serves a client, and starts again with what it had.
fn in_memory(files: &Files, setup: u8, reached: &mut Reached) {
    let setup = Setup {
        id: BOOTSTRAP_ID,
        ..Setup::of(setup, true)
    };
    let mut shell = match Shell::open(disk(files), setup, 1000) {
        Ok(shell) => shell,
        Err(why) => {
            assert!(!why.is_empty());
            reached.note(
                match why.contains("snapshot") || why.contains("configuration") {
                    true => "refused: snapshot or configuration",
                    false => "refused: directory",
                },
            );
            return;
        }
    };
    shell.reached.note("started");
    shell.pass(5_000);
    shell.settle();
    if shell.machine.status().leading {
        shell.reached.note("leads");
        look(&mut shell);
        shell.settle();
    }
    if shell.fatal.is_none() && shell.machine.status().leading {
        shell.starts_again();
    } else {
        shell.reopened();
    }
    reached.add(&shell.reached);
}

/// Looks into all databases, and writes.
fn look(shell: &mut Shell) {
    let mut names: Vec<_> = shell.contents().into_keys().collect();
    names.push("new".into());
    for name in names {
        let id = shell.connect();
        let mut bytes = opening(&name);
        for sql in [
            &b"SELECT * FROM sqlite_schema"[..],
            b"PRAGMA integrity_check(1)",
        ] {
            query(&mut bytes, sql);
        }
        exec(&mut bytes, b"CREATE TABLE another (x)");
        Request::Dump { name: &name }.encode(&mut bytes);
        shell.send(id, &bytes);
        shell.settle();
        if shell.fatal.is_none() && shell.connections().contains(&id) {
            let answers = shell.answers(id);
            let rows = |kind: &&u8| **kind == response_type::ROWS;
            let messages = answers.len() - answers.iter().filter(rows).count();
            assert!(
                answers.len() >= 5 && messages >= 3 || messages >= 5,
                "{answers:?}"
            );
        }
        shell.close(id);
    }
}

fn directory(u: &mut Unstructured<'_>) -> Result<Files> {
    let mut files = u.choose(begun::all())?.clone();
    for _ in 0..u.int_in_range(0..=CHANGES_MAX)? {
        if files.is_empty() {
            break;
        }
        change::change(u, &mut files)?;
    }
    Ok(files)
}
