//! Where a client finds the members of its cluster, and keeps what it learns of them.
//!
//! Three stores: in memory, the `cluster.yaml` of Go applications, the `node-store` of programs
//! built on C dqlite's server layer. The two files are read as their owners write them and written
//! so that their owners can read them: into a new file, synced, renamed over the old one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use dq_wire::Role;

use crate::error::{Error, ErrorKind, Result};

/// A member of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Node id; 0 if only the address is known.
    pub id: u64,
    /// Address, as the cluster has it configured.
    pub address: String,
    /// Role when it was last heard of.
    pub role: Role,
}

/// A place for the list of members.
pub trait NodeStore: Send + Sync {
    /// The members, as known last.
    ///
    /// # Errors
    /// They cannot be read.
    fn get(&self) -> Result<Vec<Member>>;

    /// Replaces the list.
    ///
    /// # Errors
    /// It cannot be written; the old list is still there.
    fn set(&self, members: &[Member]) -> Result<()>;
}

/// A list in memory.
#[derive(Debug, Default)]
pub struct MemStore {
    members: Mutex<Vec<Member>>,
}

impl MemStore {
    /// A store with these addresses to begin with.
    pub fn new<A: Into<String>>(addresses: impl IntoIterator<Item = A>) -> MemStore {
        let members = addresses
            .into_iter()
            .map(|address| Member {
                id: 0,
                address: address.into(),
                role: Role::Voter,
            })
            .collect();
        MemStore {
            members: Mutex::new(members),
        }
    }
}

impl NodeStore for MemStore {
    fn get(&self) -> Result<Vec<Member>> {
        Ok(self
            .members
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone())
    }

    fn set(&self, members: &[Member]) -> Result<()> {
        *self.members.lock().unwrap_or_else(PoisonError::into_inner) = members.to_vec();
        Ok(())
    }
}

/// The `cluster.yaml` of a Go application:
///
/// ```text
/// - Address: 127.0.0.1:9901
///   ID: 3297041220608546238
///   Role: 0
/// ```
///
/// Read are lists of such mappings, with keys in any order, quoted texts and comments; other YAML
/// is an error. A file that does not exist is an empty list.
#[derive(Debug, Clone)]
pub struct YamlStore {
    path: PathBuf,
}

impl YamlStore {
    /// The store in the file at `path`.
    pub fn new(path: impl Into<PathBuf>) -> YamlStore {
        YamlStore { path: path.into() }
    }
}

impl NodeStore for YamlStore {
    fn get(&self) -> Result<Vec<Member>> {
        read(&self.path, parse_yaml)
    }

    fn set(&self, members: &[Member]) -> Result<()> {
        let mut text = String::new();
        for member in members {
            text.push_str(&format!(
                "- Address: {}\n  ID: {}\n  Role: {}\n",
                yaml_scalar(&member.address),
                member.id,
                member.role.to_wire()
            ));
        }
        if members.is_empty() {
            text.push_str("[]\n");
        }
        replace(&self.path, &text)
    }
}

/// The `node-store` of C dqlite's server layer:
///
/// ```text
/// v1
/// 127.0.0.1:9901
/// 3297041220608546238
/// voter
/// ```
///
/// with three lines per member. A file that does not exist, or is empty, is an empty list.
#[derive(Debug, Clone)]
pub struct FileStore {
    path: PathBuf,
}

impl FileStore {
    /// The store in the file at `path`.
    pub fn new(path: impl Into<PathBuf>) -> FileStore {
        FileStore { path: path.into() }
    }
}

impl NodeStore for FileStore {
    fn get(&self) -> Result<Vec<Member>> {
        read(&self.path, parse_node_store)
    }

    fn set(&self, members: &[Member]) -> Result<()> {
        let mut text = String::from("v1\n");
        for member in members {
            if member.address.contains('\n') {
                return Err(Error::new(
                    ErrorKind::Type,
                    "an address contains a line break",
                ));
            }
            let Member { id, address, role } = member;
            text.push_str(&format!("{address}\n{id}\n{role}\n"));
        }
        replace(&self.path, &text)
    }
}

