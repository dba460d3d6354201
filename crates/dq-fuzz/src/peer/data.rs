//! Databases, snapshots and configurations that a leader may send, as they should be and otherwise.

use std::sync::OnceLock;

use arbitrary::{Result, Unstructured};
use bytes::Bytes;
use dq_raft::Payload;
use dq_server::registry::FINGERPRINT_TAG;
use dq_vfs::PAGE_SIZE;
use dq_wire::disk::fsm_snapshot::{DatabaseHead, encode_database_head, encode_snapshot_head};
use dq_wire::{Configuration, Role, Server, encode_frames_header};

use super::number;
use crate::session::damage;
use crate::shell::{Setup, Shell, exec, opening};

/// Where page 1 states the size of the database, in pages.
const SIZE_FIELD: std::ops::Range<usize> = 28..32;

/// What a database that was deleted looks like: one page that states no size.
const DELETED: [u8; PAGE_SIZE] = [0; PAGE_SIZE];

pub(crate) fn configuration(servers: &Configuration) -> Payload {
    let mut bytes = Vec::new();
    servers.encode(&mut bytes);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    Bytes::from(bytes).into()
}

/// Servers 1, 2, … with these roles.
pub(crate) fn servers(roles: &[Role]) -> Configuration {
    let server = |(id, role): (u64, &Role)| Server {
        id,
        address: id.to_string(),
        role: *role,
    };
    Configuration {
        servers: (1..).zip(roles).map(server).collect(),
    }
}

/// Some servers, mostly this node and two others.
pub(crate) fn some_servers(u: &mut Unstructured<'_>) -> Result<Configuration> {
    let roles = [
        Role::Voter,
        Role::Voter,
        Role::Voter,
        Role::Standby,
        Role::Spare,
    ];
    let mut some = Vec::new();
    for _ in 0..u.int_in_range(0..=5)? {
        some.push(*u.choose(&roles)?);
    }
    let mut servers = servers(&some);
    if u.ratio(1, 8)? {
        for server in &mut servers.servers {
            server.id = number(u)?;
            server.address = "x".repeat(u.int_in_range(0..=40)?);
        }
    }
    Ok(servers)
}

/// The bytes of a small database.
pub(crate) fn image() -> &'static [u8] {
    static IMAGE: OnceLock<Vec<u8>> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let mut shell = Shell::start(Setup::of(0, true));
        let id = shell.connect();
        let mut bytes = opening(b"d");
        exec(
            &mut bytes,
            b"CREATE TABLE t (a INTEGER PRIMARY KEY, b); INSERT INTO t (b) VALUES ('x'), (zeroblob(9000))",
        );
        shell.send(id, &bytes);
        shell.settle();
        let contents = shell.contents();
        contents.into_values().next().expect("one is open")
    })
}

/// A transaction that writes pages `first` to `last` of the image to database `d`.
pub(super) fn command(first: usize, last: usize) -> Payload {
    let count = image().len() / PAGE_SIZE;
    let last = last.min(count);
    let first = first.clamp(1, last);
    let numbers: Vec<u32> = (first..=last).map(page_number).collect();
    let pages = &image()[(first - 1) * PAGE_SIZE..last * PAGE_SIZE];
    Bytes::from(frames(b"d", 0, &numbers, pages)).into()
}

fn page_number(number: usize) -> u32 {
    u32::try_from(number).expect("few")
}

fn frames(name: &[u8], tx_id: u64, numbers: &[u32], pages: &[u8]) -> Vec<u8> {
    let mut bytes = encode_frames_header(name, tx_id, numbers.iter().copied());
    bytes.extend_from_slice(pages);
    bytes
}

