//! Directories to begin with: of C dqlite, and of ours.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;

use dq_raft::log::plan::FileOp;
use dq_server::BOOTSTRAP_ID;

use crate::shell::{Setup, Shell, exec, opening};

/// Names and contents.
pub(super) type Files = BTreeMap<String, Vec<u8>>;

pub(super) fn all() -> &'static [Files] {
    static ALL: OnceLock<Vec<Files>> = OnceLock::new();
    ALL.get_or_init(|| {
        let golden = ["stopped", "killed", "snapshots-stopped", "snapshots-killed"];
        let mut all: Vec<Files> = golden.map(read_golden).into();
        all.extend([(2, 0), (40, 0), (40, 2), (60, 8)].map(|(writes, setup)| ours(writes, setup)));
        all
    })
}

fn read_golden(name: &str) -> Files {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dq-raft/tests/golden");
    let mut files = Files::new();
    for entry in std::fs::read_dir(root.join(name)).expect("it is there") {
        let entry = entry.expect("it can be listed");
        let name = entry.file_name().to_string_lossy().into_owned();
        let mut content = std::fs::read(entry.path()).expect("it can be read");
        if name.starts_with("open-") {
            // They are stored without the zeros behind what was written.
            content.resize(content.len().next_multiple_of(1 << 16), 0);
        }
        files.insert(name, content);
    }
    files
}

/// The directory of a node that was killed after so many writes.
fn ours(writes: usize, setup: u8) -> Files {
    let mut shell = Shell::start(Setup {
        id: BOOTSTRAP_ID,
        ..Setup::of(setup, true)
    });
    for (name, odd) in [(&b"d"[..], 0), (b"e", 1)] {
        let id = shell.connect();
        shell.send(id, &opening(name));
        for write in 0..writes {
            let sql: &[u8] = match write {
                0 => b"CREATE TABLE t (a INTEGER PRIMARY KEY, b)",
                _ if write % 7 == odd => b"INSERT INTO t (b) VALUES (zeroblob(9000))",
                _ => b"INSERT INTO t (b) VALUES ('x')",
            };
            let mut bytes = Vec::new();
            exec(&mut bytes, sql);
            shell.send(id, &bytes);
            shell.settle();
        }
    }
    shell.files()
}

/// What a repair is called in [`Reached`](crate::reached::Reached).
pub(super) fn name_of(repair: &FileOp) -> &'static str {
    match repair {
        FileOp::Remove { .. } => "repaired: removed",
        FileOp::Rename { .. } => "repaired: renamed",
        FileOp::Cut { .. } => "repaired: cut",
        FileOp::CopyPrefix { .. } => "repaired: copied",
        FileOp::SyncDirectory => "repaired",
    }
}