fn parse_node_store(text: &str) -> Result<Vec<Member>, String> {
    let mut lines = text.lines();
    match lines.next() {
        None => return Ok(Vec::new()),
        Some("v1") => {}
        Some(version) => return Err(format!("unknown version {version:?}")),
    }
    let mut members = Vec::new();
    while let Some(address) = lines.next() {
        let (Some(id), Some(role)) = (lines.next(), lines.next()) else {
            return Err(format!("the entry of {address:?} is cut short"));
        };
        let id = id.parse().map_err(|_| format!("bad id {id:?}"))?;
        let role = [Role::Voter, Role::Standby, Role::Spare]
            .into_iter()
            .find(|known| known.to_string() == role)
            .ok_or_else(|| format!("bad role {role:?}"))?;
        members.push(Member {
            id,
            address: address.to_owned(),
            role,
        });
    }
    Ok(members)
}

fn parse_yaml(text: &str) -> Result<Vec<Member>, String> {
    let mut members: Vec<Member> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let error = |what: &str| format!("line {}: {what}: {line:?}", index + 1);
        let content = line.trim();
        if matches!(content, "" | "---" | "..." | "[]") || content.starts_with('#') {
            continue;
        }
        let content = match content.strip_prefix('-') {
            Some(rest) => {
                members.push(Member {
                    id: 0,
                    address: String::new(),
                    role: Role::Voter,
                });
                rest.trim_start()
            }
            None if line.starts_with([' ', '\t']) => content,
            None => return Err(error("not an item of a list")),
        };
        if content.is_empty() {
            continue;
        }
        let member = members
            .last_mut()
            .ok_or_else(|| error("not an item of a list"))?;
        let (key, value) = content.split_once(':').ok_or_else(|| error("no key"))?;
        let value = parse_scalar(value.trim()).ok_or_else(|| error("bad value"))?;
        match key {
            "Address" => member.address = value,
            "ID" => member.id = value.parse().map_err(|_| error("bad id"))?,
            "Role" => {
                member.role = value
                    .parse()
                    .ok()
                    .and_then(Role::from_wire)
                    .ok_or_else(|| error("bad role"))?;
            }
            // Written by a later version: not for us.
            _ => {}
        }
    }
    match members.iter().position(|member| member.address.is_empty()) {
        Some(index) => Err(format!("item {} has no Address", index + 1)),
        None => Ok(members),
    }
}

/// The text of a plain or quoted YAML scalar on one line.
fn parse_scalar(text: &str) -> Option<String> {
    if let Some(quoted) = text.strip_prefix('\'') {
        let (inner, rest) = quoted.rsplit_once('\'')?;
        return is_comment(rest).then(|| inner.replace("''", "'"));
    }
    if let Some(quoted) = text.strip_prefix('"') {
        let (inner, rest) = quoted.rsplit_once('"')?;
        // Addresses have no use for escapes; guessing what one means could name another host.
        return (is_comment(rest) && !inner.contains('\\')).then(|| inner.to_owned());
    }
    let plain = text.split(" #").next().unwrap_or_default().trim_end();
    Some(plain.to_owned())
}

fn is_comment(rest: &str) -> bool {
    let rest = rest.trim();
    rest.is_empty() || rest.starts_with('#')
}

/// An address as YAML: quoted unless it is made of letters, digits, dots, colons and dashes and
/// begins with a letter or digit.
fn yaml_scalar(text: &str) -> String {
    let plain = text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && !text.ends_with(':')
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || ".:-".contains(c))
        && text.contains(['.', ':']);
    if plain {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "''"))
    }
}