fn name(u: &mut Unstructured<'_>) -> Result<&'static [u8]> {
    let names: [&[u8]; 8] = [b"d", b"d", b"d", b"d", b"e", b"", b"d-wal", &[b'x'; 1025]];
    Ok(*u.choose(&names)?)
}

/// A transaction that can be decoded, of which anything else may be wrong.
///
/// `fingerprint` tells that of a database as it is.
pub(crate) fn some_command(
    u: &mut Unstructured<'_>,
    fingerprint: impl Fn(&[u8]) -> Option<u64>,
) -> Result<Vec<u8>> {
    let name = name(u)?;
    let count = image().len() / PAGE_SIZE;
    let mut numbers = Vec::new();
    let mut pages = Vec::new();
    for _ in 0..u.int_in_range(0..=4)? {
        let from = u.int_in_range(0..=count - 1)?;
        let number = match u.ratio(3, 4)? {
            true => page_number(from + 1),
            false => u32::try_from(number(u)? & 0x7FFF_FFFF).expect("31 bits"),
        };
        let mut page = image()[from * PAGE_SIZE..(from + 1) * PAGE_SIZE].to_vec();
        match u.int_in_range(0..=7)? {
            0 => page.fill(0),
            1 => {
                let size = page_number(u.int_in_range(0..=12)?);
                page[SIZE_FIELD].copy_from_slice(&size.to_be_bytes());
            }
            2 => page[SIZE_FIELD].copy_from_slice(&number.to_be_bytes()),
            3 => {
                let at = u.choose_index(page.len())?;
                page[at] = u.arbitrary()?;
            }
            _ => {}
        }
        numbers.push(number);
        pages.extend(page);
    }
    if u.ratio(1, 16)? {
        (numbers, pages) = (vec![1], DELETED.to_vec());
    }
    let tx_id = match u.int_in_range(0..=5)? {
        0 => number(u)?,
        1 => FINGERPRINT_TAG | number(u)?,
        2 | 3 => fingerprint(name).map_or(0, |found| FINGERPRINT_TAG | found),
        _ => 0,
    };
    Ok(frames(name, tx_id, &numbers, &pages))
}

/// The data of a snapshot: one with the image, or with more, or not quite.
pub(crate) fn snapshot(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let count = match u.ratio(1, 2)? {
        true => 1,
        false => u.int_in_range(0..=3)?,
    };
    let stated = match u.ratio(1, 16)? {
        true => number(u)?,
        false => count,
    };
    encode_snapshot_head(&mut bytes, stated);
    for _ in 0..count {
        let mut main = image().to_vec();
        match u.int_in_range(0..=9)? {
            0 => main.clear(),
            1 => main.truncate(u.int_in_range(0..=3)? * PAGE_SIZE),
            2 => main = DELETED.to_vec(),
            3 => {
                let size = number(u)?.to_be_bytes();
                main[SIZE_FIELD].copy_from_slice(&size[4..]);
            }
            4 => {
                for _ in 0..u.int_in_range(1..=8)? {
                    let at = u.choose_index(main.len())?;
                    main[at] = u.arbitrary()?;
                }
            }
            _ => {}
        }
        let wal = match u.ratio(1, 4)? {
            true => wal(u)?,
            false => Vec::new(),
        };
        let head = DatabaseHead {
            name: name(u)?,
            main_size: match u.ratio(1, 32)? {
                true => number(u)? & !(PAGE_SIZE as u64 - 1),
                false => main.len() as u64,
            },
            wal_size: match u.ratio(1, 32)? {
                true => number(u)?,
                false => wal.len() as u64,
            },
        };
        encode_database_head(&mut bytes, &head);
        bytes.extend(main);
        bytes.extend(wal);
    }
    if u.ratio(1, 4)? {
        damage(u, &mut bytes)?;
    }
    Ok(bytes)
}

/// What old releases put behind a database.
pub(crate) fn wal(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let mut wal = vec![0; 32];
    for _ in 0..u.int_in_range(0..=3)? {
        let from = u.int_in_range(0..=image().len() / PAGE_SIZE - 1)?;
        let number = match u.ratio(3, 4)? {
            true => page_number(from + 1),
            false => number(u)? as u32,
        };
        let size = match u.ratio(1, 2)? {
            true => page_number(image().len() / PAGE_SIZE),
            false => u.int_in_range(0..=8)?,
        };
        wal.extend_from_slice(&number.to_be_bytes());
        wal.extend_from_slice(&size.to_be_bytes());
        wal.extend_from_slice(&[0; 16]);
        wal.extend_from_slice(&image()[from * PAGE_SIZE..(from + 1) * PAGE_SIZE]);
    }
    Ok(wal)
}
