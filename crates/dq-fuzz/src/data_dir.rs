//! Data directories that something has happened to: files of real ones with bytes changed, cut, swapped
//! or renamed, and with contents that are wrong behind sound checksums. A node starts on them as
//! programs start it, restores its databases, and a client looks into them.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use arbitrary::{Result, Unstructured};
use dq_server::{BOOTSTRAP_ID, BindAddr, Dial, Node, StartError};
use dq_wire::disk::metadata::Metadata;
use dq_wire::disk::segment::{Batches, SEGMENT_HEAD, encode_batch_head};
use dq_wire::disk::snapshot_meta::SnapshotMetaFile;
use dq_wire::header::{Header, PROTOCOL_V1};
use dq_wire::request::Request;
use dq_wire::response::Response;
use dq_wire::{EntryHeader, EntryKind, ParamsBuf};
use lz4_flex::frame::{FrameDecoder, FrameEncoder};

use crate::session::damage;

/// Changes, at most.
const CHANGES_MAX: usize = 8;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Largest content that a snapshot is unpacked to.
const CONTENT_MAX: u64 = 4 << 20;

type Files = BTreeMap<String, Vec<u8>>;

/// Nobody is reached.
#[derive(Debug)]
struct Alone;

impl Dial for Alone {
    fn dial(&self, _: &str, _: Duration) -> io::Result<OwnedFd> {
        Err(io::ErrorKind::ConnectionRefused.into())
    }
}

/// Starts a node on a directory.
///
/// # Panics
/// If the start does, says nothing of what is wrong, or changes what it refuses; or if the node that
/// has started does not answer.
pub fn run(bytes: &[u8]) {
    let mut u = Unstructured::new(bytes);
    let Ok(files) = directory(&mut u) else {
        return;
    };
    let recovery = u.ratio(1, 4).unwrap_or(false);
    let memory = Path::new("/dev/shm");
    let dir = match memory.is_dir() {
        true => tempfile::tempdir_in(memory),
        false => tempfile::tempdir(),
    }
    .expect("a directory can be made");
    for (name, content) in &files {
        std::fs::write(dir.path().join(name), content).expect("a file can be made");
    }
    let started = Node::builder(BOOTSTRAP_ID, "127.0.0.1:9131", dir.path())
        .bind(BindAddr::Abstract(Vec::new()))
        .network_latency(Duration::from_millis(20))
        .auto_recovery(recovery)
        .dialer(Alone)
        .start();
    match started {
        Ok(node) => {
            look(&node);
            // It may have given up by itself, on an entry that cannot be applied.
            let _ = node.stop();
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            if matches!(error, StartError::Directory(_) | StartError::Recover(_)) && !recovery {
                for (name, content) in &files {
                    let now = std::fs::read(dir.path().join(name)).unwrap_or_default();
                    assert!(now == *content, "{name} was changed, and then: {error}");
                }
            }
        }
    }
}

/// Asks who leads, and reads a database if it is this node.
fn look(node: &Node) {
    let BindAddr::Abstract(name) = node.local_addr() else {
        return;
    };
    let Ok(mut stream) =
        SocketAddr::from_abstract_name(name).and_then(|addr| UnixStream::connect_addr(&addr))
    else {
        return;
    };
    let patient = stream.set_read_timeout(Some(PATIENCE));
    patient.expect("a socket has this option");
    let mut bytes = PROTOCOL_V1.to_le_bytes().to_vec();
    let none = ParamsBuf::default();
    let params = none.as_params();
    let (name, vfs): (&[u8], &[u8]) = (b"test.db", b"");
    let open = Request::Open {
        name,
        flags: 0,
        vfs,
    };
    let sql = b"SELECT * FROM sqlite_schema";
    let tables = Request::QuerySql {
        db: 0,
        sql,
        params: params.clone(),
    };
    let sql = b"PRAGMA integrity_check(1)";
    let check = Request::QuerySql { db: 0, sql, params };
    let requests = [Request::Leader, open, tables, check];
    for request in &requests {
        request.encode(&mut bytes);
    }
    if stream.write_all(&bytes).is_err() {
        return;
    }
    for _ in &requests {
        let mut head = [0; Header::SIZE];
        if let Err(error) = stream.read_exact(&mut head) {
            // The node gives up if what it has cannot be applied; silence is another matter.
            assert_ne!(error.kind(), io::ErrorKind::WouldBlock, "no answer");
            return;
        }
        let header = Header::decode(&head).expect("8 bytes");
        let mut body = Vec::new();
        let size = header.body_size();
        if (&stream).take(size).read_to_end(&mut body).is_err() || body.len() as u64 != size {
            return;
        }
        Response::decode(&header, &body).expect("answers can be decoded");
    }
}

/// The real directories.
fn golden() -> &'static [Files] {
    static GOLDEN: OnceLock<Vec<Files>> = OnceLock::new();
    GOLDEN.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dq-raft/tests/golden");
        let read = |name: &str| {
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
        };
        ["stopped", "killed", "snapshots-stopped", "snapshots-killed"]
            .map(read)
            .into()
    })
}

fn directory(u: &mut Unstructured<'_>) -> Result<Files> {
    let mut files = u.choose(golden())?.clone();
    for _ in 0..u.int_in_range(0..=CHANGES_MAX)? {
        if files.is_empty() {
            break;
        }
        change(u, &mut files)?;
    }
    Ok(files)
}

