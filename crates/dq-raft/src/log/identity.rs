//! Whose directory it is.
//!
//! The files of C dqlite do not say: a configuration has ids, but not which of them is this node, and
//! that of a node which was removed, or is only just joining, need not have it at all. So a node writes
//! its id into a file of its own, of which C dqlite takes no notice, and a start under another id is
//! refused unless the newest configuration has that one: then somebody has copied the directory on
//! purpose, as one does after [`force_configuration`](super::data_dir::DataDir::force_configuration).
//!
//! In a directory without the file only what cannot be otherwise is refused: a node that no
//! configuration names has never voted, and its address is nobody else's.

use std::fmt::Write as _;

use dq_wire::Configuration;

use crate::disk::{self, Disk, DiskError};
use crate::types::{EntryKind, Recovered};

/// The file with the id, in decimal.
pub const IDENTITY_FILE: &str = "dq-node";

/// The id in the file. `None` if there is none; what cannot be read as a number counts as that too,
/// since all that is lost is a warning of a mistake.
///
/// # Errors
/// The disk's.
pub fn read<D: Disk>(disk: &D) -> Result<Option<u64>, DiskError> {
    match disk.read(IDENTITY_FILE, 64) {
        Ok(bytes) => Ok(std::str::from_utf8(&bytes)
            .ok()
            .and_then(|text| text.trim().parse().ok())),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes the file, durably.
///
/// # Errors
/// The disk's.
pub fn write<D: Disk>(disk: &D, id: u64) -> Result<(), DiskError> {
    disk::replace(disk, IDENTITY_FILE, format!("{id}\n").as_bytes())
}

/// The newest configuration that a directory holds.
pub fn configuration(recovered: &Recovered) -> Option<Configuration> {
    let changes = recovered.entries.iter().rev();
    let newest = changes
        .filter(|entry| entry.kind == EntryKind::Change)
        .find_map(|entry| Configuration::decode(&entry.payload.to_bytes()).ok());
    newest.or_else(|| {
        let snapshot = recovered.snapshot.as_ref()?;
        Some(snapshot.configuration.clone())
    })
}

/// Why node `id` at `address` must not start on a directory whose file says `recorded`; `None` if it
/// may.
pub fn objection(
    recorded: Option<u64>,
    id: u64,
    address: &str,
    recovered: &Recovered,
) -> Option<String> {
    let configuration = configuration(recovered)?;
    let has = |configuration: &Configuration| configuration.servers.iter().any(|s| s.id == id);
    if recorded == Some(id) || has(&configuration) {
        return None;
    }
    let whose = match recorded {
        Some(other) => format!("this is the directory of node {other}"),
        None => {
            let named = recovered.entries.iter().any(|entry| {
                entry.kind == EntryKind::Change
                    && Configuration::decode(&entry.payload.to_bytes()).is_ok_and(|c| has(&c))
            });
            let same_address = |s: &&dq_wire::Server| s.address == address;
            let neighbour = configuration.servers.iter().find(same_address);
            let voted = recovered.vote != 0 && recovered.vote != id;
            match (named, neighbour, voted) {
                (false, Some(other), _) => format!(
                    "this is the directory of another node: no configuration in it has node {id}, \
                     and {address} is node {}",
                    other.id
                ),
                (false, None, true) => format!(
                    "this is the directory of another node: it has voted, and no configuration in \
                     it has node {id}"
                ),
                _ => return None,
            }
        }
    };
    let mut members = String::new();
    for server in &configuration.servers {
        // Writing to a string does not fail.
        let _ = write!(members, ", node {} at {}", server.id, server.address);
    }
    Some(format!(
        "{IDENTITY_FILE}: {whose}{members}: start that one here, or give node {id} a directory of its \
         own; if this is node {id}'s all the same, write {id} into {IDENTITY_FILE}"
    ))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use dq_wire::{Role, Server};

    use super::*;
    use crate::sim_disk::SimDisk;
    use crate::types::{LogEntry, SnapshotMeta};

    fn members(servers: &[(u64, &str)]) -> Configuration {
        let servers = servers.iter().map(|(id, address)| Server {
            id: *id,
            address: (*address).to_owned(),
            role: Role::Voter,
        });
        Configuration {
            servers: servers.collect(),
        }
    }

    fn change(index: u64, servers: &[(u64, &str)]) -> LogEntry {
        let mut payload = Vec::new();
        members(servers).encode(&mut payload);
        LogEntry {
            index,
            term: 1,
            kind: EntryKind::Change,
            payload: Bytes::from(payload).into(),
        }
    }

    fn of(vote: u64, entries: Vec<LogEntry>) -> Recovered {
        Recovered {
            term: 3,
            vote,
            snapshot: None,
            entries,
        }
    }

    #[test]
    fn the_id_is_kept_in_a_file() {
        let disk = SimDisk::new();
        assert_eq!(read(&disk), Ok(None));
        write(&disk, 7).unwrap();
        assert_eq!(read(&disk), Ok(Some(7)));
        write(&disk, u64::MAX).unwrap();
        assert_eq!(read(&disk), Ok(Some(u64::MAX)));
        let names: Vec<String> = disk.files().into_keys().collect();
        assert_eq!(names, [IDENTITY_FILE]);
    }

    #[test]
    fn another_nodes_directory_is_objected_to() {
        let alone = of(1, vec![change(1, &[(1, "a")])]);
        let text = objection(Some(1), 5, "b", &alone).expect("an objection");
        for part in [
            "dq-node",
            "node 1 at a",
            "node 5 a directory",
            "write 5 into",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        // Without the file its vote tells, or the address.
        assert!(objection(None, 5, "b", &alone).is_some());
        let follower = of(0, vec![change(1, &[(1, "a")])]);
        assert!(objection(None, 5, "a", &follower).is_some());
        assert_eq!(objection(Some(1), 1, "elsewhere", &alone), None);
    }

    #[test]
    fn a_node_that_was_removed_or_is_joining_is_not() {
        let removed = of(
            1,
            vec![change(1, &[(1, "a"), (5, "b")]), change(2, &[(1, "a")])],
        );
        assert_eq!(objection(None, 5, "b", &removed), None);
        // Somebody else has its address now, and its traces are gone from the log.
        let gone = of(1, vec![change(9, &[(1, "a"), (6, "b")])]);
        assert_eq!(objection(Some(5), 5, "b", &gone), None);
        // A snapshot from before it was added is all that has arrived.
        let joining = Recovered {
            snapshot: Some(SnapshotMeta {
                index: 9,
                term: 2,
                timestamp: 0,
                configuration: members(&[(1, "a")]),
                configuration_index: 1,
            }),
            ..of(0, Vec::new())
        };
        assert_eq!(objection(None, 5, "b", &joining), None);
        assert_eq!(objection(Some(5), 5, "b", &joining), None);
        assert_eq!(objection(Some(4), 5, "b", &of(0, Vec::new())), None);
    }

    #[test]
    fn a_directory_that_was_copied_on_purpose_is_not() {
        let forced = of(
            1,
            vec![change(1, &[(1, "a")]), change(2, &[(1, "a"), (2, "b")])],
        );
        assert_eq!(objection(Some(1), 2, "b", &forced), None);
    }
}
