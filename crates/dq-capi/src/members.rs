//! The members of a cluster as C describes them, for recovery.

use std::ffi::{CStr, c_char, c_int, c_ulonglong};

use dq_raft::log::data_dir::check_members;
use dq_wire::{Configuration, Role, Server};

use crate::code::{Result, error, misuse};

/// `dqlite_node_info`: a member, a voter.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct NodeInfo {
    /// Its id.
    pub id: c_ulonglong,
    /// Its address.
    pub address: *const c_char,
}

/// Words of `dqlite_node_info_ext` that have a meaning: size, id, address, role.
const WORDS: usize = 4;

/// Reads an array of `dqlite_node_info`.
///
/// # Safety
/// `infos` points to `count` of them.
pub(crate) unsafe fn read_plain(infos: *const NodeInfo, count: c_int) -> Result<Configuration> {
    let count = usable(infos.is_null(), count)?;
    // SAFETY: the caller's promise.
    let infos = unsafe { std::slice::from_raw_parts(infos, count) };
    let mut servers = Vec::new();
    for info in infos {
        servers.push(Server {
            id: info.id,
            // SAFETY: a C string, says the header.
            address: unsafe { read_address(info.address) }?,
            role: Role::Voter,
        });
    }
    check(servers)
}

/// Reads an array of `dqlite_node_info_ext`. Each element says how large it is, and the next one
/// begins there: a program may have been built with a larger structure than ours.
///
/// # Safety
/// `infos` points to `count` of them, one after the other.
pub(crate) unsafe fn read_extended(infos: *const u64, count: c_int) -> Result<Configuration> {
    let count = usable(infos.is_null(), count)?;
    let mut at = infos;
    let mut servers = Vec::new();
    for _ in 0..count {
        // SAFETY: an element begins here, and its first word is its size.
        let size = usize::try_from(unsafe { at.read() }).unwrap_or(0);
        if size % 8 != 0 || !(WORDS * 8..=4096).contains(&size) {
            return Err(misuse(format!("{size} is no size of dqlite_node_info_ext")));
        }
        // SAFETY: the element has as many words as it says.
        let words = unsafe { std::slice::from_raw_parts(at, size / 8) };
        if words[WORDS..].iter().any(|word| *word != 0) {
            return Err(misuse("dqlite_node_info_ext holds what is not understood"));
        }
        let role = match words[3] {
            0 => Role::Voter,
            1 => Role::Standby,
            2 => Role::Spare,
            other => return Err(misuse(format!("{other} is no role"))),
        };
        let address = usize::try_from(words[2]).unwrap_or(0) as *const c_char;
        servers.push(Server {
            id: words[1],
            // SAFETY: a C string, says the header.
            address: unsafe { read_address(address) }?,
            role,
        });
        // SAFETY: the next element begins where this one ends, or the array does.
        at = unsafe { at.add(size / 8) };
    }
    check(servers)
}

fn usable(is_null: bool, count: c_int) -> Result<usize> {
    match usize::try_from(count) {
        Ok(count) if count > 0 && !is_null => Ok(count),
        _ => Err(misuse("a cluster has at least one member")),
    }
}

/// # Safety
/// NULL or a C string.
unsafe fn read_address(address: *const c_char) -> Result<String> {
    if address.is_null() {
        return Err(misuse("a member has no address"));
    }
    // SAFETY: the caller's promise.
    let address = unsafe { CStr::from_ptr(address) };
    match address.to_str() {
        Ok(text) if !text.is_empty() => Ok(text.to_owned()),
        _ => Err(error("a member's address is empty or not UTF-8")),
    }
}

fn check(servers: Vec<Server>) -> Result<Configuration> {
    let configuration = Configuration { servers };
    check_members(&configuration).map_err(error)?;
    Ok(configuration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn larger_structures_are_read_by_their_own_size() {
        let (one, two) = (c"10.0.0.1:9000", c"10.0.0.2:9000");
        let words = [
            [40, 1, one.as_ptr() as u64, 0, 0],
            [40, 2, two.as_ptr() as u64, 2, 0],
        ]
        .concat();
        // SAFETY: two elements of five words each.
        let read = unsafe { read_extended(words.as_ptr(), 2) }.unwrap();
        assert_eq!(read.servers[1].id, 2);
        assert_eq!(read.servers[1].address, "10.0.0.2:9000");
        assert_eq!(read.servers[1].role, Role::Spare);
    }

    #[test]
    fn what_is_not_understood_is_misuse() {
        let address = c"10.0.0.1:9000".as_ptr() as u64;
        for words in [
            [24, 1, address, 0, 0],
            [36, 1, address, 0, 0],
            [40, 1, address, 0, 7],
            [32, 1, address, 3, 0],
            [32, 1, 0, 0, 0],
        ] {
            // SAFETY: one element of at most five words.
            let failure = unsafe { read_extended(words.as_ptr(), 1) }.unwrap_err();
            assert_eq!(failure.code, crate::code::MISUSE, "{words:?}");
        }
        // SAFETY: nothing is read.
        let failure = unsafe { read_extended([0].as_ptr(), 0) }.unwrap_err();
        assert_eq!(failure.code, crate::code::MISUSE);
    }

    #[test]
    fn a_cluster_of_twins_or_without_voters_is_refused() {
        let (one, two) = (c"a".as_ptr() as u64, c"b".as_ptr() as u64);
        for words in [
            [32, 1, one, 0, 32, 1, two, 0],
            [32, 1, one, 0, 32, 2, one, 0],
            [32, 1, one, 1, 32, 2, two, 2],
        ] {
            // SAFETY: two elements of four words each.
            let failure = unsafe { read_extended(words.as_ptr(), 2) }.unwrap_err();
            assert_eq!(failure.code, crate::code::ERROR, "{words:?}");
        }
    }
}