fn change(u: &mut Unstructured<'_>, files: &mut Files) -> Result<()> {
    let names: Vec<String> = files.keys().cloned().collect();
    let name = u.choose(&names)?.clone();
    let mut content = files.get(&name).cloned().unwrap_or_default();
    match u.int_in_range(0..=11)? {
        0 => damage(u, &mut content)?,
        1 => {
            let at = u.int_in_range(0..=content.len() / 8)? * 8;
            let word = number(u)?.to_le_bytes();
            if let Some(place) = content.get_mut(at..at + 8) {
                place.copy_from_slice(&word);
            }
        }
        2 => {
            let size = u.int_in_range(0..=content.len() + 64)?;
            content.resize(size, 0);
        }
        3 => {
            files.remove(&name);
            return Ok(());
        }
        4 => {
            files.remove(&name);
            files.insert(new_name(u)?, content);
            return Ok(());
        }
        5 => {
            files.insert(new_name(u)?, content);
            return Ok(());
        }
        6 => {
            let other = u.choose(&names)?.clone();
            let others = files.insert(other, content);
            content = others.unwrap_or_default();
        }
        7..=9 => within(u, &name, &mut content)?,
        10 => {
            let metadata = Metadata {
                version: number(u)?,
                term: number(u)?,
                voted_for: number(u)?,
            };
            let name = *u.choose(&["metadata1", "metadata2"])?;
            files.insert(name.to_owned(), metadata.encode().to_vec());
            return Ok(());
        }
        _ => {
            let size = u.int_in_range(0..=40)?.min(u.len());
            content = u.bytes(size)?.to_vec();
        }
    }
    files.insert(name, content);
    Ok(())
}

/// Small, at an edge, or anything.
fn number(u: &mut Unstructured<'_>) -> Result<u64> {
    Ok(match u.int_in_range(0..=7)? {
        0 => u64::MAX - u.int_in_range(0..=1)?,
        1 => (1 << 62) + u.int_in_range(0..=2)? - 1,
        2 => u.arbitrary()?,
        3 => 1 << u.int_in_range(0..=63)?,
        _ => u.int_in_range(0..=20)?,
    })
}

fn new_name(u: &mut Unstructured<'_>) -> Result<String> {
    let (a, b, c) = (number(u)?, number(u)?, number(u)?);
    Ok(match u.int_in_range(0..=8)? {
        0 | 1 => format!("{a:016}-{b:016}"),
        2 => format!("open-{a}"),
        3 => format!("snapshot-{a}-{b}-{c}"),
        4 => format!("snapshot-{a}-{b}-{c}.meta"),
        5 => "metadata2".to_owned(),
        6 => format!("tmp-snapshot-{a}-{b}-{c}"),
        7 => "dq-promise".to_owned(),
        _ => "something".to_owned(),
    })
}

/// Changes what a file says, with checksums as they should be.
fn within(u: &mut Unstructured<'_>, name: &str, content: &mut Vec<u8>) -> Result<()> {
    if name.ends_with(".meta") {
        if let Ok(mut file) = SnapshotMetaFile::decode(content) {
            match u.int_in_range(0..=3)? {
                0 => file.configuration_index = number(u)?,
                1 => file.configuration.servers.clear(),
                2 => {
                    let twice = file.configuration.servers.clone();
                    file.configuration.servers.extend(twice);
                }
                _ => {
                    for server in &mut file.configuration.servers {
                        server.id = number(u)?;
                    }
                }
            }
            *content = file.encode();
        }
        return Ok(());
    }
    if name.starts_with("snapshot-") {
        let mut plain = Vec::new();
        let mut unpacked = FrameDecoder::new(&content[..]).take(CONTENT_MAX);
        if unpacked.read_to_end(&mut plain).is_ok() {
            if u.arbitrary()? {
                damage(u, &mut plain)?;
            } else if plain.len() > 8 {
                let at = u.int_in_range(0..=plain.len() / 8 - 1)? * 8;
                plain[at..at + 8].copy_from_slice(&number(u)?.to_le_bytes());
            }
            let mut packed = FrameEncoder::new(Vec::new());
            packed.write_all(&plain).expect("memory takes it");
            *content = packed.finish().expect("memory takes it");
        }
        return Ok(());
    }
    if let Ok(batches) = Batches::new(content) {
        let batches: Vec<_> = batches.map_while(std::result::Result::ok).collect();
        let mut segment = SEGMENT_HEAD.to_vec();
        for batch in &batches {
            for _ in 0..if u.ratio(7, 8)? {
                1
            } else {
                u.int_in_range(0..=2)?
            } {
                let mut entries = Vec::new();
                let mut data = Vec::new();
                for entry in &batch.entries {
                    let mut bytes = content[entry.data.clone()].to_vec();
                    let EntryHeader {
                        mut term, mut kind, ..
                    } = entry.header;
                    match u.int_in_range(0..=15)? {
                        0 => term = number(u)?,
                        1 => {
                            let kinds = [EntryKind::Command, EntryKind::Barrier, EntryKind::Change];
                            kind = *u.choose(&kinds)?;
                        }
                        2 => damage(u, &mut bytes)?,
                        3 => bytes.truncate(u.int_in_range(0..=bytes.len())?),
                        _ => {}
                    }
                    bytes.resize(bytes.len().next_multiple_of(8), 0);
                    let size = u32::try_from(bytes.len()).expect("entries are small");
                    entries.push(EntryHeader { term, kind, size });
                    data.push(bytes);
                }
                let pieces = data.iter().map(Vec::as_slice);
                encode_batch_head(&mut segment, &entries, pieces);
                segment.extend(data.concat());
            }
        }
        if name.starts_with("open-") {
            segment.resize(segment.len().next_multiple_of(1 << 16), 0);
        }
        *content = segment;
    }
    Ok(())
}