fn read(
    path: &Path,
    parse: impl FnOnce(&str) -> Result<Vec<Member>, String>,
) -> Result<Vec<Member>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io(&path.display().to_string(), error)),
    };
    parse(&text).map_err(|what| Error::new(ErrorKind::Io, format!("{}: {what}", path.display())))
}

/// Replaces a file at once: after a crash there is the old one or the new one.
fn replace(path: &Path, text: &str) -> Result<()> {
    let context = |error| Error::io(&path.display().to_string(), error);
    let mut temporary = path.as_os_str().to_owned();
    temporary.push("-tmp");
    let temporary = PathBuf::from(temporary);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(context)?;
    file.write_all(text.as_bytes()).map_err(context)?;
    file.sync_all().map_err(context)?;
    fs::rename(&temporary, path).map_err(context)?;
    let dir = path
        .parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, address: &str, role: Role) -> Member {
        Member {
            id,
            address: address.to_owned(),
            role,
        }
    }

    #[test]
    fn the_file_of_a_go_application_is_read() {
        let text = "- Address: 127.0.0.1:9901\n  ID: 3297041220608546238\n  Role: 0\n\
                    - Address: '@abstract'\n  ID: 2\n  Role: 1\n";
        assert_eq!(
            parse_yaml(text).unwrap(),
            [
                member(3_297_041_220_608_546_238, "127.0.0.1:9901", Role::Voter),
                member(2, "@abstract", Role::Standby),
            ]
        );
    }

    #[test]
    fn yaml_may_be_quoted_commented_and_reordered() {
        let text = "---\n# members\n-\n  Role: 2 # spare\n  Address: \"[::1]:9000\"\n  More: x\n";
        assert_eq!(
            parse_yaml(text).unwrap(),
            [member(0, "[::1]:9000", Role::Spare)]
        );
        assert_eq!(parse_yaml("[]\n").unwrap(), []);
        assert_eq!(parse_yaml("").unwrap(), []);
    }

    #[test]
    fn yaml_of_another_shape_is_an_error() {
        for text in [
            "Address: x",
            "- ID: 1",
            "- Address: x\n  ID: one",
            "- Address: x\n  Role: 7",
            "- Address: 'x",
            "- Address: \"a\\x\"",
            "  Address: x",
            "- nothing",
        ] {
            assert!(parse_yaml(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn node_store_files_of_another_shape_are_errors() {
        assert_eq!(parse_node_store("").unwrap(), []);
        assert_eq!(parse_node_store("v1\n").unwrap(), []);
        for text in [
            "v2\n",
            "v1\na:1\n1\n",
            "v1\na:1\nx\nvoter\n",
            "v1\na:1\n1\nking\n",
        ] {
            assert!(parse_node_store(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn stores_give_back_what_was_set() {
        let dir = tempfile::tempdir().unwrap();
        let stores: [Box<dyn NodeStore>; 3] = [
            Box::new(MemStore::default()),
            Box::new(YamlStore::new(dir.path().join("cluster.yaml"))),
            Box::new(FileStore::new(dir.path().join("node-store"))),
        ];
        let members = [
            member(u64::MAX, "10.0.0.1:9000", Role::Voter),
            member(2, "[fe80::1]:9000", Role::Standby),
            member(3, "@it's", Role::Spare),
            member(4, "123", Role::Voter),
            member(5, "db-1.example:9000", Role::Voter),
        ];
        for store in stores {
            assert_eq!(store.get().unwrap(), []);
            store.set(&members).unwrap();
            assert_eq!(store.get().unwrap(), members);
            store.set(&members[..1]).unwrap();
            assert_eq!(store.get().unwrap(), members[..1]);
            store.set(&[]).unwrap();
            assert_eq!(store.get().unwrap(), []);
        }
    }

    #[test]
    fn a_store_that_cannot_be_read_says_which() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cluster.yaml");
        fs::write(&path, "nonsense").unwrap();
        let error = YamlStore::new(&path).get().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(error.message().contains("cluster.yaml"), "{error}");
    }
}
